"""Fitted heads: a linear classifier of a frozen network's penultimate features, for teachers of other classes.

teacher = attach_head(network, example, classes=10)
fit_head(teacher, training, validation, title="teacher")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.checks import require_finite_logits
from kd.console import progress, say
from kd.models.features import average_positions, capture, detach_at, find_network
from kd.models.inference import Predictions, device_of, evaluating
from kd.models.stages import record_outputs
from kd.seeding import seeded
from kd.storage.resources import require_memory
from kd.storage.run_folder import explain_saved_state, run_step
from kd.teachers.cache import TEACHER_BATCH_SIZE, collect_logits

# Weights of the L2 penalty beside the mean cross-entropy, from strong to weak, for standardised features.
PENALTIES = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
_MOST_STEPS = 300  # of L-BFGS, per penalty
_HEADS = (nn.Linear, nn.modules.conv._ConvNd)


class PenultimateFeatures(nn.Module):
    """A network that returns its features [B, D] before the last layer, averaged over positions.

    Args:
        layer: name for ``kd.models.features.capture``, such as ``fc:input``; "" is the network's own output.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.layer:
            return average_positions(self.model(inputs).float())
        with capture(self.model, self.layer) as captured:
            self.model(inputs)
        features = captured[self.layer]
        if len(features) != len(inputs):
            raise ValueError(
                f"{self.layer.removesuffix(':input')} of {type(self.model).__name__} should run once on the whole "
                f"batch. Got {len(features)} rows of features for {len(inputs)} samples. Return features [B, D] from a "
                "FILE.py:NAME"
            )
        return average_positions(features.float())


class FittedHead(nn.Module):
    """A network whose last layer is replaced by a linear layer, which ``fit_head`` fits; returns logits [B, K]."""

    wraps = "features.model"  # see kd.models.features.find_network

    def __init__(self, features: PenultimateFeatures, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        with seeded(0):  # replaced by the fit; the same in every process
            self.output = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(inputs))
        return logits


def attach_head(model: nn.Module, inputs: Tensor, *, classes: int) -> FittedHead:
    """Return the network with a new head, not yet fitted, in place of its last linear or convolutional layer.

    The network has no head if its last layer with parameters is of another kind, such as a norm or a convolution of
    3 × 3 pixels, if it is a gate or a residual branch, or if there is none. Its output is then used as features.
    Examples are backbones and tables of stored embeddings.

    Args:
        inputs: an example batch, to find the layer.
        classes: number of classes of the data.

    Raises:
        ValueError: the features are not one vector per sample.
    """
    modules = dict(model.named_modules())
    layers = [(name, output) for name, output in record_outputs(model, inputs) if _is_layer(modules[name])]
    head = _find_head(model, layers, inputs)
    features = PenultimateFeatures(model, f"{head}:input" if head else "").eval()
    with torch.no_grad():
        example = features(inputs.clone().to(device_of(model)))
    if example.ndim != 2 or len(example) != len(inputs) or not example.shape[1]:
        raise ValueError(
            f"the features of {type(model).__name__} should be a vector per sample, so that a head can be fitted. Got "
            f"{list(example.shape)} for {len(inputs)} samples. Return them as [B, D] from a FILE.py:NAME."
        )
    return FittedHead(features, example.shape[1], classes)


def _find_head(model: nn.Module, layers: Sequence[tuple[str, Tensor]], inputs: Tensor) -> str:
    """Return the name of the last layer if it is a classifier, else "".

    A classifier is linear, or a convolution that sees single positions or all, and the output depends on the inputs
    through it alone. Other convolutions, gates and residual branches are the last layers of a backbone.

    Args:
        layers: names and outputs of the layers in order of execution.
    """
    if not layers:
        return ""
    (last, output), module = layers[-1], model.get_submodule(layers[-1][0])
    if isinstance(module, nn.modules.conv._ConvNd):
        may_classify = max(module.kernel_size) == 1 or output.shape[2:].numel() == 1
    else:
        may_classify = isinstance(module, nn.Linear)
    return last if may_classify and not _is_bypassed(model, [name for name, _ in layers], last, inputs) else ""


