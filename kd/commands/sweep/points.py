"""Points of a sweep, their validation scores, and the rule that chooses the best point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from kd.checks import require
from kd.commands.sweep.settings import SweepSettings


class Point(NamedTuple):
    """Values of the varied settings with which students are trained.

    Attributes:
        temperature: None if alpha = 1, because the soft loss then has weight 0.
        alpha: weight of the labels.
        others: names and values of the other varied settings.
    """

    temperature: float | None
    alpha: float
    others: tuple[tuple[str, float], ...] = ()

    @property
    def control(self) -> Point:
        """The point with the same other settings that trains on the labels alone."""
        return Point(None, 1.0, self.others)

    @property
    def is_control(self) -> bool:
        return self.alpha == 1

    @property
    def width(self) -> float | None:
        """The student's width; None if it is not varied."""
        return dict(self.others).get("student_width")


class Score(NamedTuple):
    """Errors of a student on some images, and its mean cross-entropy in nats."""

    errors: int
    cross_entropy: float


class TriedPoint(NamedTuple):
    """A point and the validation scores of its students, in the order of the seeds; None if a loss was not finite."""

    point: Point
    scores: tuple[Score | None, ...]

    @property
    def finite(self) -> bool:
        """Whether the losses of all students were finite."""
        return None not in self.scores

    @property
    def errors(self) -> list[int]:
        """Errors of each student whose loss was finite."""
        return [score.errors for score in self.scores if score]

    @property
    def mean(self) -> float:
        """Mean errors; defined only if all losses were finite."""
        return fmean(self.errors)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the errors over the seeds; None for a single seed."""
        return stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def cross_entropy(self) -> float:
        """Mean cross-entropy, independent of the order of the students; defined only if all losses were finite."""
        return math.fsum(score.cross_entropy for score in self.scores if score) / len(self.scores)


def make_point(temperature: float, alpha: float, others: Mapping[str, float] | None = None) -> Point:
    """Return the point of these settings; equal points mean equal training, as at alpha = 1 for any temperature."""
    other_settings = tuple((others or {}).items())
    return Point(None if alpha == 1 else float(temperature), float(alpha), other_settings)


def documented_point(settings: SweepSettings) -> Point:
    """Return the point that ``kd run`` trains with the same settings."""
    return make_point(settings.temperature, settings.alpha, {name: getattr(settings, name) for name in settings.varied})


def list_grid(settings: SweepSettings) -> list[Point]:
    """List the points of all combinations of the values, without duplicates."""
    names, values = list(settings.varied), list(settings.varied.values())
    combinations = itertools.product(itertools.product(*values), settings.temperatures, settings.alphas)
    return list(
        dict.fromkeys(make_point(t, alpha, dict(zip(names, rest, strict=True))) for rest, t, alpha in combinations)
    )


def add_controls(points: Iterable[Point]) -> list[Point]:
    """Return each point followed by its control, which has the same other settings; without duplicates."""
    return list(dict.fromkeys(itertools.chain.from_iterable((point, point.control) for point in points)))


def rank_points(tried: Iterable[TriedPoint], reference: Point) -> list[TriedPoint]:
    """Sort the finite points, best first; the result does not depend on the input order.

    Criteria, in order: fewer mean validation errors, lower cross-entropy, smaller distance to the reference.
    """
    finite = (trial for trial in tried if trial.finite)
    return sorted(
        finite,
        key=lambda trial: (trial.mean, trial.cross_entropy, distance(trial.point, reference), _sort_key(trial.point)),
    )


def choose_point(tried: Sequence[TriedPoint], reference: Point) -> TriedPoint:
    """Return the best point (see ``rank_points``).

    Args:
        tried: at least one point, all with the same seeds.

    Raises:
        ValueError: the numbers of seeds differ.
        FloatingPointError: no point is finite.
    """
    counts = {len(trial.scores) for trial in tried}
    require(
        len(counts) == 1,
        "numbers of seeds",
        sorted(counts),
        "equal for all points",
        "means of few seeds are more often the best by luck",
    )
    best = rank_points(tried, reference)
    if not best:
        raise FloatingPointError(
            f"none of the {len(tried)} points could be trained: each had a loss that was not finite. Set a smaller "
            "--learning-rate."
        )
    return best[0]


def choose_control(tried: Sequence[TriedPoint], judged: Point, reference: Point) -> TriedPoint:
    """Return the best control with the judged point's width; it is tuned on the validation images like the method."""
    controls = [trial for trial in tried if trial.point.is_control and trial.point.width == judged.width]
    return choose_point(controls, reference)


def distance(first: Point, second: Point) -> float:
    """Return the distance of two points: the difference in alpha, plus the absolute log ratio of each other setting."""
    pairs = [(value, dict(second.others)[name]) for name, value in first.others]
    if first.temperature is not None and second.temperature is not None:
        pairs.append((first.temperature, second.temperature))
    return abs(first.alpha - second.alpha) + math.fsum(abs(math.log(a / b)) for a, b in pairs)


def _sort_key(point: Point) -> tuple[float, ...]:
    """Return a key that orders all points, so that the remaining ties are broken deterministically."""
    return (point.temperature or 0, point.alpha, *(value for _, value in point.others))


def format_point(point: Point, *, others: bool = True) -> str:
    """Format a point for display: ``T = 5, alpha = 0.5, student width 32``."""
    text = "alpha = 1 (labels alone)"
    if point.temperature is not None:
        text = f"T = {format_value(point.temperature)}, alpha = {format_value(point.alpha)}"
    other_texts = [f"{name.replace('_', ' ')} {format_value(value)}" for name, value in point.others] if others else []
    return ", ".join([text, *other_texts])


def format_value(value: float) -> str:
    """Format a number with all its digits; 5.0 becomes 5."""
    return repr(value).removesuffix(".0")
