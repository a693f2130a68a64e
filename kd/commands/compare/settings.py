"""Settings of ``kd compare``: the settings of ``kd run``, the numbers of pairs and teachers, additional controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from kd.checks import Range, at_least, require
from kd.commands.settings import PairedSettings


@dataclass(frozen=True, kw_only=True)
class CompareSettings(PairedSettings):
    """Test whether distillation helps: train pairs of control and distilled student, then state a verdict.

    If OUT contains a finished kd run with the same settings, its teacher and logits are reused.
    """

    command: ClassVar[str] = "compare"

    # Evidence
    pairs: Annotated[int, at_least(2, "10 is usual; one pair has no spread")] = 10
    """pairs of control and distilled student per teacher, at least 2; their seeds count up from SEED"""
    teachers: Annotated[int, at_least(1)] = 1
    """teachers to train, at least 1; their seeds count up from SEED. The overall verdict counts each teacher once"""
    splits: Annotated[int, at_least(1)] = 1
    """training/validation splits, at least 1, each with its own teacher; their seeds count up from RANDOM_STATE"""
    smoothing: Annotated[float, Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.1 is usual; 0 omits this control")] = 0.1
    """label smoothing of an additional control, in [0, 1): do soft targets alone help as much? 0 omits it"""
    longer: bool = True
    """add a control trained for as many multiply-adds as a distilled student plus its share of the teacher"""

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range."""
        super().check()
        only_loaded = self.teachers > 1 and not self._count_teachers()
        advice = "seeds do not change a loaded teacher"
        require(not only_loaded, "--teachers", self.teachers, "1 with a loaded teacher", advice)

    @property
    def trainings(self) -> dict[str, int]:
        """Number of models to train, by kind; ``longer`` models take more epochs."""
        teachers = max(self.teachers, self.splits)
        further = {"smoothed": bool(self.smoothing), "longer": self.longer}
        arms = ["control", "distilled", *(name for name, enabled in further.items() if enabled)]
        return {"teacher": teachers * self._count_teachers(), **dict.fromkeys(arms, teachers * self.pairs)}
