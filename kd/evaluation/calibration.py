"""Calibration: is a network as often right as it says it is? Measured on logits, and mended by one temperature.

Everything is computed in float64 on the CPU, whatever the logits are. The prediction is the argmax of the logits (the
first of equals), the confidence its softmax probability. All functions share these arguments:

    logits: [N, K], finite, before any softmax; N ≥ 1, K ≥ 2.
    labels: [N], whole numbers in 0 … K − 1.
    temperature: T > 0 divides the logits before the softmax. Predictions stay those of the logits.
    bins: a whole number of at least 1.

Raises ValueError where an argument is none of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from kd.checks import require, require_labels, require_logits
from kd.evaluation.two_models import proportion_interval

BINS = 15  # as in Guo et al. 2017; without its number of bins an ECE says little
COLDEST, HOTTEST = 0.01, 100.0  # between these a temperature is looked for


class Bin(NamedTuple):
    """Images of like confidence: how many, their mean confidence and their accuracy, in [0, 1]; None where empty."""

    images: int
    confidence: float | None
    accuracy: float | None


class ReliabilityCurve(NamedTuple):
    """What a reliability diagram shows of one network.

    Attributes:
        intervals: Wilson's 95 % interval of each bin's accuracy, in [0, 1]; None where it is empty.
        ece: of the bins.
    """

    bins: tuple[Bin, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    ece: float


class Calibration(NamedTuple):
    """How well the confidences of one network fit, on one set of images.

    Attributes:
        nll: ≥ 0, in nats. Like brier a proper score: it is best, on average, for the true probabilities only.
        brier: in [0, 2].
        ece: in [0, 1], with bins of equal width.
        adaptive_ece: in [0, 1], with bins of equal mass.
        confidence: mean, in [0, 1]. Above the accuracy: over-confident, which the unsigned errors do not tell.
        accuracy: in [0, 1].
    """

    nll: float
    brier: float
    ece: float
    adaptive_ece: float
    confidence: float
    accuracy: float


class ChanceError(NamedTuple):
    """The ECE that perfect calibration shows by chance: its mean, and what it exceeds in one case of twenty."""

    mean: float
    high: float


class Temperature(NamedTuple):
    """A fitted temperature, and whether it is an end of the searched range: then it is no optimum."""

    value: float
    at_bound: bool


class Scaling(NamedTuple):
    """What a temperature from validation images does to a test set. Both have one accuracy: no prediction changes."""

    temperature: Temperature
    before: Calibration
    after: Calibration


def calibration(logits: Tensor, labels: Tensor, *, temperature: float = 1.0, bins: int = BINS) -> Calibration:
    """Every measure at once, each as its own function below defines it."""
    confidence, right = _judged(logits, labels, temperature)
    equal_width = reliability(logits, labels, temperature=temperature, bins=bins)
    equal_mass = reliability(logits, labels, temperature=temperature, bins=bins, equal_mass=True)
    return Calibration(
        nll=nll(logits, labels, temperature=temperature),
        brier=brier_score(logits, labels, temperature=temperature),
        ece=calibration_error(equal_width),
        adaptive_ece=calibration_error(equal_mass),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
    )


def nll(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> float:
    """Negative log-likelihood, the mean of −ln p(label): in nats, ≥ 0, without an upper end. ln K for equal logits."""
    log_probabilities = _scaled(logits, labels, temperature).log_softmax(dim=1)
    return abs(float(log_probabilities.gather(1, _column(labels)).mean()))  # abs: no −0.0


def brier_score(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> float:
    """Squared distance of the probabilities from the one-hot label: summed over the classes, averaged over the images.

    In [0, 2]. Elsewhere it may be halved, or at K = 2 be the squared error of one probability, which is half of this.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    probabilities = _scaled(logits, labels, temperature).softmax(dim=1)
    one_hot = torch.zeros_like(probabilities).scatter(1, _column(labels), 1.0)
    return float((probabilities - one_hot).square().sum(dim=1).mean())


