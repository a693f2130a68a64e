"""Choose the normalisation that a loaded teacher was trained on, by its accuracy on labelled samples.

Models get inputs normalised with the training data's mean and standard deviation. A teacher trained elsewhere may
expect another normalisation, and its accuracy may then fall to a half or to chance. Accuracy on labelled samples
reveals this, and so do the running statistics of the first batch norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from kd.data.datasets import collate, length_of
from kd.models.features import capture
from kd.models.inference import device_of, evaluating
from kd.models.main_output import take_logits
from kd.teachers.class_map import map_outputs, pad_members
from kd.teachers.contract import InputContract, InputScale, OwnInputs, find_scale, with_normalisation_of
from kd.teachers.contract_sources import GREY, IN_WORDS, USUAL
from kd.teachers.fitted_head import FittedHead
from kd.teachers.lookup import LogitLookup

SAMPLES = 512
_SCREENED = 128  # samples on which all candidates are tried; only the best one sees the others
_GOOD = 0.98  # accuracy that leaves no doubt
_CLEAR = 3.0  # standard deviations by which another normalisation must be right more often
# Limits of a ``_Distance``. Measured on small networks for scikit-learn's digits: at most 0.04 and 1.5 for teachers of
# the data's scale, also if trained with augmentation, noise, mixup or on one class only. Of other scales, all that cost
# more than 5 % of accuracy exceed one of them, such as MNIST (0.99 and 1.8) or Fashion-MNIST (0.49 and 2.5).
_FAR, _FACTOR = 0.5, 2.0
_FEWEST_STEPS = 50  # with fewer, running statistics still contain their initial values
_GREY = (0.449,), (0.226,)  # means over ImageNet's channels
_BGR = InputContract(channels=3, bgr=True, name="order=bgr")


class _Distance(NamedTuple):
    """Distance of the first batch norm's inputs from its running statistics, averaged over its channels.

    Attributes:
        mean: of the means, in standard deviations.
        factor: of the standard deviations, at least 1; a geometric mean.
    """

    mean: float = 0.0
    factor: float = 1.0

    @property
    def is_far(self) -> bool:
        return self.mean > _FAR or self.factor > _FACTOR


class ScaleChoice(NamedTuple):
    """The normalisation of a teacher's inputs, and its accuracy with it.

    Attributes:
        contract: None for the data's own normalisation.
        accuracy: fraction of the samples classified correctly under the contract, in [0, 1].
        own_accuracy: the same under the data's own normalisation.
        samples: number of samples.
    """

    contract: InputContract | None
    accuracy: float
    own_accuracy: float
    samples: int

    def describe(self, noun: str) -> str:
        """Return the choice in words, for samples of this kind, such as "training images"."""
        assert self.contract is not None
        name = IN_WORDS.get(self.contract.name, self.contract.name)
        return f"{name} ({self.accuracy:.1%} of {self.samples} {noun}; {self.own_accuracy:.1%} with the data's own)"


def choose_scale(
    network: nn.Module,
    dataset: Dataset[Any],
    *,
    members: Sequence[Sequence[int]] | None = None,
    further: Mapping[str, InputContract] | None = None,
    own: InputContract | None = None,
    seed: int = 0,
) -> ScaleChoice:
    """Return the normalisation under which the network is clearly right more often; the data's own if none is.

    Runs the network in eval mode on at most ``SAMPLES`` labelled samples.

    Args:
        dataset: samples (input, label); the usual scales are tried only if it stores arrays.
        members: the network's outputs for each class of the data (``kd.teachers.class_map.find_members``); None if
            output k is class k.
        further: contracts to try besides the usual ones, by name.
        own: inputs of the network with the data's own normalisation, if their size, channels or order are others. All
            candidates get these.
    """
    rows = np.random.default_rng(seed).permutation(length_of(dataset))[:SAMPLES].tolist()
    inputs, labels = collate([dataset[row] for row in rows])[:2]
    scale = find_scale(dataset)
    plain = network if own is None or scale is None else OwnInputs(network, own, scale)
    right, _ = _score(plain, inputs, labels, members)
    accuracy = float(right.float().mean())
    same = ScaleChoice(own, accuracy, accuracy, len(labels))
    if scale is None or accuracy > _GOOD:
        return same
    channels = inputs.shape[1] if own is None else own.shape_for(inputs.shape[1:])[0]
    candidates = _list_candidates(scale, inputs, channels) | dict(further or {})
    if own is not None:
        candidates = _with_inputs_of(own, candidates, channels)
    chosen = _choose_clear(network, candidates, scale, inputs, labels, members, right)
    if chosen is None and own is None and _may_be_bgr(scale, inputs) and _is_doubtful(network, dataset, right, labels):
        bgr = with_normalisation_of(scale, _BGR, inputs.shape[1:])
        candidates = {bgr.name: bgr} | _with_inputs_of(_BGR, candidates, 3)
        chosen = _choose_clear(network, candidates, scale, inputs, labels, members, right)
    return same if chosen is None else same._replace(contract=chosen[0], accuracy=float(chosen[1].float().mean()))


def _choose_clear(
    network: nn.Module,
    candidates: Mapping[str, InputContract],
    scale: InputScale,
    inputs: Tensor,
    labels: Tensor,
    members: Sequence[Sequence[int]] | None,
    right: Tensor,
) -> tuple[InputContract, Tensor] | None:
    """Return the best contract, with its mask [B] of right samples; None unless it is better by more than chance."""
    if not candidates:
        return None
    few = slice(_SCREENED)
    scored = [
        (*_score(OwnInputs(network, contract, scale), inputs[few], labels[few], members), name)
        for name, contract in candidates.items()
    ]
    name = max(scored, key=lambda item: (int(item[0].sum()), -item[1]))[2]
    other, _ = _score(OwnInputs(network, candidates[name], scale), inputs, labels, members)
    return (candidates[name], other) if _is_clear(right, other, labels) else None


def _may_be_bgr(scale: InputScale, inputs: Tensor) -> bool:
    return scale.is_image and inputs.shape[1] == 3 and {scale.mean.numel(), scale.std.numel()} <= {1, 3}


def _is_doubtful(network: nn.Module, dataset: Dataset[Any], right: Tensor, labels: Tensor) -> bool:
    """Return whether it is worth the time to try more contracts: the network is poor, or its batch norm differs."""
    return float(right.float().mean()) <= (1 + _chance(labels)) / 2 or _measure_distance(network, dataset).is_far


def explain_input_scale(teacher: nn.Module, dataset: Dataset[Any], *, seed: int = 0) -> str | None:
    """Return a reason to doubt that the teacher was trained on inputs scaled like these; None if there is none.

    Args:
        dataset: samples (input, label).
    """
    if any(isinstance(module, LogitLookup) for module in teacher.modules()):
        return None  # stored outputs are looked up by the inputs
    has_contract = any(isinstance(module, OwnInputs) for module in teacher.modules())
    was_fitted = isinstance(teacher, FittedHead)  # on these inputs, so its accuracy is no evidence about others
    choice = None if has_contract or was_fitted else choose_scale(teacher, dataset, seed=seed)
    if choice and choice.contract:
        words = IN_WORDS.get(choice.contract.name, choice.contract.name)
        return (
            f"it is right on {choice.own_accuracy:.1%} of {choice.samples} samples normalised with this data's mean "
            f"and standard deviation, but on {choice.accuracy:.1%} of them normalised as {words}. Give it such inputs: "
            f"--teacher-input {choice.contract.name}, in Python kd.teachers.contract.OwnInputs"
        )
    if has_contract or (choice and choice.own_accuracy > _GOOD):
        return None
    distance = _measure_distance(teacher, dataset)
    if not distance.is_far:
        return None
    return (
        f"the running mean of its first batch norm is {distance.mean:.1f} standard deviations away from the mean here, "
        f"and the standard deviations differ by a factor of {distance.factor:.1f}. It was probably trained on inputs "
        "of another scale; see --teacher-input"
    )


def _with_inputs_of(
    own: InputContract, candidates: Mapping[str, InputContract], channels: int
) -> dict[str, InputContract]:
    """Return those candidates that fit these channels, with the size, channels, order and scaling of a contract.

    If the order is BGR, usual numbers for each channel are tried in both orders, because programs that read images as
    BGR often leave the numbers in the order RGB.
    """
    fields = {name: getattr(own, name) for name in ("size", "crop", "channels", "interpolation", "bgr")}
    fitting = [c for c in candidates.values() if {len(c.mean), len(c.std)} <= {1, channels}]
    if own.bgr:
        reversed_ = [dataclasses.replace(c, mean=c.mean[::-1], std=c.std[::-1]) for c in fitting]
        fitting += [_rename(c) for c in reversed_ if c not in fitting]
    return {c.name: dataclasses.replace(c, **fields, name=f"{c.name} {own.name}".strip()) for c in fitting}


def _list_candidates(scale: InputScale, inputs: Tensor, channels: int) -> dict[str, InputContract]:
    """Return the usual scales for inputs [B, ...] of this kind, by name.

    Args:
        channels: of the network's images.
    """
    if not scale.is_image:
        usual = {"0-1": 1.0, "0-255": 1 / 255} if scale.is_bytes else {"stored": 1.0}
        return {name: InputContract(std=(std,), name=name) for name, std in usual.items()}
    usual_images = {name: moments for name, moments in USUAL.items() if len(moments[0]) in (1, channels)}
    if channels == 1:
        usual_images |= {"imagenet": _GREY, **GREY}
    contracts = {} if scale.is_bytes else {"stored": InputContract(name="stored")}
    for unit in [1.0] if scale.is_bytes else _list_units(inputs.double() * scale.std + scale.mean):
        for name, (mean, std) in usual_images.items():
            contract = InputContract(tuple(unit * m for m in mean), tuple(unit * s for s in std), name=name)
            has_other_numbers = unit != 1.0 or (name == "imagenet" and channels == 1)
            contract = _rename(contract) if has_other_numbers else contract
            contracts.setdefault(contract.name, contract)
    return contracts


def _list_units(stored: Tensor) -> list[float]:
    """Return the numbers that white may have in stored images: 1, or 255 and the largest value, such as 16 or 4095."""
    low, high = float(stored.min()), float(f"{float(stored.max()):.6g}")
    if high <= 1.5:
        return [1.0]
    return [255.0] if low < -1e-3 * high or high == 255 else [255.0, high]


def _rename(contract: InputContract) -> InputContract:
    """Return the contract named by its numbers, as ``--teacher-input`` takes them."""
    numbers = (",".join(f"{value:g}" for value in values) for values in (contract.mean, contract.std))
    return dataclasses.replace(contract, name="mean={} std={}".format(*numbers))


def _is_clear(right: Tensor, other: Tensor, labels: Tensor) -> bool:
    """Return whether the other mask [B] of right samples is better by more than chance, also for a poor network."""
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    if gained - lost <= max(_CLEAR * (gained + lost) ** 0.5, 0.02 * len(labels)):
        return False
    chance = _chance(labels)
    accuracy, own = float(other.float().mean()), float(right.float().mean())
    return accuracy > (1 + chance) / 2 or accuracy > max(4 * chance, 2 * own)


def _chance(labels: Tensor) -> float:
    """Return the accuracy of always predicting the most frequent class."""
    return float(torch.bincount(labels.clamp(min=0)).max()) / len(labels)


def _score(
    network: nn.Module, inputs: Tensor, labels: Tensor, members: Sequence[Sequence[int]] | None
) -> tuple[Tensor, float]:
    """Return for each sample whether the network's class is its label, [B] bool, and the mean cross-entropy."""
    device = device_of(network)
    with evaluating(network), torch.no_grad():
        batches: Any = inputs.clone().split(128)  # type: ignore[no-untyped-call]
        logits = torch.cat([take_logits(network(batch.to(device))).float().cpu() for batch in batches])
    logits = logits if members is None else map_outputs(logits, pad_members(members))
    known = (labels >= 0) & (labels < logits.shape[1])
    loss = float(F.cross_entropy(logits[known], labels[known])) if bool(known.any()) else 0.0
    return logits.argmax(dim=1) == labels, loss if loss == loss else float("inf")


def _measure_distance(teacher: nn.Module, dataset: Dataset[Any]) -> _Distance:
    norms = ((name, module) for name, module in teacher.named_modules() if isinstance(module, _BatchNorm))
    name, norm = next(norms, ("", None))
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return _Distance()
    steps = 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)
    if 0 < steps < _FEWEST_STEPS:  # 0: converted from another framework
        return _Distance()
    rows = np.random.default_rng(0).permutation(length_of(dataset))[:_SCREENED].tolist()
    inputs, layer = collate([dataset[row] for row in rows])[0], f"{name}:input"
    with evaluating(teacher), torch.no_grad(), capture(teacher, layer) as features:
        teacher(inputs.clone().to(device_of(teacher)))
    values, variance = features[layer].movedim(1, 0).flatten(1).double(), norm.running_var.double() + norm.eps
    means = (values.mean(dim=1) - norm.running_mean).abs() / variance.sqrt()
    factors = ((values.var(dim=1, unbiased=False) + norm.eps) / variance).log().abs() / 2
    return _Distance(float(means.mean()), float(factors.mean().exp()))
