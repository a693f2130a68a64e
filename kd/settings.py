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
    return {name: v if v is None or isinstance(v, (int, float, str)) else str(v) for name, v in values.items()}


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
        allowed = typing.get_args(kind) or (kind,)
        fits = type(value) in allowed or (isinstance(value, Path) and Path in allowed)
        if not fits and not (float in allowed and type(value) is int):
            text = " or ".join("None" if k is type(None) else k.__name__ for k in allowed)
            raise ValueError(f"{name} must be {text}. Got {value!r} ({type(value).__name__}) instead.")


def _constants(module: ModuleType) -> dict[str, Any]:
    hints = typing.get_type_hints(module, include_extras=True)
    return {name: hint for name, hint in hints.items() if name.isupper()}


def _type(hint: Any) -> Any:
    return typing.get_args(hint)[0]


def _meaning(hint: Any) -> str:
    return str(typing.get_args(hint)[1])


def _shown(hint: Any) -> Any:
    return str if _type(hint) is torch.device else _type(hint)


def _default(value: Any) -> Any:
    field: Any = dataclasses.field(default=str(value) if isinstance(value, torch.device) else value)
    return field


def _device(name: str) -> torch.device:
    try:
        return device_named(name)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
