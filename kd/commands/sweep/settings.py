"""What ``kd sweep`` can be told: all that ``kd run`` can, which values to try, and how many students to judge by."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import UseAppendAction

from kd.checks import at_least, or_none, ranges, require, require_in_range
from kd.commands.settings import PairedSettings

# Settings that a student can have for itself. The others are the teacher's, the split's, or not about training at all.
STUDENTS_OWN: Mapping[str, type[int] | type[float]] = {
    "student_width": int,
    "learning_rate": float,
    "epochs": int,
    "batch_size": int,
}


@dataclass(frozen=True, kw_only=True)
class SweepSettings(PairedSettings):
    """Which temperature, which alpha? Many students from one teacher's logits, chosen on validation images alone.

    TEMPERATURE and ALPHA are the documented point. It, the control and the chosen point are then trained with fresh
    seeds and asked for the test images, once. In the folder of a finished ``kd run`` with the same settings, its
    teacher and its logits are used.
    """

    command: ClassVar[str] = "sweep"

    # Points
    temperatures: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0)
    """temperatures to try, each above 0"""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """weights of the labels to try, each in [0, 1]; 1 is the control, which is always tried"""
    vary: UseAppendAction[tuple[str, ...]] = ()
    """one more setting of the students alone, and values: student_width=64,256; learning_rate, epochs, batch_size"""
    trials: Annotated[int | None, or_none(at_least(1, "30 is usual"))] = None
    """points for Optuna to propose within the ranges of the values, at least 1; None tries every combination of them"""
    seeds: Annotated[int, at_least(1, "the spread of a point takes 2")] = 2
    """students for each point, at least 1, with seeds counting up from SEED; the same seeds at each point"""

    # Evidence
    final_pairs: Annotated[int, at_least(2, "one pair has no spread")] = 5
    """fresh seeds with which the chosen point, the documented one and the control are tested, at least 2"""

    @property
    def trainings(self) -> dict[str, int]:
        """How many models are trained, by kind: at most, for points that are the same are tried once."""
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
        """Each further setting and its values, from ``vary``, without repetitions.

        Raises:
            ValueError: the text is not NAME=VALUE,VALUE, or the setting is not one of a student's own.
        """
        read: dict[str, tuple[float, ...]] = {}
        for text in self.vary:
            name, values = _varied(text)
            require(name not in read, f"--vary {name}", text, "given once", "all its values go behind one =")
            read[name] = values
        return read

    def check(self) -> None:
        """Refuse a value outside its range, or a search without Optuna; the error names the flag."""
        super().check()
        require(self.method == "kd", "--method of kd sweep", self.method, "kd, whose temperature and alpha are varied")
        require(
            self.unlabelled is None, "--unlabelled", str(self.unlabelled), "left out", "kd run and kd compare take it"
        )
        require(
            not self.live, "--augment", " ".join(self.augment), "given with --views V", "kd sweep keeps all answers"
        )
        advice = "several are averaged at one temperature, and a sweep varies it"
        require(len(self.teachers_chosen) == 1, "--teacher of kd sweep", " ".join(self.teacher), "given once", advice)
        for name, values in {"temperatures": self.temperatures, "alphas": self.alphas}.items():
            require(len(values) >= 1, f"--{name}", values, "at least one number")
            _check_each(name.removesuffix("s"), values, f"--{name}")
        fixed = "student_width" in self.varied and self.student != "mlp"
        require(
            not fixed, "--vary student_width", self.student, "of --student mlp", "another student has no such width"
        )
        for name, own in self.varied.items():
            _check_each(name, own, f"--vary {name}")
            self._require_documented(name, own)
        if self.trials is not None and importlib.util.find_spec("optuna") is None:
            raise ValueError(
                "--trials needs Optuna, which is not installed: pip install 'paired-distillation[search]'. Without "
                "--trials every combination of the values is tried."
            )

    def _require_documented(self, name: str, values: Sequence[float]) -> None:
        """The documented point is one of those that may be chosen, so its values are to be among the wanted ones."""
        documented = getattr(self, name)
        inside = documented in values if STUDENTS_OWN[name] is int else min(values) <= documented <= max(values)
        flag = f"--{name.replace('_', '-')}"
        allowed = f"values with {documented} among them, which is {flag}"
        require(inside, f"--vary {name}", values, allowed, f"or set {flag} to one of yours: it is tried as well")


def _varied(text: str) -> tuple[str, tuple[float, ...]]:
    """``student_width=32,256`` as its name and values."""
    name, equals, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    require(bool(equals), "--vary", text, "NAME=VALUE,VALUE,…", "as in --vary student_width=64,256")
    advice = f"--{name}s lists its values" if name in {"temperature", "alpha"} else "the others are not a student's own"
    require(name in STUDENTS_OWN, "--vary", name, f"one of {', '.join(STUDENTS_OWN)}", advice)
    kind = STUDENTS_OWN[name]
    try:
        values = tuple(dict.fromkeys(kind(value) for value in listed.split(",")))
    except ValueError as error:
        allowed = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"--vary {name} must be {allowed} with commas between. Got {listed!r} instead.") from error
    return name, values


def _check_each(setting: str, values: Sequence[float], shown: str) -> None:
    allowed = ranges(PairedSettings)[setting]
    for value in values:
        require_in_range(shown, value, allowed)
