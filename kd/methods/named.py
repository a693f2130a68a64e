"""A method by its name: what the table says of it, its settings, and the objective made from both."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

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
        ValueError: the method has no such setting, or the value is not of its type.
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
        ValueError: no such method or setting, a value outside its range, or a pair that the method cannot work on.
    """
    from kd.loop import device_of  # with torch, which the table does without

    module, _, function = method_named(name).factory.partition(":")
    factory = getattr(importlib.import_module(module), function)
    moved = tuple(tensor.to(device_of(student)) for tensor in batch)
    objective: Objective = factory(student, teacher, moved, **settings_of(name, settings))
    return objective


def _converted(name: str, value: Setting, kind: type[Setting]) -> Setting:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a {kind.__name__}. Got {value!r} instead.") from error
