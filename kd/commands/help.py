"""``kd COMMAND --help``: the settings of a command, grouped by purpose. Imports neither torch nor rich."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tyro.conf import Positional, UseAppendAction

# The groups in the order of the help text. A setting that only some commands have is omitted for the others.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Action": ("action", "prune", "images"),
    "Inputs": ("inputs",),
    "Trained model": ("model", "arm"),
    "Predictions": ("control", "distilled", "smoothed", "labels", "kind"),
    "Data": (
        *("data", "data_dir", "class_names", "columns", "target", "image_size", "download", "limit", "test_size"),
        *("test_share", "random_state", "augment", "views", "unlabelled"),
    ),
    "Export": ("formats", "to", "calibration", "distill", "licence"),
    "Models": (
        *("teacher", "train_teacher", "teacher_input", "teacher_trained_on", "label_map", "label_order"),
        *("teacher_head", "ids", "student", "student_width", "freeze"),
    ),
    "Distillation": ("method", "methods", "set", "temperature", "alpha"),
    "Training": (
        *("epochs", "batch_size", "accumulate", "learning_rate", "schedule", "warmup"),
        *("optimizer", "momentum", "nesterov", "weight_decay", "clip", "precision", "ema", "keep", "patience", "seed"),
    ),
    "Labels and mixed samples": ("class_weights", "label_smoothing", "mixup", "cutmix"),
    "Training of the teacher alone": (
        *("teacher_epochs", "teacher_batch_size", "teacher_accumulate", "teacher_learning_rate", "teacher_schedule"),
        *("teacher_warmup", "teacher_optimizer", "teacher_momentum", "teacher_weight_decay", "teacher_clip"),
        *("teacher_precision", "teacher_ema", "teacher_keep", "teacher_patience"),
    ),
    "Search": ("temperatures", "alphas", "vary", "trials", "seeds"),
    "Evidence": (
        *("pairs", "until_decided", "final_pairs", "teachers", "splits", "decide", "slices", "shifts", "smoothing"),
        *("longer", "margin"),
    ),
    "Output": ("out", "top", "csv", "json", "config", "dry_run", "fresh", "snapshot_seconds", "track", "rows"),
    "Machine and safety": ("device", "workers", "processes", "threads", "trust"),
}
_INDENT = 26  # columns before a help text, if its flag is short enough
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def format_help(name: str, settings: type) -> str:
    """Return the help text of a command.

    Args:
        name: name of the command.
        settings: its dataclass; the docstring below a field is the help text of its flag.
    """
    texts = help_texts(settings)
    fields = {field.name: field for field in dataclasses.fields(settings)}
    hints = typing.get_type_hints(settings, include_extras=True)
    lines = [f"usage: kd {name} {_format_positionals(fields)}[FLAGS]"]
    for paragraph in inspect.cleandoc(settings.__doc__ or "").split("\n\n"):
        lines += ["", textwrap.fill(paragraph, _find_width())]
    for title, members in GROUPS.items():
        rows = [
            (_format_flag(key, hints[key]), f"{texts[key]} ({_format_default(fields[key], hints[key])})")
            for key in members
            if key in fields
        ]
        lines += ["", f"{title}:", *itertools.chain.from_iterable(itertools.starmap(_format_row, rows))] if rows else []
    return "\n".join(lines)


def help_texts(declared: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, by field, including inherited fields."""
    return {key: text for base in reversed(declared.__mro__[:-1]) for key, text in _read_texts(base)}


def _read_texts(declared: type) -> Iterator[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(declared))).body
    assert isinstance(tree, ast.ClassDef)
    for field, text in itertools.pairwise(tree.body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            yield field.target.id, " ".join(text.value.value.split())


def _format_row(flag: str, text: str) -> Iterator[str]:
    first, *rest = textwrap.wrap(text, _find_width() - _INDENT, break_long_words=False, break_on_hyphens=False)
    if len(flag) + 4 > _INDENT:
        yield f"  {flag}"
        flag = ""
    yield f"  {flag:<{_INDENT - 2}}{first}"
    yield from (" " * _INDENT + line for line in rest)


def _find_width() -> int:
    return max(_INDENT + 30, min(120, shutil.get_terminal_size().columns))


def _format_positionals(fields: Mapping[str, object]) -> str:
    """Return the arguments without a flag in the usage line, such as ``INPUTS … ``."""
    return "[ACTION] " * ("action" in fields) + "INPUTS … " * ("inputs" in fields)


def _format_flag(name: str, hint: Any) -> str:
    """Return the flag with its values, such as ``--epochs INT``."""
    kind = _plain_type(hint)
    if Positional in getattr(hint, "__metadata__", ()):
        return f"{name.upper()} …" if typing.get_origin(kind) is tuple else "|".join(typing.get_args(kind))
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return f"{flag}, --no-{flag[2:]}"
    if typing.get_origin(kind) is typing.Literal:
        return f"{flag} {'|'.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is not tuple:
        return f"{flag} {_METAVARS[kind]}"
    items = [_METAVARS[item] for item in typing.get_args(kind) if item is not Ellipsis]
    is_list = Ellipsis in typing.get_args(kind) and UseAppendAction not in getattr(hint, "__metadata__", ())
    return f"{flag} {' '.join(items)}{' …' * is_list}"


def _plain_type(hint: Any) -> Any:
    """Return the type without its annotations and without None."""
    kind = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return next(part for part in typing.get_args(kind) if part is not type(None)) if _is_optional(kind) else kind


def _is_optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _format_default(field: dataclasses.Field[Any], hint: Any) -> str:
    if UseAppendAction in getattr(hint, "__metadata__", ()):
        return "repeatable"
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    return f"default: {' '.join(map(str, values)) or 'none'}"
