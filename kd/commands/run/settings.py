"""What the commands for a part of a run can be told. Importable in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional

from kd.checks import at_least, check_ranges
from kd.commands.settings import RunSettings, flag


@dataclass(frozen=True, kw_only=True)
class DistillSettings(RunSettings):
    """Train the pair, and the teacher where there is none yet; no test item is asked.

    Starts from the settings in OUT/run.toml where there are any, and leaves its own there. ``kd evaluate`` does the
    rest of a run.
    """

    own_file: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Ask the trained models of OUT for the test items, once, and write all results; nothing is trained."""

    out: Path = Path("run")
    """folder of a run, with its run.toml"""

    def check(self) -> None:
        """All values are possible."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Put results/report.html together anew from what the commands have found in OUT; nothing is computed."""

    out: Path = Path("run")
    """folder of a run, a comparison or a sweep"""

    def check(self) -> None:
        """All values are possible."""


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """The teacher's logits that OUT has kept: list them, or ask the teacher again and compare."""

    action: Positional[Literal["info", "verify"]]
    """info lists them; verify asks the saved teacher for a sample of rows again, and ends with 1 where one differs"""
    out: Path = Path("run")
    """folder of a run, with its run.toml"""
    rows: Annotated[int, at_least(1)] = 1000
    """rows of each part for which the teacher is asked, chosen at random, at least 1; all where there are fewer"""

    def check(self) -> None:
        """Refuse a value outside its range; the error names the flag."""
        check_ranges(type(self), vars(self), shown=flag)
