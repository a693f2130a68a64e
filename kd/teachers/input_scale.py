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
from kd.teachers.contract import InputContract, InputScale, OwnInputs, find_scale
from kd.teachers.contract_sources import IN_WORDS, USUAL
from kd.teachers.fitted_head import FittedHead
from kd.teachers.lookup import LogitLookup

SAMPLES = 512
_SCREENED = 128  # samples on which all candidates are tried; only the best one sees the others
_CLEAR = 3.0  # standard deviations by which another normalisation must be right more often
_FAR = 2.0  # standard deviations between a batch norm's running mean and the mean here, averaged over its channels
_GREY = (0.449,), (0.226,)  # means over ImageNet's channels


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
    if scale is None or accuracy > 1 - 0.02:
        return same
    channels = inputs.shape[1] if own is None else own.shape_for(inputs.shape[1:])[0]
    candidates = _list_candidates(scale, inputs, channels) | dict(further or {})
    if own is not None:
        candidates = _with_inputs_of(own, candidates, channels)
    if not candidates:
        return same
    few = slice(_SCREENED)
    scored = [
        (*_score(OwnInputs(network, contract, scale), inputs[few], labels[few], members), name)
        for name, contract in candidates.items()
    ]
    name = max(scored, key=lambda item: (int(item[0].sum()), -item[1]))[2]
    other, _ = _score(OwnInputs(network, candidates[name], scale), inputs, labels, members)
    accuracy = float(other.float().mean())
    return same._replace(contract=candidates[name], accuracy=accuracy) if _is_clear(right, other, labels) else same


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
    distance = 0.0 if has_contract else _measure_distance(teacher, dataset)
    if distance > _FAR:
        return (
            f"the running mean of its first batch norm is {distance:.1f} standard deviations away from the mean here. "
            "It was probably trained on inputs of another scale; see --teacher-input"
        )
    return None


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
        usual_images["imagenet"] = _GREY
    unit = 1.0
    if not scale.is_bytes:
        stored = inputs.double() * scale.std + scale.mean
        unit = 255.0 if float(stored.max()) > 1.5 else 1.0  # numbers up to 1, or up to 255
    contracts = {
        name: InputContract(tuple(unit * m for m in mean), tuple(unit * s for s in std), name=name)
        for name, (mean, std) in usual_images.items()
    }
    other_numbers = {name for name in contracts if unit != 1.0 or (name == "imagenet" and channels == 1)}
    contracts |= {name: _rename(contracts[name]) for name in other_numbers}
    return contracts if scale.is_bytes else {"stored": InputContract(name="stored"), **contracts}


def _rename(contract: InputContract) -> InputContract:
    """Return the contract named by its numbers, as ``--teacher-input`` takes them."""
    numbers = (",".join(f"{value:g}" for value in values) for values in (contract.mean, contract.std))
    return dataclasses.replace(contract, name="mean={} std={}".format(*numbers))


def _is_clear(right: Tensor, other: Tensor, labels: Tensor) -> bool:
    """Return whether the other mask [B] of right samples is better by more than chance, also for a poor network."""
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    if gained - lost <= max(_CLEAR * (gained + lost) ** 0.5, 0.02 * len(labels)):
        return False
    chance = float(torch.bincount(labels.clamp(min=0)).max()) / len(labels)
    accuracy, own = float(other.float().mean()), float(right.float().mean())
    return accuracy > (1 + chance) / 2 or accuracy > max(4 * chance, 2 * own)


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


def _measure_distance(teacher: nn.Module, dataset: Dataset[Any]) -> float:
    """Return the distance of the first batch norm's running mean from these inputs', in its standard deviations."""
    norms = ((name, module) for name, module in teacher.named_modules() if isinstance(module, _BatchNorm))
    name, norm = next(norms, ("", None))
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return 0.0
    rows = np.random.default_rng(0).permutation(length_of(dataset))[:_SCREENED].tolist()
    inputs, layer = collate([dataset[row] for row in rows])[0], f"{name}:input"
    with evaluating(teacher), torch.no_grad(), capture(teacher, layer) as features:
        teacher(inputs.clone().to(device_of(teacher)))
    means = features[layer].movedim(1, 0).flatten(1).mean(dim=1)
    return float(((means - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt()).mean())
