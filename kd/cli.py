"""The command ``kd``. Settings are dataclasses without torch; a command's module is imported only to run it."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tyro.extras import subcommand_cli_from_dict

from kd.checks import did_you_mean, require_values
from kd.commands.compare.settings import CompareSettings
from kd.commands.export.settings import ExportSettings
from kd.commands.help import format_help
from kd.commands.judge.settings import JudgeSettings
from kd.commands.predict.settings import PredictSettings
from kd.commands.program import exit_status
from kd.commands.recipe_settings import REPLACED
from kd.commands.run.settings import CacheSettings, CleanSettings, DistillSettings, EvaluateSettings, ReportSettings
from kd.commands.settings import RunSettings
from kd.commands.settings_file import with_file
from kd.commands.sweep.settings import SweepSettings
from kd.console import OutputError, name_output_errors, say
from kd.storage.stopping import Stopped


class Settings(Protocol):
    def check(self) -> None:
        """Raise ``ValueError`` for a value outside its range."""


class Command(NamedTuple):
    """A command: the class of its settings, and the module whose ``run(settings)`` executes it."""

    settings: type[Settings]
    module: str


COMMANDS: Mapping[str, Command] = {
    "run": Command(RunSettings, "kd.commands.run.command"),
    "compare": Command(CompareSettings, "kd.commands.compare.command"),
    "sweep": Command(SweepSettings, "kd.commands.sweep.command"),
    "judge": Command(JudgeSettings, "kd.commands.judge.command"),
    "distill": Command(DistillSettings, "kd.commands.run.distill"),
    "evaluate": Command(EvaluateSettings, "kd.commands.run.evaluate"),
    "predict": Command(PredictSettings, "kd.commands.predict.command"),
    "report": Command(ReportSettings, "kd.commands.run.rebuild_report"),
    "export": Command(ExportSettings, "kd.commands.export.command"),
    "cache": Command(CacheSettings, "kd.commands.run.cache"),
    "clean": Command(CleanSettings, "kd.commands.run.clean"),
}

_DESCRIPTION = "Train a small network from a large one, next to a matched control, with statistics on both."


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command and return its exit status (see ``kd.commands.program``).

    Args:
        arguments: defaults to the process's arguments.

    Raises:
        SystemExit: after ``--help`` (0), and for an invalid command line (2), before any work starts.
    """
    words = sys.argv[1:] if arguments is None else arguments

    def program() -> None:
        if (text := _find_information(words)) is not None:
            say(text)
            return
        command, settings = _parse(words)
        module = "kd.commands.dry_run" if getattr(settings, "dry_run", False) else command.module
        try:
            importlib.import_module(module).run(settings)
        except Stopped:
            raise
        except SystemExit as error:  # kd itself does not raise it here; a status of 0 would hide the missing results
            raise ValueError(
                f"a Python file of yours called sys.exit({error.code!r}) before the command was done. Remove this call."
            ) from error

    return exit_status(program, command=("kd", *words))


def _find_information(words: Sequence[str]) -> str | None:
    """Return the version or the help text of a command, if the command line asks for it."""
    if list(words) in (["--version"], ["-V"]):
        return f"kd {_find_version()}"
    command = COMMANDS.get(words[0]) if words else None
    is_help = {"-h", "--help", "-H", "--help-verbose"} & set(words[1:])
    return format_help(words[0], command.settings) if command and is_help else None


def _find_version() -> str:
    try:
        return importlib.metadata.version("paired-distillation")
    except importlib.metadata.PackageNotFoundError:  # run from a copy of the sources
        return "(not installed)"


def _require_command(word: str) -> None:
    if not word.startswith("-") and word not in COMMANDS:
        hint = did_you_mean(word, COMMANDS)
        raise ValueError(f"there is no command {word!r}. {hint}{' ' * bool(hint)}Commands: {', '.join(COMMANDS)}.")


def _parse(arguments: Sequence[str]) -> tuple[Command, Settings]:
    arguments = arguments or ["--help"]
    settings_classes: dict[str, Callable[..., Settings]] = {
        name: command.settings for name, command in COMMANDS.items()
    }
    try:
        _require_text(arguments)
        require_values(arguments)
        _require_command(arguments[0])
        _require_current(arguments)
        with name_output_errors():  # of the help
            settings: Settings = subcommand_cli_from_dict(
                settings_classes, prog="kd", description=_DESCRIPTION, args=arguments
            )
        if isinstance(settings, RunSettings):
            settings = with_file(settings, arguments[1:])
        settings.check()  # before torch is imported, so a mistake is reported at once
    except (BrokenPipeError, OutputError):
        raise
    except (ValueError, OSError) as error:
        say(f"error: {error}", to_stderr=True)
        raise SystemExit(2) from error
    return next(command for command in COMMANDS.values() if command.settings is type(settings)), settings


def _require_current(arguments: Sequence[str]) -> None:
    """Raise ``ValueError`` for a flag of an earlier version."""
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").removeprefix("no-")
        if argument.startswith("--") and name in REPLACED:
            raise ValueError(f"--{name} was replaced: {REPLACED[name]}.")


def _require_text(arguments: Sequence[str]) -> None:
    """Raise ``ValueError`` for bytes that are not UTF-8, which Python represents by lone surrogates.

    They could not be written to ``run.toml``, to the report or to the names of result files.
    """
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            raise ValueError(
                f"arguments must be readable text in UTF-8. Got {argument!r}, perhaps a name from a system with "
                "another character set. Rename the file or folder."
            )
