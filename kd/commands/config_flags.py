"""Command-line flags for a module of annotated constants: one flag per constant, with its value as the default.

``NAME: Annotated[type, "help"] = default`` includes its help text. The help text of ``NAME: type = default`` comes from
the settings class of a command.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import tyro

from kd.checks import did_you_mean, require_values
from kd.commands.help import help_texts
from kd.console import name_output_errors
from kd.devices import device_named


def current_settings(module: ModuleType, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the module's current constants by name, as values that can be stored in JSON."""
    hints = {name: hint for name, hint in _annotated_constants(module).items() if name not in without}
    values = {n: float(getattr(module, n)) if _plain_type(h) is float else getattr(module, n) for n, h in hints.items()}
    return {name: v if v is None or isinstance(v, (int, float, str, tuple)) else str(v) for name, v in values.items()}


def command_line(
    module: ModuleType, arguments: Sequence[str], *, program: str, description: str | None, declared: type | None = None
) -> None:
    """Set the module's constants from the command line; exit on ``--help`` or an invalid argument.

    Args:
        module: its constants are the annotated names in capitals.
        declared: dataclass with the help texts of constants that lack one: field ``epochs`` documents ``EPOCHS``.

    Raises:
        ValueError: a constant already has the wrong type, an unknown constant was set on the module, or an argument is
            empty.
    """
    check_constants(module)
    require_values(arguments)
    hints, help_of = _annotated_constants(module), {} if declared is None else help_texts(declared)
    fields = [
        (
            name.lower(),
            Annotated[_flag_type(_plain_type(hint)), tyro.conf.arg(help=_help_in(hint) or help_of[name.lower()])],
            _default_field(getattr(module, name)),
        )
        for name, hint in hints.items()
    ]
    with name_output_errors():  # of the help
        parsed: Any = tyro.cli(
            dataclasses.make_dataclass("Settings", fields), args=arguments, prog=program, description=description
        )
    for name, hint in hints.items():
        value = getattr(parsed, name.lower())
        setattr(module, name, _parse_device(value) if _plain_type(hint) is torch.device else value)


def check_constants(module: ModuleType) -> None:
    """Raise ``ValueError`` for a constant of the wrong type or an unknown name, which would otherwise be ignored."""
    known = _annotated_constants(module)
    for name in vars(module):
        if name.isupper() and name not in known:
            hint = did_you_mean(name, known, "Correct its name.")
            raise ValueError(f"{module.__name__}.{name} is not a setting. {hint} Settings: {', '.join(known)}.")
    for name, hint in known.items():
        value, kind = getattr(module, name), _plain_type(hint)
        if not _matches_type(value, kind):
            raise ValueError(f"{name} must be {_describe_type(kind)}. Got {value!r} ({type(value).__name__}) instead.")


def _matches_type(value: object, kind: Any) -> bool:
    """Return whether a value has the type of an annotation: a class, a union, a ``Literal`` or a tuple of one type."""
    allowed = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is typing.Literal:
        return value in allowed
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_matches_type(item, allowed[0]) for item in value)
    is_path = isinstance(value, Path) and Path in allowed
    return type(value) in allowed or is_path or (float in allowed and type(value) is int)


def _describe_type(kind: Any) -> str:
    """Return the type in words, for an error."""
    allowed = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, allowed))
    if typing.get_origin(kind) is tuple:
        return f"a tuple of {_describe_type(allowed[0])}"
    return " or ".join("None" if k is type(None) else k.__name__ for k in allowed)


def _annotated_constants(module: ModuleType) -> dict[str, Any]:
    hints = typing.get_type_hints(module, include_extras=True)
    return {name: hint for name, hint in hints.items() if name.isupper()}


def _plain_type(hint: Any) -> Any:
    """Return the type inside ``Annotated``, or the type itself."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _help_in(hint: Any) -> str:
    return str(typing.get_args(hint)[1]) if typing.get_origin(hint) is Annotated else ""


def _flag_type(kind: Any) -> Any:
    """Return the type to pass to tyro: a device is parsed from its name, a tuple from a repeated flag."""
    if typing.get_origin(kind) is tuple:
        return Annotated[kind, tyro.conf.UseAppendAction]
    return str if kind is torch.device else kind


def _default_field(value: Any) -> Any:
    field: Any = dataclasses.field(default=str(value) if isinstance(value, torch.device) else value)
    return field


def _parse_device(name: str) -> torch.device:
    try:
        return device_named(name)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
