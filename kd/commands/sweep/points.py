"""Points of a sweep, their validation scores, and the rule that chooses the best point."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from kd.checks import require
from kd.commands.sweep.settings import GRID, OF_METHOD, SweepSettings, Value
from kd.methods import settings_of


class Point(NamedTuple):
    """Values of the varied settings with which students are trained.

    Attributes:
        temperature: of ``kd``; None if alpha = 1, because the soft loss then has weight 0.
        alpha: weight of the labels in ``kd``. Of another method's points 0, and 1 of its controls, which are trained on
            the labels alone.
        others: names and values of the varied settings of the students.
        method: names and values of the varied settings of the method, without temperature and alpha of ``kd``. Empty
            for a control, and None for a control of another method.
    """

    temperature: float | None
    alpha: float
    others: tuple[tuple[str, Value], ...] = ()
    method: tuple[tuple[str, Value], ...] | None = ()

    @property
    def control(self) -> Point:
        """The point with the same settings of the students that trains on the labels alone."""
        return self if self.is_control else Point(None, 1.0, self.others, None if self.temperature is None else ())

    @property
    def is_control(self) -> bool:
        return self.alpha == 1

    @property
    def width(self) -> Value:
        """The student's width; None if it is not varied."""
        return dict(self.others).get("student_width")

    @property
    def of_kd(self) -> bool:
        """Whether the method is ``kd``, whose points have a temperature and an alpha."""
        return self.temperature is not None or (self.is_control and self.method is not None)


class Score(NamedTuple):
    """Results of a student on some images.

    Attributes:
        cross_entropy: mean, in nats.
        balanced_error: in percent, if it decides the verdict; else None, and the errors decide.
    """

    errors: int
    cross_entropy: float
    balanced_error: float | None = None

    @property
    def deciding(self) -> float:
        """The value of what decides."""
        return self.errors if self.balanced_error is None else self.balanced_error


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
    def deciding(self) -> list[float]:
        """What decides, errors or balanced error, of each student whose loss was finite."""
        return [score.deciding for score in self.scores if score]

    @property
    def mean(self) -> float:
        """Mean of what decides; defined only if all losses were finite."""
        return fmean(self.deciding)

    @property
    def sd(self) -> float | None:
        """Standard deviation of what decides over the seeds; None for a single seed."""
        return stdev(self.deciding) if len(self.deciding) > 1 else None

    @property
    def cross_entropy(self) -> float:
        """Mean cross-entropy, independent of the order of the students; defined only if all losses were finite."""
        return math.fsum(score.cross_entropy for score in self.scores if score) / len(self.scores)


def make_point(
    temperature: float,
    alpha: float,
    others: Mapping[str, Value] | None = None,
    method: Mapping[str, Value] | None = None,
) -> Point:
    """Return the point of ``kd`` with these settings.

    Equal points mean equal training, as at alpha = 1 for any temperature and any further setting of the method.
    """
    student_settings = tuple((others or {}).items())
    if alpha == 1:
        return Point(None, 1.0, student_settings)
    return Point(float(temperature), float(alpha), student_settings, tuple((method or {}).items()))


def make_method_point(others: Mapping[str, Value], method: Mapping[str, Value]) -> Point:
    """Return the point of another method than ``kd`` with these settings."""
    return Point(None, 0.0, tuple(others.items()), tuple(method.items()))


def documented_point(settings: SweepSettings) -> Point:
    """Return the point that ``kd run`` trains with the same settings."""
    others = {name: getattr(settings, name) for name in settings.varied}
    own = settings_of(settings.method, settings.method_settings)
    method = {name: own[name.removeprefix(OF_METHOD)] for name in settings.varied_of_method}
    if settings.method != "kd":
        return make_method_point(others, method)
    return make_point(settings.temperature, settings.alpha, others, method)


