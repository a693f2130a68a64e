"""Settings of ``kd judge``. Imports no torch, for a fast ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from kd.checks import DECIDE, check_ranges, require
from kd.commands.paired_settings import MARGIN
from kd.commands.settings import flag


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Judge predictions from anywhere: another trainer, another framework, another paper.

    The first file of --control and the first of --distilled are one pair, trained with the same seed, and so on. A file
    is .npy, .npz or .csv, with a row for each test item in the order of --labels, or with a column of --ids.
    """

    command: ClassVar[str] = "judge"

    control: tuple[Path, ...] = ()
    """predictions of the controls, a file each; at least two"""
    distilled: tuple[Path, ...] = ()
    """predictions of the distilled students, as many files as --control, in the same order"""
    smoothed: tuple[Path, ...] = ()
    """predictions of students with label smoothing, as many files as --control; without them, the verdict is never that
    distillation helps"""
    labels: Path = Path("labels.npy")
    """true class of each test item, as a number from 0: .npy, .npz or .csv with a single column"""
    kind: Literal["logits", "probabilities", "classes"] = "logits"
    """content of the files for each item: a logit or a probability for each class, or the number of one class"""
    ids: str | None = None
    """column (.csv) or array (.npz) with the id of each item, in every file: rows of the predictions are matched with
    those of --labels by it; None: rows in the order of --labels"""
    class_names: tuple[str, ...] = ()
    """names of the classes in label order; columns of .csv files with these names are put into their order"""
    decide: Annotated[str, DECIDE] = "auto"
    """what decides: errors, balanced (mean error of the classes), nll or recall:CLASS; auto takes balanced if the
    classes differ in size by more than a factor of 3, else errors"""
    margin: Annotated[float, MARGIN] = 0.1
    """equivalence margin in percentage points of the test items, in (0, 100]; smaller differences do not matter"""
    out: Path = Path("judged")
    """output folder: results/report.html and results/metrics/judgement.json"""

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range."""
        check_ranges(JudgeSettings, vars(self), shown=flag)
        require(len(self.control) >= 2, "--control", f"{len(self.control)} files", "at least 2 files")
        for name, files in (("--distilled", self.distilled), ("--smoothed", self.smoothed)):
            allowed = len(files) == len(self.control) or (name == "--smoothed" and not files)
            require(allowed, name, f"{len(files)} files", f"{len(self.control)} files, as many as --control")
        require(
            self.kind != "classes" or self.decide != "nll", "--decide", "nll", "another quantity with --kind classes"
        )
