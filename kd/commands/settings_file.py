"""A command's settings as a TOML file: written beside what it makes, and read again as the flags they stand for.

kd run --config run/run.toml --seed 1      # the same run, but for the seed
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import UseAppendAction

from kd.checks import did_you_mean
from kd.commands.settings import RunSettings

UNSAVED = frozenset({"config", "fresh", "dry_run"})  # what was to be done this once
LARGEST = 1_000_000  # bytes of a file of settings

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


def with_file(words: Sequence[str], kinds: Mapping[str, Callable[..., Any]]) -> list[str]:
    """The command line with the settings of its file as flags; those that are given beside it win.

    The file is that of ``--config``, or OUT/run.toml for commands that go on from a run (``own_file``).

    Args:
        words: the command's name and its flags.
        kinds: the dataclass of each command's flags.

    Raises:
        ValueError: the file is not TOML, or says what is no setting of that command.
        OSError: it cannot be read.
    """
    command, *flags = words or [""]
    kind = kinds.get(command)
    file = _file(flags, kind) if kind else None
    return list(words) if kind is None or file is None else [command, *_beside(flags, file, kind), *flags]


def _file(flags: Sequence[str], kind: Any) -> Path | None:
    if told := _told(flags, "config"):
        return Path(told)
    if not getattr(kind, "own_file", False):
        return None
    own = Path(_told(flags, "out") or kind.out) / "run.toml"
    return own if own.is_file() else None


def _beside(flags: Sequence[str], file: Path, kind: Any) -> list[str]:
    """Flags for all that the file says and these flags do not."""
    given = {name for word in flags if (name := _name(word))}
    given |= {name.removeprefix("no_") for name in given}
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {field.name for field in dataclasses.fields(kind)} - UNSAVED
    found: list[str] = []
    for name, value in read(file).items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{file}: {name!r} is not a setting of this command. {hint}".rstrip())
        if name not in given:
            repeated = UseAppendAction in getattr(hints[name], "__metadata__", ())
            found += _flags(f"--{name.replace('_', '-')}", value, repeated=repeated)
    return found


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


def _told(flags: Sequence[str], name: str) -> str | None:
    """What a flag is given, as ``--name VALUE`` or ``--name=VALUE``; the last one counts."""
    found = None
    for word, following in zip(flags, [*flags[1:], None], strict=True):
        if _name(word) == name:
            found = word.partition("=")[2] if "=" in word else following
    return found


def _name(word: str) -> str:
    """The setting that a word of the command line is the flag of; "" for a value."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_") if word.startswith("--") else ""


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
    words = with_file(["run", f"--config={file}", f"--out={out}"], {"run": RunSettings})
    settings = tyro.cli(RunSettings, args=words[1:], prog=f"the settings in {file}")
    settings.check()
    return settings
