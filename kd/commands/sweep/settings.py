"""Settings of ``kd sweep``: the settings of ``kd run``, the values to try and the numbers of students."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import UseAppendAction

from kd.checks import MANY, at_least, or_none, ranges, require, require_in_range
from kd.commands.settings import PairedSettings

# Settings that affect students only, so they can vary under one teacher.
STUDENT_SETTINGS: Mapping[str, type[int] | type[float]] = {
    "student_width": int,
    "learning_rate": float,
    "epochs": int,
    "batch_size": int,
}


@dataclass(frozen=True, kw_only=True)
class SweepSettings(PairedSettings):
    """Choose temperature and alpha: train many students from one teacher and compare them on the validation images.

    TEMPERATURE and ALPHA define the documented point, the baseline of the choice. The chosen point, the documented
    point and the control are then trained with fresh seeds and tested once. If OUT contains a finished kd run with the
    same settings, its teacher and logits are reused.
    """

    command: ClassVar[str] = "sweep"

    # Points
    temperatures: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0)
    """temperatures to try, each above 0"""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """weights of the labels to try, in [0, 1]; 1 is the control, which is always tried"""
    vary: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE,VALUE,… varies another setting: student_width, learning_rate, epochs or batch_size"""
    trials: Annotated[int | None, or_none(at_least(1, "30 is usual", largest=MANY))] = None
    """points that Optuna proposes between the smallest and largest values, at least 1; None tries every combination"""
    seeds: Annotated[int, at_least(1, "a standard deviation needs 2", largest=MANY)] = 2
    """students per point, at least 1; all points use the same seeds, counting up from SEED"""

    # Evidence
    final_pairs: Annotated[int, at_least(2, "one pair has no spread", largest=MANY)] = 5
    """fresh seeds for testing the chosen point, the documented point and the control, at least 2"""

    @property
    def trainings(self) -> dict[str, int]:
        """Upper bound on the number of models to train, by kind; equal points are trained once."""
        others = math.prod(len(values) for values in self.varied.values())
        points = self.trials or len(self.temperatures) * len(self.alphas) * others
        controls = min(self.trials or others, others)
        return {
            "teacher": self._count_teachers(),
            "control": controls * self.seeds + self.final_pairs,
            "distilled": points * self.seeds + 2 * self.final_pairs,
        }

    @property
    def varied(self) -> dict[str, tuple[float, ...]]:
        """Names and values of the settings in ``vary``, without duplicates.

        Raises:
            ValueError: a text is not NAME=VALUE,VALUE,… or the setting does not affect students only.
        """
        parsed: dict[str, tuple[float, ...]] = {}
        for text in self.vary:
            name, values = _parse_vary(text)
            require(name not in parsed, f"--vary {name}", text, "given once", "list all values after one =")
            parsed[name] = values
        return parsed

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range or a search lacks Optuna."""
        super().check()
        require(
            self.method == "kd",
            "--method of kd sweep",
            self.method,
            "kd, because a sweep varies its temperature and alpha",
        )
        require(
            self.unlabelled is None, "--unlabelled", str(self.unlabelled), "omitted", "kd run and kd compare accept it"
        )
        require(
            not self.live, "--augment", " ".join(self.augment), "given with --views V", "kd sweep needs cached logits"
        )
        advice = "several are averaged at one temperature, but a sweep varies it"
        require(len(self.teachers_chosen) == 1, "--teacher of kd sweep", " ".join(self.teacher), "given once", advice)
        for name, grid_values in {"temperatures": self.temperatures, "alphas": self.alphas}.items():
            require(len(grid_values) >= 1, f"--{name}", grid_values, "at least one number")
            _check_values(name.removesuffix("s"), grid_values, f"--{name}")
        fixed = "student_width" in self.varied and self.student != "mlp"
        require(
            not fixed,
            "--vary student_width",
            self.student,
            "used with --student mlp, without a file",
            "other students have no such width",
        )
        for name, values in self.varied.items():
            _check_values(name, values, f"--vary {name}")
            self._require_documented(name, values)
        if self.trials is not None and importlib.util.find_spec("optuna") is None:
            raise ValueError(
                "--trials needs Optuna, which is not installed: pip install 'paired-distillation[search]'. Or omit "
                "--trials to try every combination of the values."
            )

    def _require_documented(self, name: str, values: Sequence[float]) -> None:
        """Check that the documented point is a candidate: its value must be among the values or in their range."""
        documented = getattr(self, name)
        included = documented in values if STUDENT_SETTINGS[name] is int else min(values) <= documented <= max(values)
        flag = f"--{name.replace('_', '-')}"
        allowed = f"values that include {documented}, the value of {flag}"
        require(included, f"--vary {name}", values, allowed, f"or set {flag} to one of your values")


def _parse_vary(text: str) -> tuple[str, tuple[float, ...]]:
    """Parse ``student_width=32,256`` into name and values."""
    name, equals, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    require(bool(equals), "--vary", text, "NAME=VALUE,VALUE,…", "for example --vary student_width=64,256")
    advice = f"use --{name}s" if name in {"temperature", "alpha"} else "other settings do not affect students only"
    require(name in STUDENT_SETTINGS, "--vary", name, f"one of {', '.join(STUDENT_SETTINGS)}", advice)
    kind = STUDENT_SETTINGS[name]
    try:
        values = tuple(dict.fromkeys(kind(value) for value in listed.split(",")))
    except ValueError as error:
        allowed = "integers" if kind is int else "numbers"
        raise ValueError(f"--vary {name} must be {allowed} separated by commas. Got {listed!r} instead.") from error
    return name, values


def _check_values(setting: str, values: Sequence[float], label: str) -> None:
    allowed = ranges(PairedSettings)[setting]
    for value in values:
        require_in_range(label, value, allowed)
