"""Settings of the commands for single steps of a run. Imports no torch, for a fast ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional

from kd.checks import at_least, check_ranges, require
from kd.commands.settings import RunSettings, flag


@dataclass(frozen=True, kw_only=True)
class DistillSettings(RunSettings):
    """Train teacher, control and distilled student, without evaluating them on the test split.

    Settings in an existing OUT/run.toml are the defaults; the settings used are saved there. kd evaluate completes the
    run.
    """

    reads_run_file: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Evaluate the trained models of OUT on the test split, once, and write all results, without training."""

    out: Path = Path("run")
    """folder of a run, with its run.toml"""
    trust: bool = False
    """run the Python files that OUT/run.toml names; not needed for files that a command line named before"""

    def check(self) -> None:
        """Do nothing: all values are valid."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Rebuild OUT/results/report.html from the results saved in OUT; nothing is computed."""

    out: Path = Path("run")
    """folder of a run, a comparison or a sweep"""

    def check(self) -> None:
        """Do nothing: all values are valid."""


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Show the content of OUT/.kd and of the cache of decoded images; with --prune, delete what no command needs."""

    out: Path = Path("run")
    """folder of a run, a comparison or a sweep"""
    prune: bool = False
    """delete saved state that no command used in its last complete run in OUT; the same commands still reuse all
    their steps"""
    images: bool = False
    """with --prune, also delete the user's cache of decoded images, while no other command uses it; images are decoded
    again when needed"""

    def check(self) -> None:
        """Raise ``ValueError`` for settings that clash; the error names the flag."""
        require(self.prune or not self.images, "--images", self.images, "given with --prune")


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """List the teacher logits cached in OUT, or compare them with the saved teacher."""

    action: Positional[Literal["info", "verify"]] = "info"
    """info lists the cached logits; verify recomputes random rows with the teacher and exits with 1 if one differs"""
    out: Path = Path("run")
    """folder of a run, with its run.toml"""
    rows: Annotated[int, at_least(1)] = 1000
    """rows to recompute per split, at least 1; all rows if a split has fewer"""
    trust: bool = False
    """run the Python files that OUT/run.toml names; not needed for files that a command line named before"""

    def check(self) -> None:
        """Raise ``ValueError`` for a value outside its range; the error names the flag."""
        check_ranges(type(self), vars(self), shown=flag)
