"""The command ``kd``. What a command can be told is a dataclass; the work is imported only when it is to be done."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tyro.extras import subcommand_cli_from_dict

from kd.commands.compare.settings import CompareSettings
from kd.commands.program import exit_status
from kd.commands.run.settings import CacheSettings, DistillSettings, EvaluateSettings, ReportSettings
from kd.commands.settings import RunSettings
from kd.commands.settings_file import with_file
from kd.commands.sweep.settings import SweepSettings
from kd.console import say


class Settings(Protocol):
    def check(self) -> None:
        """Raise ValueError for a value outside its range."""


class Command(NamedTuple):
    """The class of a command's settings, and the module whose ``run(settings)`` does the work."""

    settings: type[Settings]
    module: str


COMMANDS: Mapping[str, Command] = {
    "run": Command(RunSettings, "kd.commands.run.command"),
    "compare": Command(CompareSettings, "kd.commands.compare.command"),
    "sweep": Command(SweepSettings, "kd.commands.sweep.command"),
    "distill": Command(DistillSettings, "kd.commands.run.distill"),
    "evaluate": Command(EvaluateSettings, "kd.commands.run.evaluate"),
    "report": Command(ReportSettings, "kd.commands.run.rebuild_report"),
    "cache": Command(CacheSettings, "kd.commands.run.cache"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status, as ``kd.commands.program`` has it.

    Args:
        arguments: those of the process unless given.

    Raises:
        SystemExit: after ``--help`` (0), and for a command line that is refused (2), before anything is done.
    """

    words = sys.argv[1:] if arguments is None else arguments

    def program() -> None:
        command, settings = _parsed(words)
        module = "kd.commands.dry_run" if getattr(settings, "dry_run", False) else command.module
        importlib.import_module(module).run(settings)

    return exit_status(program, command=("kd", *words))


def _parsed(arguments: Sequence[str]) -> tuple[Command, Settings]:
    kinds: dict[str, Callable[..., Settings]] = {name: command.settings for name, command in COMMANDS.items()}
    try:
        settings: Settings = subcommand_cli_from_dict(
            kinds,
            prog="kd",
            description="Knowledge distillation whose answer can be trusted.",
            args=arguments,
        )
        if isinstance(settings, RunSettings):
            settings = with_file(settings, arguments[1:])
        settings.check()  # before torch is imported: a mistake is answered at once
    except (ValueError, OSError) as error:
        say(f"error: {error}", to_stderr=True)
        raise SystemExit(2) from error
    return next(command for command in COMMANDS.values() if command.settings is type(settings)), settings
