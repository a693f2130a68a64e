"""Objectives of the user's own methods (``kd.methods.own``), with checks of what the user's functions return."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kd.checks import require
from kd.losses.precision import widen
from kd.methods.objectives import WrappedObjective, require_teacher_logits, supervised_where_labelled
from kd.methods.results import check_result, describe, is_real_scalar
from kd.methods.table import Setting
from kd.seeding import seeded
from kd.types import Batch, Objective

_METRICS = ("acc", "ce")  # of all commands: kd.training.batch_metrics.METRICS


class OwnObjective(WrappedObjective):
    """A user's objective.

    Args:
        name: of the method, for errors.
        source: digest of the user's files. As an attribute it is part of a training's key, so an edit of any function
            in these files trains the distilled student again.
    """

    def __init__(self, objective: Objective, *, name: str, source: str) -> None:
        super().__init__(objective)
        self.name, self.source = name, source
        if lazy := next((key for key, weight in self.named_parameters() if is_lazy(weight)), None):
            raise ValueError(
                f"{name} must give all its weights a shape when it is built. Got {lazy.removeprefix('objective.')} of "
                "a lazy module. Use nn.Linear(width, …) for nn.LazyLinear(…); the factory may run a model on batch[0] "
                "to find a width."
            )

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return check_result(self.objective(model, batch), name=self.name, metrics=_METRICS)


def weigh_loss(
    loss: Callable[..., Any], inputs: Collection[str], settings: Mapping[str, Setting], *, name: str
) -> Objective:
    """Return the objective ``alpha · CE + (1 − alpha) · loss``.

    Args:
        loss: takes the inputs by name: student_logits and teacher_logits [B, K] in float32 or wider, and perhaps
            labels [B]; then the settings, without alpha. Returns a tensor without dimensions.
        inputs: names of the inputs it takes.
        settings: alpha in [0, 1], and the settings of the loss.
        name: of the method, for errors.
    """
    own = dict(settings)
    alpha = float(own.pop("alpha"))
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the loss gets 1 - alpha")

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        output, terms = supervised_where_labelled(model, batch)
        given = {"student_logits": widen(output), "teacher_logits": widen(batch[2]), "labels": batch[1]}
        versions = _version(output), _version(batch[2])
        value = loss(**{key: given[key] for key in sorted(inputs)}, **own)
        if versions != (_version(output), _version(batch[2])):
            raise ValueError(
                f"{name} changes its logits in place, so the output of the model would change too. Use operations that "
                "return new tensors, such as div() for div_() and x = x / t for x /= t."
            )
        if not is_real_scalar(value):
            raise ValueError(
                f"{name} must return a real tensor without dimensions, such as a mean over the batch. Got "
                f"{describe(value)} instead."
            )
        if output.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise ValueError(
                f"the loss of {name} has no gradient. It must be computed from student_logits with torch, without "
                "detach(), item() or argmax()."
            )
        return output, {"hard": alpha * terms["hard"], "soft": (1 - alpha) * value}

    return objective


def bind_settings(objective: Objective, settings: Mapping[str, Setting]) -> Objective:
    """Return the objective with its settings."""
    return partial(objective, **settings) if settings else objective


def require_no_models(objective: Objective, models: Mapping[str, nn.Module], *, name: str) -> None:
    """Raise ``ValueError`` if the objective has a model's parameters, which it would train and save as its own."""
    trained = {id(parameter) for parameter in objective.parameters()} if isinstance(objective, nn.Module) else set()
    for role, model in models.items():
        if any(id(parameter) in trained for parameter in model.parameters()):
            raise ValueError(
                f"the objective of {name} has the {role} as a submodule, so the {role}'s weights would be trained as "
                f"its own. Store it in a tuple, which torch does not register: self.{role} = ({role},)."
            )


