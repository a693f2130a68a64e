"""Methods by name: their entries in the table, their settings, and their objectives."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from kd.checks import did_you_mean, require
from kd.imports import is_plugin
from kd.methods.own import explain_failure, load_method, make_own
from kd.methods.table import METHODS, Method, Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kd.types import Batch, Objective


def method_named(name: str) -> Method:
    """Return the method with this name, or the one that a user's file defines: ``FILE.py:NAME``, which runs the file.

    Raises:
        ValueError: there is no such method; the error suggests similar names, or lists all if none is similar.
        ValueError, OSError: see ``kd.methods.own.load_method``.
    """
    if name in METHODS:
        return METHODS[name]
    if is_plugin(name):
        return load_method(name).method
    hint = did_you_mean(name, METHODS, f"Methods: {', '.join(sorted(METHODS))}.")
    raise ValueError(f"there is no method {name!r}. {hint}")


def require_unlabelled_method(name: str) -> None:
    """Raise ``ValueError`` for a method whose own loss reads labels; the error lists the methods that do not."""
    if not method_named(name).unlabelled:
        alternatives = ", ".join(key for key, method in METHODS.items() if method.unlabelled)
        raise ValueError(
            f"{name} needs a label for every sample, because its own loss reads labels. "
            f"Methods for unlabelled samples: {alternatives}."
        )


def require_mixing_method(name: str) -> None:
    """Raise ``ValueError`` for a method that cannot train on mixed samples; the error lists the methods that can."""
    method = method_named(name)
    if "ids" in method.needs or not method.unlabelled:
        reason = "it stores a value for each sample" if "ids" in method.needs else "its own loss reads labels"
        alternatives = ", ".join(key for key, method in METHODS.items() if method.unlabelled)
        raise ValueError(
            f"{name} cannot train on mixed samples, because {reason}, and a mixture has no single one. "
            f"Methods for mixed samples: {alternatives}."
        )


def settings_of(name: str, given: Mapping[str, Setting] | None = None) -> dict[str, Setting]:
    """Return all settings of a method: its defaults, updated by the given values.

    Args:
        name: name of the method.
        given: values of the default's type, or their text.

    Raises:
        ValueError: the method has no such setting, or a value has the wrong type or is infinite; or negative, except
            for a user's method.
    """
    method, given = method_named(name), given or {}
    for key in given:
        if key not in method.settings:
            hint = did_you_mean(key, method.settings)
            raise ValueError(
                f"{name} has no setting {key!r}. {hint}{' ' * bool(hint)}It has {', '.join(method.settings) or 'none'}."
            )
    lowest = -math.inf if is_plugin(name) else 0
    return {key: _convert(key, given.get(key, value), type(value), lowest) for key, value in method.settings.items()}


def make(
    name: str, student: nn.Module, teacher: nn.Module, batch: Batch, settings: Mapping[str, Setting] | None = None
) -> Objective:
    """Build the method's objective for a student and a teacher, with parameters in float64 for a float64 student.

    Args:
        name: name of the method.
        batch: an example batch of the training loader, on any device.
        settings: see ``settings_of``.

    Raises:
        ValueError: there is no such method or setting, or the method does not support these models. Some ranges are
            checked by the loss only, at the first batch; ``try_method`` finds such errors early.
    """
    import torch  # here, because this module avoids its import
    from torch import nn

    from kd.models.inference import device_of

    batch_on_device = tuple(tensor.to(device_of(student)) for tensor in batch)
    objective = _make_objective(name, student, teacher, batch_on_device, settings_of(name, settings))
    if isinstance(objective, nn.Module) and any(weight.dtype == torch.float64 for weight in student.parameters()):
        objective.double()
    return objective


def _make_objective(
    name: str, student: nn.Module, teacher: nn.Module, batch: Batch, settings: Mapping[str, Setting]
) -> Objective:
    if is_plugin(name):
        return make_own(load_method(name), student, teacher, batch, settings)
    module, _, function = method_named(name).factory.partition(":")
    objective: Objective = getattr(importlib.import_module(module), function)(student, teacher, batch, **settings)
    return objective


def make_example(name: str, teacher: nn.Module, inputs: Tensor, labels: Tensor) -> Batch:
    """Return a batch as the method's objective gets it, with the teacher's logits and ids if the method needs them."""
    import torch

    from kd.losses.precision import widen
    from kd.models.inference import run_on_copy

    needs = method_named(name).needs
    logits = [widen(run_on_copy(teacher, inputs)).detach()] if "logits" in needs else []
    ids = [torch.arange(len(labels), device=labels.device)] if "ids" in needs else []
    return (inputs, labels, *logits, *ids)


def try_method(
    name: str,
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    settings: Mapping[str, Setting] | None = None,
    *,
    epochs: int = 1,
) -> list[tuple[str, str]]:
    """Build the method's objective and evaluate it once, to find errors before training.

    Args:
        name: name of the method.
        batch: inputs and labels; teacher logits and ids are added if the method needs them.
        settings: see ``settings_of``.
        epochs: length of the training, at least 1; a user's objective is evaluated as in its first epoch.

    Returns:
        The layers that the method compares, in pairs (student, teacher); empty for most methods that use logits.

    Raises:
        ValueError: see ``make``; or the objective fails on the batch, for whatever reason if it is a user's, or has a
            term that is not finite. A user's may have such terms, since the teacher may be untrained.
    """
    import torch
    from torch import nn

    from kd.methods.own_objective import OwnObjective, try_own
    from kd.models.inference import device_of, evaluating

    inputs, labels, *_ = (tensor.to(device_of(student), copy=True) for tensor in batch)  # models may change them
    is_own = is_plugin(name)
    failures = explain_failure(name) if is_own else nullcontext()
    with failures, torch.set_grad_enabled(is_own), evaluating(student, teacher):
        example = make_example(name, teacher, inputs, labels)
        objective = make(name, student, teacher, example, settings)
        modules = [*objective.modules()] if isinstance(objective, nn.Module) else []
        with evaluating(*modules[:1]):
            if isinstance(objective, OwnObjective):
                rebuild = partial(make, name, student, teacher, example, settings)
                try_own(name, objective, student, teacher, example, epochs=epochs, rebuild=rebuild)
            else:
                _require_finite(name, objective(student, example)[1])
    return [
        pair
        for module in modules
        for pair in zip(getattr(module, "student_layers", ()), getattr(module, "teacher_layers", ()), strict=True)
    ]


def _require_finite(name: str, terms: Mapping[str, Tensor]) -> None:
    values = {term: float(value) for term, value in terms.items()}
    if not all(map(math.isfinite, values.values())):
        got = ", ".join(f"{term} = {value:g}" for term, value in values.items())
        raise ValueError(
            f"the loss of {name} must be finite. Got {got} on the first batch. Choose usual values for its settings, "
            "such as the temperature, and look for outputs of teacher or student that are not finite."
        )


def _convert(name: str, value: Setting, kind: type[Setting], lowest: float) -> Setting:
    try:
        converted = kind(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a {kind.__name__}. Got {value!r} instead.") from error
    if not isinstance(converted, str):
        allowed = "a finite number" + (f" of at least {lowest}" if lowest > -math.inf else "")
        require(math.isfinite(converted) and converted >= lowest, name, value, allowed)
        require(converted == float(value), name, value, "an integer")
    return converted
