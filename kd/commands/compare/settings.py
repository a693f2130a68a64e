"""What ``kd compare`` can be told: all that ``kd run`` can, and how many pairs under which conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from kd.checks import Range, at_least, require
from kd.commands.settings import PairedSettings


@dataclass(frozen=True, kw_only=True)
class CompareSettings(PairedSettings):
    """Did distillation help? Many pairs of control and distilled student from one teacher, and a verdict.

    In the folder of a finished ``kd run`` with the same settings, its teacher and its logits are used.
    """

    command: ClassVar[str] = "compare"

    # Evidence
    pairs: Annotated[int, at_least(2, "10 is usual; one pair has no spread")] = 10
    """pairs of control and distilled student for each teacher, at least 2; their seeds count up from SEED"""
    teachers: Annotated[int, at_least(1)] = 1
    """teachers, at least 1, with seeds counting up from SEED; the verdict then speaks of more than one teacher"""
    splits: Annotated[int, at_least(1)] = 1
    """splits into training and validation images, at least 1, counting up from RANDOM_STATE; a teacher for each"""
    smoothing: Annotated[float, Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.1 is usual; 0 leaves that control out")] = (
        0.1
    )
    """label smoothing of a further control, in [0, 1): is it the teacher, or just softer targets? 0 leaves it out"""
    longer: bool = True
    """a further control, trained on the labels until its multiply-adds equal those of the distilled student and its
    share of the teacher: is it the teacher, or just more computation?"""

    def check(self) -> None:
        """Refuse a value outside its range; the error names the flag."""
        super().check()
        several = self.teachers > 1 and not self._count_teachers()
        advice = "a teacher that comes trained is the same with every seed"
        require(not several, "--teachers", self.teachers, "1 where none is trained here", advice)

    @property
    def trainings(self) -> dict[str, int]:
        """How many models are trained, by kind; those of ``longer`` take more epochs."""
        teachers = max(self.teachers, self.splits)
        further = {"smoothed": bool(self.smoothing), "longer": self.longer}
        arms = ["control", "distilled", *(name for name, wanted in further.items() if wanted)]
        return {"teacher": teachers * self._count_teachers(), **dict.fromkeys(arms, teachers * self.pairs)}