def reliability(
    logits: Tensor, labels: Tensor, *, temperature: float = 1.0, bins: int = BINS, equal_mass: bool = False
) -> tuple[Bin, ...]:
    """The images put into bins by confidence, lowest first: what a reliability diagram shows.

    Equal width: bin b = 1 … B holds the confidences in ((b − 1)/B, b/B]. Those below 1/K are always empty.

    Equal mass: by rank r = 0 … N − 1 into bin ⌊r · B / N⌋, so counts differ by at most 1. Equal confidences share the
    rank of their first and so are never parted, or the order of the images would decide; the bins that they would have
    reached into are then empty. With N < B each image has a bin of its own, and B − N are empty.

    Source: equal width, Guo et al. 2017, arXiv:1706.04599, section 2; equal mass, Nguyen and O'Connor 2015,
    arXiv:1508.05154 (they choose the bins' size, here their number is given).
    """
    confidence, right = _judged(logits, labels, temperature)
    index = (_equal_mass if equal_mass else _equal_width)(confidence, bins)
    counts = torch.bincount(index, minlength=bins).tolist()
    sums = [torch.bincount(index, weights=values, minlength=bins).tolist() for values in (confidence, right)]
    return tuple(Bin(n, c / n, a / n) if n else Bin(0, None, None) for n, c, a in zip(counts, *sums, strict=True))


def calibration_error(bins: Iterable[Bin]) -> float:
    """Expected calibration error of bins that hold an image: Σ_b n_b/N · |accuracy_b − confidence_b|, in [0, 1].

    ECE of ``reliability(…)``, adaptive ECE of ``reliability(…, equal_mass=True)``. Only the predicted class counts, so
    adaptive ECE is not the measure over all classes of Nixon et al. 2019 (arXiv:1904.01685).

    Source: Guo et al. 2017, arXiv:1706.04599, section 2, with absolute differences.
    """
    full = [
        (n, confidence, accuracy) for n, confidence, accuracy in bins if confidence is not None and accuracy is not None
    ]
    images = sum(n for n, _, _ in full)
    require(images > 0, "bins", "none with an image", "bins of which one holds an image")
    return sum(n * abs(accuracy - confidence) for n, confidence, accuracy in full) / images


