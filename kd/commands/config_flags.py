"""A command line from a module of annotated constants: one flag per constant, with its type and its value as default.

``NAME: type = default`` takes its help from the declaration of a command's settings, ``NAME: Annotated[type, "help"]``
has its own.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import tyro

from kd.devices import device_named


def current_settings(module: ModuleType, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The module's constants as they stand now, by name, in a form that JSON knows."""
    hints = {name: hint for name, hint in _constants(module).items() if name not in without}
    values = {n: float(getattr(module, n)) if _kind(h) is float else getattr(module, n) for n, h in hints.items()}
    return {name: v if v is None or isinstance(v, (int, float, str, tuple)) else str(v) for name, v in values.items()}


def command_line(
    module: ModuleType, arguments: Sequence[str], *, program: str, description: str | None, declared: type | None = None
) -> None:
    """Set the module's constants from the command line; ``--help`` or an error ends the program, as is usual.

    Args:
        module: its constants are the annotated names in capitals.
        declared: a dataclass whose fields have the help of constants without their own: ``epochs`` that of ``EPOCHS``.

    Raises:
        ValueError: a constant has the wrong type already, or a name that the module does not have.
    """
    check_constants(module)
    hints, help_of = _constants(module), {} if declared is None else help_texts(declared)
    fields = [
        (
            name.lower(),
            Annotated[_shown(_kind(hint)), tyro.conf.arg(help=_own_help(hint) or help_of[name.lower()])],
            _default(getattr(module, name)),
        )
        for name, hint in hints.items()
    ]
    parsed: Any = tyro.cli(
        dataclasses.make_dataclass("Settings", fields), args=arguments, prog=program, description=description
    )
    for name, hint in hints.items():
        value = getattr(parsed, name.lower())
        setattr(module, name, _device(value) if _kind(hint) is torch.device else value)


def help_texts(declared: type) -> dict[str, str]:
    """The text below each field of a dataclass, where tyro finds the help of a flag as well."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(declared))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def check_constants(module: ModuleType) -> None:
    """Refuse a constant of the wrong type, or set under a name the module does not have: it would count for nothing."""
    known = _constants(module)
    for name in vars(module):
        if name.isupper() and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{module.__name__}.{name} is not a setting.{hint} There are: {', '.join(known)}.")
    for name, hint in known.items():
        value, kind = getattr(module, name), _kind(hint)
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


def _kind(hint: Any) -> Any:
    """The type, without what ``Annotated`` adds to it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _own_help(hint: Any) -> str:
    return str(typing.get_args(hint)[1]) if typing.get_origin(hint) is Annotated else ""


def _shown(kind: Any) -> Any:
    """The type as the command line takes it: a device by its name, a tuple by giving the flag several times."""
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
