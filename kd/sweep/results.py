"""What a sweep has found: the choice, made on validation images, and what fresh seeds say of it on the test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kd.evidence import Judgement, judge
from kd.paired import Pairs, paired
from kd.sweep.points import Point, Score, Tried, choose, choose_control

ROLES = ("chosen", "documented", "control")


class Final(NamedTuple):
    """A student of a fresh seed, on both kinds of images."""

    validation: Score
    test: Score


def roles(tried: Sequence[Tried], documented: Point) -> dict[str, Point]:
    """The points that are to be tested, by role; one point may have several."""
    chosen = choose(tried, documented).point
    return dict(zip(ROLES, (chosen, documented, choose_control(tried, chosen, documented).point), strict=True))


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        tried: every point, with students of the same seeds.
        documented: the point that the settings describe.
        seeds: of the students by which the points were judged.
        images: how many validation and test images there are.
        finals: the points of all roles → their students in the order of ``final_seeds``, none of which is in ``seeds``.
        margin: what counts as no difference, in percentage points of the test images.
        searched: whether the points were proposed one after another; else they are combinations of given values.
    """

    tried: Sequence[Tried]
    documented: Point
    seeds: Sequence[int]
    images: tuple[int, int]
    final_seeds: Sequence[int]
    finals: Mapping[Point, Sequence[Final]]
    margin: float
    searched: bool

    @cached_property
    def roles(self) -> dict[str, Point]:
        return roles(self.tried, self.documented)

    def found(self, point: Point) -> Tried:
        """How the point did when points were tried."""
        return next(each for each in self.tried if each.point == point)

    def rates(self, point: Point) -> tuple[float, float, float]:
        """Shares of images that the point's students get wrong: when it was tried, with fresh seeds, and of the test.

        For the chosen point the first is too good: it is the best of many.
        """
        validation, test = self.images
        finals = self.finals[point]
        fresh, tested = (sum(getattr(each, part).errors for each in finals) for part in ("validation", "test"))
        return (
            self.found(point).mean / validation,
            fresh / len(finals) / validation,
            tested / len(finals) / test,
        )

    def pairs(self, ours: Point, theirs: Point) -> Pairs:
        """Test errors of one point's students against those of another's, paired by seed."""
        control, other = ([each.test.errors for each in self.finals[point]] for point in (theirs, ours))
        return paired(control, other, self.images[1])

    def judged(self) -> str | None:
        """The role that is held against the control: the chosen point, or the documented one if no teacher was chosen.

        None where that one is the control as well.
        """
        candidates = (role for role in ("chosen", "documented") if self.roles[role] != self.roles["control"])
        return next(candidates, None)

    def judgement(self) -> Judgement | None:
        """The verdict on the point of the role ``judged``."""
        role = self.judged()
        if role is None:
            return None
        return judge(self.pairs(self.roles[role], self.roles["control"]), margin=self.margin)