def reliability_curve(bins: Iterable[Bin], *, students: int = 1) -> ReliabilityCurve:
    """The bins of ``reliability`` with intervals for their accuracies.

    Args:
        students: how many were asked the same images, all in these bins. Their answers are no images more: counts and
            intervals are for one of them on average.
    """
    counted = tuple(own._replace(images=-(-own.images // students)) for own in bins)
    intervals = tuple(
        None if own.accuracy is None else proportion_interval(round(own.images * own.accuracy), own.images)
        for own in counted
    )
    return ReliabilityCurve(counted, intervals, calibration_error(counted))


def error_by_chance(
    logits: Tensor, *, temperature: float = 1.0, bins: int = BINS, draws: int = 1000, seed: int = 0
) -> ChanceError:
    """The ECE (equal width) of a network with these very confidences, were each one true.

    It is not 0: the accuracy of n images strays from its expectation. An ECE below ``high`` shows no miscalibration.
    In every draw a prediction is right with the probability that is its confidence. One seed, one result.

    Source: the consistency resampling of Bröcker and Smith 2007, "Increasing the reliability of reliability diagrams",
    here with the images kept and only their outcomes drawn.
    """
    require(draws >= 1, "draws", draws, "a whole number of at least 1", "1000 is usual")
    confidence = _confidence(logits, temperature)
    index = _equal_width(confidence, bins)
    random = torch.Generator().manual_seed(seed)
    errors = torch.empty(draws, dtype=torch.float64)
    for draw in range(draws):
        right = (torch.rand(confidence.shape, generator=random, dtype=torch.float64) < confidence).double()
        errors[draw] = torch.bincount(index, weights=right - confidence).abs().sum() / len(confidence)
    return ChanceError(float(errors.mean()), float(errors.quantile(0.95)))


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """The T in [0.01, 100] that minimises the NLL of softmax(logits / T): fit it on validation images, never on test.

    The NLL is convex in 1/T, so the one zero of its slope is the minimum, and a bracketing search cannot miss it.
    Where no zero lies in the range the better end is returned, and said to be one. That is so for predictions that are
    all right: every further cooling lowers the NLL, without end. Where all rows are constant no T matters: it is 1.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    from scipy.optimize import brentq  # 25 MB, which a run that fits no temperature does not need

    scores = _scaled(logits, labels, 1.0)
    scores = scores - scores.amax(dim=1, keepdim=True)
    if not scores.any():
        return Temperature(1.0, at_bound=False)
    true = scores.gather(1, _column(labels))

    def slope(log_temperature: float) -> float:
        """Derivative of the NLL with respect to 1/T: expected minus true score. It falls, or stays, as T grows."""
        expected = ((scores / math.exp(log_temperature)).softmax(dim=1) * scores).sum(dim=1, keepdim=True)
        return float((expected - true).mean())

    if slope(math.log(COLDEST)) <= 0:
        return Temperature(COLDEST, at_bound=True)
    if slope(math.log(HOTTEST)) >= 0:
        return Temperature(HOTTEST, at_bound=True)
    return Temperature(math.exp(brentq(slope, math.log(COLDEST), math.log(HOTTEST), xtol=1e-12)), at_bound=False)


def temperature_scaling(
    val_logits: Tensor, val_labels: Tensor, test_logits: Tensor, test_labels: Tensor, *, bins: int = BINS
) -> Scaling:
    """Fit the temperature on validation images, and measure the test images without and with it."""
    fitted = fit_temperature(val_logits, val_labels)
    before = calibration(test_logits, test_labels, bins=bins)
    classes = test_logits.shape[1]
    require(classes == val_logits.shape[1], "val_logits", list(val_logits.shape), f"of test_logits' {classes} classes")
    return Scaling(fitted, before, calibration(test_logits, test_labels, temperature=fitted.value, bins=bins))


def _scaled(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Logits over T in float64, after all arguments were checked."""
    require_logits("logits", logits)
    require_labels(labels, logits)
    return _divided(logits, temperature)


def _divided(logits: Tensor, temperature: float) -> Tensor:
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0")
    return logits.detach().cpu().double() / temperature


def _column(labels: Tensor) -> Tensor:
    return labels.cpu().long()[:, None]


def _confidence(logits: Tensor, temperature: float) -> Tensor:
    """[N] probabilities of the predictions: the largest ones, at any temperature."""
    require_logits("logits", logits)
    return _divided(logits, temperature).softmax(dim=1).amax(dim=1)


def _judged(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[N] confidences, and [N] 1.0 where the prediction is right, else 0.0: before the division, which rounds."""
    confidence = _confidence(logits, temperature)
    require_labels(labels, logits)
    return confidence, (logits.detach().cpu().argmax(dim=1) == labels.cpu()).double()


def _equal_width(confidence: Tensor, bins: int) -> Tensor:
    """[N] index of the bin. A confidence on an edge belongs below it; edges are b/B rounded once, as 1/K is."""
    require(bins >= 1, "bins", bins, "a whole number of at least 1", f"{BINS} is usual")
    return torch.bucketize(confidence, torch.arange(1, bins, dtype=torch.float64) / bins)


def _equal_mass(confidence: Tensor, bins: int) -> Tensor:
    """[N] index of the bin, from the number of smaller confidences."""
    require(bins >= 1, "bins", bins, "a whole number of at least 1", f"{BINS} is usual")
    rank = torch.searchsorted(confidence.sort().values, confidence)
    return rank * bins // len(confidence)
