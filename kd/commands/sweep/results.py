"""What a sweep has found: the choice, made on validation images, and what fresh seeds say of it on the test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

from kd.commands.sweep.points import Point, Score, Tried, choose, choose_control, label, ranked
from kd.evaluation.paired_seeds import Pairs, pair_errors
from kd.evaluation.verdict import Judgement, judge

ROLES = ("chosen", "documented", "control")


class Images(NamedTuple):
    """How many there are of each kind, and what they are called."""

    validation: int
    test: int
    noun: str = "images"


class Rates(NamedTuple):
    """Shares of images that the students of a point get wrong, on average.

    Attributes:
        validation_when_tried: for the chosen point too good, because it is the best of many.
        validation_fresh_seeds: of the same images.
    """

    validation_when_tried: float
    validation_fresh_seeds: float
    test: float


class Final(NamedTuple):
    """A student of a fresh seed, on both kinds of images."""

    validation: Score
    test: Score


def roles(tried: Sequence[Tried], documented: Point) -> dict[str, Point]:
    """The points that are to be tested, by role; one point may have several.

    The control is that of the chosen point, or of the documented one if the chosen one is itself a control: of another
    width it would be another network.

    Raises:
        FloatingPointError: there is none for a role, because a loss was not finite.
    """
    chosen = choose(tried, documented).point
    if not next(each for each in tried if each.point == documented).finite:
        raise FloatingPointError(
            f"the documented point ({label(documented)}) was not trained to its end: a loss was not finite. It is what "
            "the chosen one is held against; set --temperature, --alpha or --learning-rate to values that train."
        )
    judged = documented if chosen.is_control else chosen
    return dict(zip(ROLES, (chosen, documented, choose_control(tried, judged, documented).point), strict=True))


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        tried: every point, with students of the same seeds.
        documented: the point that the settings describe.
        seeds: of the students by which the points were judged.
        finals: the points of all roles → their students in the order of ``final_seeds``, none of which is in ``seeds``.
        margin: what counts as no difference, in percentage points of the test images.
        searched: whether the points were proposed one after another; else they are combinations of given values.
    """

    tried: Sequence[Tried]
    documented: Point
    seeds: Sequence[int]
    images: Images
    final_seeds: Sequence[int]
    finals: Mapping[Point, Sequence[Final]]
    margin: float
    searched: bool

    @cached_property
    def roles(self) -> dict[str, Point]:
        return roles(self.tried, self.documented)

    @cached_property
    def ordered(self) -> list[Tried]:
        """Every point, best first, and last those with a loss that was not finite."""
        return [*ranked(self.tried, self.documented), *(each for each in self.tried if not each.finite)]

    def roles_of(self, point: Point) -> list[str]:
        """What the point is: nothing, for most."""
        return [role for role, own in self.roles.items() if own == point]

    def found(self, point: Point) -> Tried:
        """How the point did when points were tried."""
        return next(each for each in self.tried if each.point == point)

    def rates(self, point: Point) -> Rates:
        """How the point's students did: by those it was judged by, and by those of fresh seeds. Only for a role's."""
        finals = self.finals[point]
        return Rates(
            self.found(point).mean / self.images.validation,
            fmean(each.validation.errors for each in finals) / self.images.validation,
            fmean(each.test.errors for each in finals) / self.images.test,
        )

    def pairs(self, ours: Point, theirs: Point) -> Pairs:
        """Test errors of one point's students against those of another's, paired by seed."""
        control, other = ([each.test.errors for each in self.finals[point]] for point in (theirs, ours))
        return pair_errors(control, other, self.images.test)

    def judged(self) -> str | None:
        """The role that is held against the control: the chosen point, or the documented one if that has no teacher.

        None where both are on the labels alone.
        """
        return next((role for role in ("chosen", "documented") if not self.roles[role].is_control), None)

    def judgement(self) -> Judgement | None:
        """The verdict on the point of the role ``judged``."""
        role = self.judged()
        if role is None:
            return None
        return judge(self.pairs(self.roles[role], self.roles["control"]), margin=self.margin)