def try_own(
    spec: str,
    objective: OwnObjective,
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    epochs: int,
    rebuild: Callable[[], Objective],
) -> None:
    """Evaluate a user's objective on a copy of the student, as in the first epoch.

    Args:
        student: the student that it was built with; another model is trained.
        epochs: length of the training.
        rebuild: builds the objective again, as for a training that resumes.

    Raises:
        ValueError: its terms have no gradient for the model that it is given; they depend on the student that it was
            built with, or on tensors that would never be trained; it fails without gradients; or it could not resume.
    """
    model = copy.deepcopy(student)
    trained = {id(parameter) for module in (model, objective, teacher) for parameter in module.parameters()}
    objective.set_epoch(0, epochs)
    terms = objective(model, batch)[1]
    _require_gradient(spec, model, terms)
    leaves = _list_leaves(terms)
    for name, parameter in student.named_parameters():
        if id(parameter) in leaves:
            raise ValueError(
                f"the terms of {spec} depend on {name} of its argument student, which need not be the model in "
                "training. In the objective use model, not student."
            )
    if untrained := [leaf for key, leaf in leaves.items() if key not in trained]:
        # Tensors that the objective creates at each call, such as inputs with a gradient, are others the next time.
        kept = _list_leaves(objective(model, batch)[1])
        for leaf in untrained:
            if id(leaf) in kept:
                raise ValueError(
                    f"the terms of {spec} depend on a tensor of shape {list(leaf.shape)} that requires a gradient, but "
                    "would never be trained. Return an nn.Module that holds it: as a parameter, or in a submodule, "
                    f"such as self.projector = nn.Linear(…). {spec.rpartition(':')[2]}(student, teacher, batch) may be "
                    "this class itself. If it must not be trained, set its requires_grad to False."
                )
    _require_resumable(spec, objective, rebuild, model, batch, epochs=epochs)


def _require_resumable(
    spec: str, used: OwnObjective, rebuild: Callable[[], Objective], model: nn.Module, batch: Batch, *, epochs: int
) -> None:
    """Check that a new objective with the state of a used one has the same terms for other weights of the model.

    It is evaluated without gradients, as in a validation.
    """
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.9)
    other: Any = rebuild()
    other.load_state_dict(used.state_dict())
    other.set_epoch(0, epochs)
    other.train(used.training)
    before, after = (_evaluate(spec, objective, model, batch) for objective in (used, other))
    differing = [name for name in {**before, **after} if not _equal(before.get(name), after.get(name))]
    if differing:
        raise ValueError(
            f"the term {differing[0]!r} of {spec} depends on values that its state_dict lacks, such as a counter of "
            "steps, a running mean, the first batch or a random generator of its own, so an interrupted training could "
            "not resume exactly. Return an nn.Module that holds them as buffers; draw from torch's global generator."
        )


def _evaluate(spec: str, objective: Objective, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    try:
        with torch.no_grad(), seeded(0, batch[0].device):
            return objective(model, batch)[1]
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0].removesuffix(".")
        raise ValueError(
            f"{spec} fails without gradients, as in the validation after each epoch ({reason}). Compute gradients "
            "inside torch.enable_grad(), or only if torch.is_grad_enabled()."
        ) from error


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return False
    return torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def _list_leaves(terms: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Return the tensors that require a gradient and from which the terms are computed, by their id."""
    leaves = {id(term): term for term in terms.values() if term.requires_grad and term.is_leaf}
    pending: list[Any] = [term.grad_fn for term in terms.values()]
    seen = {None}
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":  # torch's node of a leaf
            leaves[id(node.variable)] = node.variable
        pending += [following for following, _ in node.next_functions]
    return leaves


def _require_gradient(spec: str, student: nn.Module, terms: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless the sum of the terms has a gradient for a parameter of the student."""
    total = torch.stack([term.double() for term in terms.values()]).sum()
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(total, parameters, allow_unused=True) if total.requires_grad else ()
    if parameters and all(gradient is None for gradient in found):
        raise ValueError(
            f"the terms of {spec} have no gradient for the student. They must be computed from its output with torch, "
            "without detach(), item() or no_grad()."
        )


def _version(values: Tensor) -> int:
    """Return how often the tensor was changed in place; 0 in inference mode, which does not count."""
    return 0 if values.is_inference() else values._version
