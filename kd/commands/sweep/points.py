"""The points of a sweep, how each did on the validation images, and which one is chosen: the rule alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from kd.checks import require
from kd.commands.sweep.settings import SweepSettings


class Point(NamedTuple):
    """One way to train a student.

    Attributes:
        temperature: None where alpha is 1: the soft loss has no weight, and no temperature makes a difference.
        alpha: weight of the labels.
        others: the further settings that are varied, by name.
    """

    temperature: float | None
    alpha: float
    others: tuple[tuple[str, float], ...] = ()

    @property
    def control(self) -> Point:
        """The same on the labels alone."""
        return Point(None, 1.0, self.others)

    @property
    def is_control(self) -> bool:
        return self.alpha == 1

    @property
    def width(self) -> float | None:
        """The student's width where it is varied: a control of another width would be another network."""
        return dict(self.others).get("student_width")


class Score(NamedTuple):
    """A student on some images: how many it gets wrong, and its mean cross-entropy with the labels, in nats."""

    errors: int
    cross_entropy: float


class Tried(NamedTuple):
    """A point and its students in the order of their seeds; None for one whose loss was not finite."""

    point: Point
    scores: tuple[Score | None, ...]

    @property
    def finite(self) -> bool:
        """Whether every student's loss was."""
        return None not in self.scores

    @property
    def errors(self) -> list[int]:
        """Of each student whose loss was finite."""
        return [score.errors for score in self.scores if score]

    @property
    def mean(self) -> float:
        """Mean errors; only for a finite point."""
        return fmean(self.errors)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the errors over the seeds; None for a single one."""
        return stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def cross_entropy(self) -> float:
        """Mean over the students; only for a finite point. The same whatever their order."""
        return math.fsum(score.cross_entropy for score in self.scores if score) / len(self.scores)


def point(temperature: float, alpha: float, others: Mapping[str, float] | None = None) -> Point:
    """The point of these settings; all that describe the same training are the same point."""
    named = tuple((others or {}).items())
    return Point(None if alpha == 1 else float(temperature), float(alpha), named)


def documented(settings: SweepSettings) -> Point:
    """The point that ``kd run`` trains with the same settings."""
    return point(settings.temperature, settings.alpha, {name: getattr(settings, name) for name in settings.varied})


def grid(settings: SweepSettings) -> list[Point]:
    """Every combination of the values, in order, each once."""
    names, values = list(settings.varied), list(settings.varied.values())
    combinations = itertools.product(itertools.product(*values), settings.temperatures, settings.alphas)
    return list(dict.fromkeys(point(t, alpha, dict(zip(names, own, strict=True))) for own, t, alpha in combinations))


def with_controls(points: Iterable[Point]) -> list[Point]:
    """The points and the control of each, each once: the control is given every further setting that the method is."""
    return list(dict.fromkeys(itertools.chain.from_iterable((each, each.control) for each in points)))


def ranked(tried: Iterable[Tried], reference: Point) -> list[Tried]:
    """The finite points, best first, whatever order they come in.

    Fewer errors on the validation images over all seeds; among equals the lower cross-entropy with the labels; then the
    point nearest to the reference.
    """
    finite = (each for each in tried if each.finite)
    return sorted(
        finite,
        key=lambda each: (each.mean, each.cross_entropy, distance(each.point, reference), _order(each.point)),
    )


def choose(tried: Sequence[Tried], reference: Point) -> Tried:
    """The first of ``ranked``.

    Args:
        tried: all with the same seeds.

    Raises:
        ValueError: the numbers of seeds differ.
        FloatingPointError: not one point is finite.
    """
    counts = {len(each.scores) for each in tried}
    require(len(counts) == 1, "seeds", sorted(counts), "as many at each point", "else the luckier one is chosen")
    best = ranked(tried, reference)
    if not best:
        raise FloatingPointError(
            f"none of the {len(tried)} points was trained to its end: at each, a loss was not finite. A smaller "
            "--learning-rate is the usual remedy."
        )
    return best[0]


def choose_control(tried: Sequence[Tried], judged: Point, reference: Point) -> Tried:
    """The best of the controls with as many hidden units as the judged point: tuned as the method was."""
    controls = [each for each in tried if each.point.is_control and each.point.width == judged.width]
    return choose(controls, reference)


def distance(one: Point, other: Point) -> float:
    """How far apart: the difference in alpha, and for each other setting the factor between the two, as a logarithm."""
    pairs = [(value, dict(other.others)[name]) for name, value in one.others]
    if one.temperature is not None and other.temperature is not None:
        pairs.append((one.temperature, other.temperature))
    return abs(one.alpha - other.alpha) + math.fsum(abs(math.log(a / b)) for a, b in pairs)


def _order(point: Point) -> tuple[float, ...]:
    """One fixed order of all points, so that the last tie is broken in the same way every time."""
    return (point.temperature or 0, point.alpha, *(value for _, value in point.others))


def label(point: Point, *, others: bool = True) -> str:
    """For people: ``T = 5, alpha = 0.5, student width 32``."""
    own = "alpha = 1 (labels alone)"
    if point.temperature is not None:
        own = f"T = {plain(point.temperature)}, alpha = {plain(point.alpha)}"
    further = [f"{name.replace('_', ' ')} {plain(value)}" for name, value in point.others] if others else []
    return ", ".join([own, *further])


def plain(value: float) -> str:
    """The number in full, and 5 for 5.0."""
    return repr(value).removesuffix(".0")
