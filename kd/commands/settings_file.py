"""A command's settings as a TOML file: written beside what it makes, and read again as defaults.

kd run --config run/run.toml --seed 1      # the same run, but for the seed
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.conf import UseAppendAction

from kd.checks import did_you_mean
from kd.commands.settings import RunSettings

UNSAVED = frozenset({"config", "fresh", "dry_run"})  # what was to be done this once
LARGEST = 1_000_000  # bytes of a file of settings

Settings = TypeVar("Settings", bound=RunSettings)
Value = bool | int | float | str | list[Any]


def to_toml(settings: Any, *, command: str) -> bytes:
    """The settings of a command, as ``--config`` takes them; one that is None is left out.

    Args:
        settings: an instance of a dataclass of flags.
    """
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if name not in UNSAVED and value is not None]
    head = f"# kd {command} --config THIS_FILE does the same again. Flags beside it win."
    return "\n".join([head, *lines, ""]).encode()


def with_file(settings: Settings, flags: Sequence[str]) -> Settings:
    """The flags once more, as changes to the settings in a file where there is one.

    The file is that of ``--config``, or OUT/run.toml for commands that go on from a run (``own_file``).

    Args:
        settings: as the flags alone have them.
        flags: the command line behind the command's name.

    Raises:
        ValueError: the file is not TOML, or has a name that is no setting of that command.
        OSError: it cannot be read.
    """
    kind, own = type(settings), settings.out / "run.toml"
    file = settings.config or (own if settings.own_file and own.is_file() else None)
    if file is None:
        return settings
    # tyro appends the values of a repeatable flag to its default. Here they stand in place of the file's.
    replaced: dict[str, Any] = {name: () for name in _repeatable(kind) if getattr(settings, name)}
    return tyro.cli(kind, args=flags, default=dataclasses.replace(settings_in(file, kind), **replaced))


def settings_in(file: Path, kind: type[Settings]) -> Settings:
    """The settings of a command, from a file of them; those that it does not have are the defaults.

    Raises:
        ValueError: it is not TOML, or has a name that is no setting of that command.
        OSError: it cannot be read.
        SystemExit: a value is not of its setting's type, which tyro prints.
    """
    known, repeatable = {field.name for field in dataclasses.fields(kind)} - UNSAVED, _repeatable(kind)
    flags: list[str] = []
    for name, value in read(file).items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{file}: {name!r} is not a setting of this command. {hint}".rstrip())
        flags += _flags(f"--{name.replace('_', '-')}", value, repeated=name in repeatable)
    return tyro.cli(kind, args=flags, prog=f"the settings in {file}")


def _repeatable(kind: type) -> set[str]:
    """Settings with a flag that may be given several times."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name for name, hint in hints.items() if UseAppendAction in getattr(hint, "__metadata__", ())}


def read(file: Path) -> dict[str, Value]:
    """The settings in a file, by name.

    Raises:
        ValueError: it is not TOML, or a value is not a truth value, number, text or list of these.
        OSError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        settings = tomllib.loads(content.decode())
    except OSError as error:
        raise OSError(f"cannot read the settings in {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a TOML file of settings: {error}.") from error
    for name, value in settings.items():
        if not all(
            isinstance(item, (bool, int, float, str)) for item in (value if isinstance(value, list) else [value])
        ):
            raise ValueError(
                f"{file}: {name} must be a truth value, a number, a text or a list of them. Got {value!r}."
            )
    return settings


def _flags(flag: str, value: Value, *, repeated: bool) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if not isinstance(value, list):
        return [f"{flag}={value}"]
    return [f"{flag}={item}" for item in value] if repeated else [flag, *map(str, value)]


def _toml(value: Any) -> str:
    """As JSON, which for these is TOML too, but for one character that TOML wants escaped."""
    plain = [*value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def saved_settings(out: Path) -> RunSettings:
    """Those in OUT/run.toml, for that folder, wherever it is now.

    Raises:
        OSError: there is no such file.
        ValueError: it does not hold settings of a run.
    """
    file = out / "run.toml"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there. Name the folder of a finished kd run or kd distill as --out.")
    settings = dataclasses.replace(settings_in(file, RunSettings), out=out)
    settings.check()
    return settings
