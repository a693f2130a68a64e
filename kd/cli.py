"""The command ``kd``. What a command can be told is a dataclass; the work is imported only when it is to be done."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from tyro.extras import subcommand_cli_from_dict

from kd.compare.settings import CompareSettings
from kd.console import say
from kd.program import exit_status
from kd.run_settings import RunSettings
from kd.sweep.settings import SweepSettings


class Settings(Protocol):
    def check(self) -> None:
        """Raise ValueError for a value outside its range."""


class Command(NamedTuple):
    """The class of a command's settings, and the module whose ``run(settings)`` does the work."""

    settings: type[Settings]
    module: str


COMMANDS: Mapping[str, Command] = {
    "run": Command(RunSettings, "kd.pipeline"),
    "compare": Command(CompareSettings, "kd.compare.command"),
    "sweep": Command(SweepSettings, "kd.sweep.command"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status, as ``kd.program`` has it.

    Args:
        arguments: those of the process unless given.

    Raises:
        SystemExit: after ``--help`` (0), and for a command line that is refused (2), before anything is done.
    """

    words = sys.argv[1:] if arguments is None else arguments

    def program() -> None:
        command, settings = _parsed(words)
        importlib.import_module(command.module).run(settings)

    return exit_status(program, command=("kd", *words))


def _parsed(arguments: Sequence[str]) -> tuple[Command, Settings]:
    settings: Settings = subcommand_cli_from_dict(
        {name: command.settings for name, command in COMMANDS.items()},
        prog="kd",
        description="Knowledge distillation whose answer can be trusted.",
        args=arguments,
    )
    try:
        settings.check()  # before torch is imported: a mistake is answered at once
    except ValueError as error:
        say(f"error: {error}", to_stderr=True)
        raise SystemExit(2) from error
    return next(command for command in COMMANDS.values() if command.settings is type(settings)), settings
