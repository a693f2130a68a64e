"""A method by its name: what the table says of it, its settings, and the objective made from both."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kd.checks import require
from kd.methods.table import METHODS, Method, Setting

if TYPE_CHECKING:
    from torch import nn

    from kd.types import Batch, Objective


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; the error names those that are called nearly so, or else all.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=3) or sorted(METHODS)
    raise ValueError(f"there is no method {name!r}. There is {', '.join(near)}.")


def require_unlabelled_method(name: str) -> None:
    """Raise ``ValueError`` for a method whose own loss reads labels; the error names those that need none."""
    if not method_named(name).unlabelled:
        able = ", ".join(other for other, method in METHODS.items() if method.unlabelled)
        raise ValueError(
            f"{name} needs the label of every item: its own loss reads them. With unlabelled items there is {able}."
        )


def settings_of(name: str, given: Mapping[str, Setting] | None = None) -> dict[str, Setting]:
    """All settings of a method: its defaults, and what is given in their place.

    Args:
        given: values of the default's type, or texts that say one.

    Raises:
        ValueError: the method has no such setting, or the value is not of its type, or is a number below 0 or infinite.
    """
    method, given = method_named(name), given or {}
    for key in given:
        if key not in method.settings:
            raise ValueError(f"{name} has no setting {key!r}. It has {', '.join(method.settings)}.")
    return {key: _converted(key, given.get(key, value), type(value)) for key, value in method.settings.items()}


def make(
    name: str, student: nn.Module, teacher: nn.Module, batch: Batch, settings: Mapping[str, Setting] | None = None
) -> Objective:
    """The method's objective for this pair.

    Args:
        batch: an example of what the training loader yields, on whatever device.
        settings: as ``settings_of`` takes them.

    Raises:
        ValueError: no such method or setting, or a pair that the method cannot work on. Some ranges are looked at by
            the loss alone, with the first batch: ``try_method`` tells them before.
    """
    from kd.models.inference import device_of  # with torch, which the table does without

    module, _, function = method_named(name).factory.partition(":")
    factory = getattr(importlib.import_module(module), function)
    moved = tuple(tensor.to(device_of(student)) for tensor in batch)
    objective: Objective = factory(student, teacher, moved, **settings_of(name, settings))
    return objective


def try_method(
    name: str, student: nn.Module, teacher: nn.Module, batch: Batch, settings: Mapping[str, Setting] | None = None
) -> list[tuple[str, str]]:
    """Make the method's objective and ask it once: what it cannot work with is told before anything is trained.

    Args:
        batch: inputs and labels; teacher logits and ids are added here, where the method needs them.

    Returns:
        the layers whose answers it compares, the student's and the teacher's in pairs; none for most methods of logits.

    Raises:
        ValueError: as ``make`` has it, or as the objective has it at its first batch.
    """
    import torch
    from torch import nn

    from kd.models.inference import device_of, evaluating

    inputs, labels, *_ = (tensor.to(device_of(student)) for tensor in batch)
    with torch.no_grad(), evaluating(student, teacher):
        needs = method_named(name).needs
        logits = [teacher(inputs).float()] if "logits" in needs else []
        ids = [torch.arange(len(labels), device=labels.device)] if "ids" in needs else []
        objective = make(name, student, teacher, (inputs, labels, *logits, *ids), settings)
        parts = [*objective.modules()] if isinstance(objective, nn.Module) else []
        with evaluating(*parts[:1]):
            objective(student, (inputs, labels, *logits, *ids))
    return [
        pair
        for part in parts
        for pair in zip(getattr(part, "student_layers", ()), getattr(part, "teacher_layers", ()), strict=True)
    ]


def _converted(name: str, value: Setting, kind: type[Setting]) -> Setting:
    try:
        converted = kind(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a {kind.__name__}. Got {value!r} instead.") from error
    if not isinstance(converted, str):
        require(0 <= converted < math.inf, name, value, "a finite number of at least 0")
        require(converted == float(value), name, value, "a whole number")
    return converted
