"""A command line from a module of annotated constants: one flag per constant, with its meaning, type and default."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import tyro

from kd.devices import device_named


def current(module: ModuleType, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The module's constants as they stand now, by name, in a form that JSON knows."""
    hints = {name: hint for name, hint in _constants(module).items() if name not in without}
    values = {n: float(getattr(module, n)) if _type(h) is float else getattr(module, n) for n, h in hints.items()}
    return {name: v if v is None or isinstance(v, (int, float, str, tuple)) else str(v) for name, v in values.items()}


def command_line(module: ModuleType, arguments: Sequence[str], *, program: str, description: str | None) -> None:
    """Set the module's constants from the command line; ``--help`` or an error ends the program, as is usual.

    Args:
        module: its constants are the annotated names in capitals, ``NAME: Annotated[type, "meaning"] = default``.

    Raises:
        ValueError: a constant has the wrong type already, or a name that the module does not have.
    """
    check_constants(module)
    fields = [
        (name.lower(), Annotated[_shown(hint), tyro.conf.arg(help=_meaning(hint))], _default(getattr(module, name)))
        for name, hint in _constants(module).items()
    ]
    parsed: Any = tyro.cli(
        dataclasses.make_dataclass("Settings", fields), args=arguments, prog=program, description=description
    )
    for name, hint in _constants(module).items():
        value = getattr(parsed, name.lower())
        setattr(module, name, _device(value) if _type(hint) is torch.device else value)


def check_constants(module: ModuleType) -> None:
    """Refuse a constant of the wrong type, or set under a name the module does not have: it would count for nothing."""
    known = _constants(module)
    for name in vars(module):
        if name.isupper() and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{module.__name__}.{name} is not a setting.{hint} There are: {', '.join(known)}.")
    for name, hint in known.items():
        value, kind = getattr(module, name), _type(hint)
        if not _fits(value, kind):
            raise ValueError(f"{name} must be {_said(kind)}. Got {value!r} ({type(value).__name__}) instead.")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type: plain, or a choice of types or values, or a tuple of one type."""
    allowed = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is typing.Literal:
        return value in allowed
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, allowed[0]) for item in value)
    is_path = isinstance(value, Path) and Path in allowed
    return type(value) in allowed or is_path or (float in allowed and type(value) is int)


def _said(kind: Any) -> str:
    """The type in words."""
    allowed = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, allowed))
    if typing.get_origin(kind) is tuple:
        return f"a tuple of {_said(allowed[0])}"
    return " or ".join("None" if k is type(None) else k.__name__ for k in allowed)


def _constants(module: ModuleType) -> dict[str, Any]:
    hints = typing.get_type_hints(module, include_extras=True)
    return {name: hint for name, hint in hints.items() if name.isupper()}


def _type(hint: Any) -> Any:
    return typing.get_args(hint)[0]


def _meaning(hint: Any) -> str:
    return str(typing.get_args(hint)[1])


def _shown(hint: Any) -> Any:
    """The type as the command line takes it: a device by its name, a tuple by giving the flag several times."""
    kind = _type(hint)
    if typing.get_origin(kind) is tuple:
        return Annotated[kind, tyro.conf.UseAppendAction]
    return str if kind is torch.device else kind


def _default(value: Any) -> Any:
    field: Any = dataclasses.field(default=str(value) if isinstance(value, torch.device) else value)
    return field


def _device(name: str) -> torch.device:
    try:
        return device_named(name)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
