"""A command's settings as a TOML file: written next to its output, and read as defaults by ``--config``.

kd run --config run/run.toml --seed 1      # the same run with another seed
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.conf import UseAppendAction

from kd.checks import did_you_mean, naming_flag
from kd.commands.recipe_settings import REPLACED
from kd.commands.settings import RunSettings
from kd.commands.settings_paths import paths_for_file, paths_from_file
from kd.commands.trust import named_files, remember, require_trusted

UNSAVED = frozenset({"config", "fresh", "dry_run", "trust"})  # apply to one invocation only
_FLAGS, _PATHS = "Other flags override the file.", "Relative paths count from its folder."
LARGEST = 1_000_000  # maximum size of a settings file, in bytes

Settings = TypeVar("Settings", bound=RunSettings)
Value = bool | int | float | str | list[Any]


def to_toml(settings: Any, *, command: str) -> bytes:
    """Return a command's settings as TOML for ``--config``, for a file in its output folder.

    Settings that are None are omitted. Relative paths are written as seen from that folder.

    Args:
        settings: instance of a settings dataclass.
    """
    values = {
        field.name: value
        for field in dataclasses.fields(settings)
        if field.name not in UNSAVED and (value := getattr(settings, field.name)) is not None
    }
    lines = [f"{name} = {_format_toml(value)}" for name, value in paths_for_file(values, settings.out).items()]
    head = f"# kd {command} --config THIS_FILE repeats this command. {_FLAGS} {_PATHS}"
    return "\n".join([head, *lines, ""]).encode()


def with_file(settings: Settings, flags: Sequence[str]) -> Settings:
    """Return the settings of a file, overridden by the flags; without a file, return ``settings``.

    The file is ``--config`` or, for commands that continue a run (``reads_run_file``), an existing OUT/run.toml.

    Args:
        settings: settings parsed from the flags alone.
        flags: command line after the command's name.

    Raises:
        ValueError: the file is not TOML, contains an unknown setting, or names a Python file that is not trusted.
        OSError: the file cannot be read.
    """
    kind, run_file = type(settings), settings.out / "run.toml"
    file = settings.config or (run_file if settings.reads_run_file and run_file.is_file() else None)
    named = named_files(settings)
    remember(named)
    if file is None:
        return settings
    # tyro appends the values of a repeatable flag to the default. Clear the file's values, so that the flag wins.
    cleared: dict[str, Any] = {name: () for name in _repeatable(kind) if getattr(settings, name)}
    with naming_flag("--config" if settings.config else f"--out {settings.out}"):
        in_file = settings_in(file, kind)
    merged = tyro.cli(kind, args=flags, default=dataclasses.replace(in_file, **cleared))
    require_trusted(named_files(merged) - named, file, trust=merged.trust)
    return merged


def settings_in(file: Path, kind: type[Settings]) -> Settings:
    """Load a command's settings from a file; settings missing there have their defaults.

    Relative paths count from the file's folder, except in files written by versions that saved paths as typed.

    Raises:
        ValueError: the file is not TOML, contains an unknown setting, or a path that exists only elsewhere.
        OSError: the file cannot be read.
        SystemExit: a value has the wrong type; tyro prints the error.
    """
    known, repeatable = {field.name for field in dataclasses.fields(kind)} - UNSAVED, _repeatable(kind)
    lists = _find_lists(kind)
    switches = {field.name for field in dataclasses.fields(kind) if isinstance(field.default, bool)}
    flags: list[str] = []
    values = read(file)
    if not _has_typed_paths(file):
        try:
            values = paths_from_file(values, file.parent)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    for name, value in values.items():
        if name in REPLACED and value is False:  # in every file of an earlier version
            continue
        if name in REPLACED:
            raise ValueError(f"{file}: {name} was replaced: {REPLACED[name]}.")
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{file}: {name!r} is not a setting of this command. {hint}".rstrip())
        if isinstance(value, bool) and name not in switches:  # its flag would take no value, or the next flag as one
            raise ValueError(f"{file}: {name} must not be a boolean. Got {str(value).lower()} instead.")
        if isinstance(value, list) and name not in lists:
            raise ValueError(f"{file}: {name} must be a single value. Got {value} instead.")
        items = value if isinstance(value, list) else ()
        if like_flags := [item for item in items if isinstance(item, str) and item.startswith("-")]:
            raise ValueError(f"{file}: items of {name} must not begin with a hyphen. Got {like_flags[0]!r} instead.")
        flags += _to_flags(f"--{name.replace('_', '-')}", value, repeated=name in repeatable)
    return tyro.cli(kind, args=flags, prog=f"the settings in {file}")


def _repeatable(kind: type) -> set[str]:
    """Return the names of settings whose flag may be repeated."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name for name, hint in hints.items() if UseAppendAction in getattr(hint, "__metadata__", ())}


def _find_lists(kind: type) -> set[str]:
    """Return the names of settings that take several values."""
    hints = typing.get_type_hints(kind)
    kinds = {name: [typing.get_origin(part) for part in (hint, *typing.get_args(hint))] for name, hint in hints.items()}
    return {name for name, origins in kinds.items() if tuple in origins}


def read(file: Path) -> dict[str, Value]:
    """Read the values in a settings file, by name.

    Raises:
        ValueError: the file is not TOML, or a value is not a boolean, number, string or list of these.
        OSError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        settings = tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows write the mark
    except OSError as error:
        raise OSError(f"cannot read the settings in {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a TOML settings file: {error}.") from error
    for name, value in settings.items():
        if not all(
            isinstance(item, (bool, int, float, str)) for item in (value if isinstance(value, list) else [value])
        ):
            got = reprlib.repr(value)  # of any depth and length
            raise ValueError(
                f"{file}: {name} must be a boolean, a number, a string or a list of these. Got {got} instead."
            )
    return settings


def _has_typed_paths(file: Path) -> bool:
    """Return whether an earlier version wrote the file: its paths count from the folder where that command ran."""
    with file.open(encoding="utf-8-sig") as stream:
        first = stream.readline().strip()
    return first.startswith("# kd ") and first.endswith(_FLAGS)


def _to_flags(flag: str, value: Value, *, repeated: bool) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if not isinstance(value, list):
        return [f"{flag}={value}"]
    return [f"{flag}={item}" for item in value] if repeated else [flag, *map(str, value)]


def _format_toml(value: Any) -> str:
    """Format a value as JSON, which is also TOML for these types, once U+007F is escaped."""
    plain = [*value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    if value == math.inf:  # TOML has it, JSON does not
        return "inf"
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def saved_settings(out: Path, *, trust: bool = False) -> RunSettings:
    """Load the settings in OUT/run.toml, with ``out`` set to this folder, which may have been moved.

    Args:
        trust: consent to run the Python files that the settings name (``kd.commands.trust``).

    Raises:
        OSError: the file does not exist.
        ValueError: the file does not contain settings of a run, or names a Python file that is not trusted.
    """
    file = out / "run.toml"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist. --out must be the folder of a finished kd run or kd distill.")
    settings = dataclasses.replace(settings_in(file, RunSettings), out=out)
    require_trusted(named_files(settings), file, trust=trust)
    settings.check()  # runs the file of a method FILE.py:NAME
    return settings