def _is_bypassed(model: nn.Module, layers: Sequence[str], last: str, inputs: Tensor) -> bool:
    """Return whether gradients reach the inputs or earlier layers even if the output of the last one is detached."""
    modules, given = dict(model.named_modules()), inputs.clone().to(device_of(model))
    sources = [p for name in layers if name != last for p in modules[name].parameters() if p.requires_grad]
    if given.is_floating_point():
        sources.append(given.requires_grad_())
    with evaluating(model), torch.enable_grad(), detach_at(model, last):
        output = model(given + 0)  # a model may change its inputs in place
    if not sources or not output.requires_grad:
        return False
    return any(gradient is not None for gradient in torch.autograd.grad(output.sum(), sources, allow_unused=True))


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer with parameters, not a container of layers."""
    has_parts = any(True for child in module.children() for _ in child.parameters())
    return isinstance(module, _HEADS) or (not has_parts and any(True for _ in module.parameters()))


def fit_head(teacher: FittedHead, training: Dataset[Any], validation: Dataset[Any], *, title: str) -> None:
    """Fit the head of a teacher by multinomial logistic regression on its features of the training split, in place.

    Features are standardised. The L2 penalty of ``PENALTIES`` with the lowest cross-entropy on the validation split is
    used. In a run, features and head are resumable steps.

    Args:
        training, validation: samples (input, label), every one with a label.
        title: of the teacher, and prefix of the names of the steps.

    Raises:
        ValueError: the features are not finite.
    """
    splits = {"training": training, "validation": validation}
    fitted = {name: _collect_features(f"{title}-features-{name}", teacher, split) for name, split in splits.items()}
    step = f"{title}-head"
    splits_by_name, classes = {name: tuple(split) for name, split in fitted.items()}, teacher.output.out_features
    inputs = {"splits": splits_by_name, "penalties": PENALTIES, "classes": classes}
    state = run_step(step, inputs, lambda _: _fit(fitted["training"], fitted["validation"], classes))
    with explain_saved_state(step):
        penalty = float(state["penalty"])
        teacher.output.load_state_dict({name: state[name].float() for name in ("weight", "bias")})
    where = teacher.features.layer.removesuffix(":input").removeprefix(f"{find_network(teacher.features.model)}.")
    say(
        f"{title}: linear head fitted on {teacher.output.in_features:,} features"
        f"{f' (input of {where})' if where else ''} of {len(fitted['training'].labels):,} training samples; L2 penalty "
        f"{penalty:g}, chosen on validation"
    )


def _collect_features(step: str, teacher: FittedHead, dataset: Dataset[Any]) -> Predictions:
    """Return the features [N, D] and labels of a split; a step of the run."""
    model, size = teacher.features, TEACHER_BATCH_SIZE

    def produce(_: object) -> dict[str, Any]:
        with progress(step, steps=-(-len(dataset) // size)) as advance:  # type: ignore[arg-type]  # has no __len__
            return collect_logits(model, dataset, batch_size=size, on_batch=advance)._asdict()

    state = run_step(
        step, {"model": model, "dataset": dataset, "batch_size": size, "device": device_of(model)}, produce
    )
    with explain_saved_state(step):
        features, labels = state["logits"], state["labels"]
        if features.ndim != 2 or features.shape[1] != teacher.output.in_features or len(features) != len(labels):
            raise ValueError(f"features must be [N, {teacher.output.in_features}]")
    require_finite_logits(
        f"features of the {step.partition('-features')[0]}", features, "Check its weights and inputs."
    )
    return Predictions(features, labels)


def _fit(training: Predictions, validation: Predictions, classes: int) -> dict[str, Tensor]:
    """Return weight [K, D] and bias [K] float32 for features that are not standardised, and the chosen penalty."""
    # float64 copies, the standardised ones and temporaries: a peak of about 28 bytes per value
    require_memory(28 * training.logits.numel(), "fitting a head", "Use fewer training samples (--limit).")
    features = training.logits.double()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = torch.where(std > 1e-6 * (mean.abs() + std.mean()), std, torch.inf)  # a constant feature has no weight
    features = (features - mean) / scale
    held_back = (validation.logits.double() - mean) / scale
    start = torch.zeros(classes, features.shape[1] + 1, dtype=torch.float64)
    best, lowest, penalty = start, torch.inf, PENALTIES[0]
    for candidate in PENALTIES:
        start = _minimise(features, training.labels, candidate, start)
        loss = float(F.cross_entropy(_apply(start, held_back), validation.labels))
        if loss >= lowest:
            break  # weaker penalties fit the training split even more closely, and take longest
        best, lowest, penalty = start, loss, candidate
    weight = best[:, :-1] / scale
    bias = best[:, -1] - weight @ mean
    return {"weight": weight.float(), "bias": bias.float(), "penalty": torch.tensor(penalty, dtype=torch.float64)}


def _apply(parameters: Tensor, features: Tensor) -> Tensor:
    return features @ parameters[:, :-1].T + parameters[:, -1]


def _minimise(features: Tensor, labels: Tensor, penalty: float, start: Tensor) -> Tensor:
    """Minimise the mean cross-entropy plus ½ · penalty · ‖weight‖² by L-BFGS; deterministic."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=_MOST_STEPS, history_size=20, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        squares = parameters[:, :-1].square().sum()
        loss = F.cross_entropy(_apply(parameters, features), labels) + 0.5 * penalty * squares
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()