def settings_at(settings: SweepSettings, point: Point) -> SweepSettings:
    """Return the settings with which ``kd run`` would train this point, which is no control."""
    given: dict[str, Any] = dict(settings.method_settings)
    given |= {name.removeprefix(OF_METHOD): value for name, value in point.method or ()}
    # ``others`` is annotated as numbers and texts, but its values have the types of their settings.
    changed: dict[str, Any] = dict(point.others)
    if settings.method == "kd" and point.temperature is not None:
        changed |= {"temperature": point.temperature, "alpha": point.alpha}
    of_set = {name: value for name, value in given.items() if settings.method != "kd" or name not in GRID}
    texts = tuple(f"{name}={value}" for name, value in of_set.items())  # str() of a float keeps all its digits
    return dataclasses.replace(settings, vary=(), set=texts, **changed)


def list_grid(settings: SweepSettings) -> list[Point]:
    """List the points of all combinations of the values, without duplicates."""
    others, method = (
        [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
        for varied in (settings.varied, settings.varied_of_method)
    )
    if settings.method != "kd":
        return [make_method_point(*pair) for pair in itertools.product(others, method)]
    combinations = itertools.product(others, method, settings.temperatures, settings.alphas)
    return list(dict.fromkeys(make_point(t, alpha, rest, own) for rest, own, t, alpha in combinations))


def add_controls(points: Iterable[Point]) -> list[Point]:
    """Return each point followed by its control, which has the same other settings; without duplicates."""
    return list(dict.fromkeys(itertools.chain.from_iterable((point, point.control) for point in points)))


def rank_points(tried: Iterable[TriedPoint], reference: Point) -> list[TriedPoint]:
    """Sort the finite points, best first; the result does not depend on the input order.

    Criteria, in order: fewer mean validation errors, or a lower balanced error if it decides; lower cross-entropy; a
    control (of another method than ``kd``: its point may train the same student, as at weight 0); smaller distance to
    the reference.
    """

    def key(trial: TriedPoint) -> tuple[Any, ...]:
        point = trial.point
        is_other_control = point.is_control and not point.of_kd
        nearness = not is_other_control, distance(point, reference), _sort_key(point)
        return trial.mean, trial.cross_entropy, *nearness

    return sorted((trial for trial in tried if trial.finite), key=key)


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
    """Return the distance of two points: the difference in alpha, plus the distances of all other settings.

    The distance of two numbers above 0 is their absolute log ratio, of other numbers their difference, and of texts 1.
    """
    values = dict(second.others + (second.method or ()))
    pairs: list[tuple[Value, Value]] = [
        (value, values[name]) for name, value in first.others + (first.method or ()) if name in values
    ]
    if first.temperature is not None and second.temperature is not None:
        pairs.append((first.temperature, second.temperature))
    return abs(first.alpha - second.alpha) + math.fsum(_value_distance(a, b) for a, b in pairs)


def _value_distance(a: Value, b: Value) -> float:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(math.log(a / b)) if a > 0 and b > 0 else abs(a - b)
    return float(a != b)


def _sort_key(point: Point) -> tuple[Any, ...]:
    """Return a key that orders all points, so that the remaining ties are broken deterministically."""
    values = [value for _, value in point.others + (point.method or ())]
    ranks = [(isinstance(value, str), value is not None, value or 0) for value in values]
    return (point.temperature or 0, point.alpha, len(ranks), ranks)


def format_point(point: Point, *, others: bool = True) -> str:
    """Format a point for display: ``T = 5, alpha = 0.5, student width 32``.

    Args:
        others: whether to include the settings other than temperature and alpha, if the method is ``kd``.
    """
    of_method = [f"{name} = {format_value(value)}" for name, value in point.method or ()]
    if point.is_control:
        texts = ["alpha = 1 (labels alone)" if point.of_kd else "labels alone"]
    elif point.temperature is not None:
        texts = [f"T = {format_value(point.temperature)}", f"alpha = {format_value(point.alpha)}"] + (
            of_method if others else []
        )
    else:
        texts = of_method or ["distilled"]
    other_texts = [f"{name.replace('_', ' ')} {format_value(value)}" for name, value in point.others] if others else []
    return ", ".join([*texts, *other_texts])


def format_value(value: Value) -> str:
    """Format a number with all its digits; 5.0 becomes 5."""
    return value if isinstance(value, str) else repr(value).removesuffix(".0").lower()
