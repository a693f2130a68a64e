"""Calibration metrics computed from logits, reliability diagrams and temperature scaling.

All computations run in float64 on the CPU, whatever the dtype and device of the logits. The prediction is the argmax
of the logits (the first one on ties), and the confidence is its softmax probability. All functions share these
arguments:

    logits: [N, K], finite, before any softmax; N ≥ 1, K ≥ 2.
    labels: [N], integers in 0 … K − 1.
    temperature: T > 0 divides the logits before the softmax. It never changes the predictions.
    bins: an integer of at least 1.

An argument outside these ranges raises ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from kd.checks import require, require_labels, require_logits
from kd.devices import using_threads
from kd.evaluation.two_models import proportion_interval

BINS = 15  # as in Guo et al. 2017; ECE depends on the number of bins, so report both
T_MIN, T_MAX = 0.01, 100.0  # search range of the temperature


class Bin(NamedTuple):
    """A confidence bin: number of images, mean confidence and accuracy in [0, 1]; both are None if the bin is empty."""

    images: int
    confidence: float | None
    accuracy: float | None


class ReliabilityCurve(NamedTuple):
    """The curve of one network in a reliability diagram.

    Attributes:
        intervals: 95 % Wilson interval of the accuracy of each bin, in [0, 1]; None if the bin is empty.
        ece: expected calibration error of the bins.
    """

    bins: tuple[Bin, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    ece: float


class Calibration(NamedTuple):
    """Calibration metrics of one network on one set of images.

    Attributes:
        nll: negative log-likelihood in nats, ≥ 0. Like ``brier`` a strictly proper score: only the true probabilities
            minimise its expectation.
        brier: Brier score in [0, 2].
        ece: expected calibration error in [0, 1], with bins of equal width.
        adaptive_ece: expected calibration error in [0, 1], with bins of equal mass.
        confidence: mean confidence in [0, 1]. Above the accuracy, the network is over-confident; ECE has no sign.
        accuracy: in [0, 1].
    """

    nll: float
    brier: float
    ece: float
    adaptive_ece: float
    confidence: float
    accuracy: float


class ChanceError(NamedTuple):
    """Mean and 95th percentile of the ECE of a perfectly calibrated network, which is above 0 by sampling error."""

    mean: float
    high: float


class Temperature(NamedTuple):
    """A fitted temperature; ``at_bound`` is True if it is an end of the search range, and thus not an optimum."""

    value: float
    at_bound: bool


class Scaling(NamedTuple):
    """Calibration on a test set before and after temperature scaling, which leaves the accuracy unchanged."""

    temperature: Temperature
    before: Calibration
    after: Calibration


def calibration(logits: Tensor, labels: Tensor, *, temperature: float = 1.0, bins: int = BINS) -> Calibration:
    """Return all calibration metrics; see ``nll``, ``brier_score`` and ``calibration_error`` for their definitions."""
    confidence, correct = _score_predictions(logits, labels, temperature)
    equal_width = reliability(logits, labels, temperature=temperature, bins=bins)
    equal_mass = reliability(logits, labels, temperature=temperature, bins=bins, equal_mass=True)
    return Calibration(
        nll=nll(logits, labels, temperature=temperature),
        brier=brier_score(logits, labels, temperature=temperature),
        ece=calibration_error(equal_width),
        adaptive_ece=calibration_error(equal_mass),
        confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
    )


def nll(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> float:
    """Return the negative log-likelihood, the mean of −ln p(label) in nats: ≥ 0, unbounded; ln K for equal logits."""
    log_probabilities = _scale_logits(logits, labels, temperature).log_softmax(dim=1)
    return abs(float(log_probabilities.gather(1, _to_column(labels)).mean()))  # abs turns −0.0 into 0.0


def brier_score(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> float:
    """Return the squared distance of probabilities and one-hot label: summed over classes, averaged over images.

    In [0, 2]. Some definitions are half of this, such as the squared error of a single probability for K = 2.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    probabilities = _scale_logits(logits, labels, temperature).softmax(dim=1)
    one_hot = torch.zeros_like(probabilities).scatter(1, _to_column(labels), 1.0)
    return float((probabilities - one_hot).square().sum(dim=1).mean())


def reliability(
    logits: Tensor, labels: Tensor, *, temperature: float = 1.0, bins: int = BINS, equal_mass: bool = False
) -> tuple[Bin, ...]:
    """Bin the images by confidence, lowest bin first, as in a reliability diagram.

    Equal width: bin b = 1 … B holds the confidences in ((b − 1)/B, b/B]. Bins below 1/K are always empty.

    Equal mass: rank r = 0 … N − 1 goes into bin ⌊r · B / N⌋, so counts differ by at most 1. Tied confidences share
    their lowest rank and therefore one bin, so the order of the images does not matter. The next bins may then be
    empty. If N < B, each image has its own bin and B − N bins are empty.

    Source: equal width, Guo et al. 2017, arXiv:1706.04599, section 2; equal mass, Nguyen and O'Connor 2015,
    arXiv:1508.05154 (there the size of the bins is fixed, here their number).
    """
    confidence, correct = _score_predictions(logits, labels, temperature)
    index = (_bin_by_mass if equal_mass else _bin_by_width)(confidence, bins)
    counts = torch.bincount(index, minlength=bins).tolist()
    sums = [torch.bincount(index, weights=values, minlength=bins).tolist() for values in (confidence, correct)]
    return tuple(Bin(n, c / n, a / n) if n else Bin(0, None, None) for n, c, a in zip(counts, *sums, strict=True))


def calibration_error(bins: Iterable[Bin]) -> float:
    """Return the expected calibration error Σ_b n_b/N · |accuracy_b − confidence_b| over non-empty bins, in [0, 1].

    ``reliability(…)`` gives the ECE, ``reliability(…, equal_mass=True)`` the adaptive ECE. Only the predicted class
    counts, so adaptive ECE differs from the metric over all classes of Nixon et al. 2019 (arXiv:1904.01685).

    Source: Guo et al. 2017, arXiv:1706.04599, section 2, with absolute differences.
    """
    filled = [
        (n, confidence, accuracy) for n, confidence, accuracy in bins if confidence is not None and accuracy is not None
    ]
    images = sum(n for n, _, _ in filled)
    require(images > 0, "the number of images in bins", images, "at least 1")
    return sum(n * abs(accuracy - confidence) for n, confidence, accuracy in filled) / images


def reliability_curve(bins: Iterable[Bin], *, students: int = 1) -> ReliabilityCurve:
    """Return the bins of ``reliability`` with confidence intervals for their accuracies.

    Args:
        students: number of students whose predictions on the same images are pooled in the bins. Pooling adds no
            images: counts and intervals are per student, on average.
    """
    per_student = tuple(bin_._replace(images=-(-bin_.images // students)) for bin_ in bins)
    intervals = tuple(
        None if bin_.accuracy is None else proportion_interval(round(bin_.images * bin_.accuracy), bin_.images)
        for bin_ in per_student
    )
    return ReliabilityCurve(per_student, intervals, calibration_error(per_student))


def error_by_chance(
    logits: Tensor, *, temperature: float = 1.0, bins: int = BINS, draws: int = 1000, seed: int = 0
) -> ChanceError:
    """Simulate the ECE (equal width) of a perfectly calibrated network with the same confidences.

    It is above 0 because the accuracy of n images varies around its expectation. An ECE below ``high`` is no evidence
    of miscalibration. In each draw, a prediction is correct with a probability equal to its confidence. The result is
    deterministic for a seed.

    Source: consistency resampling, Bröcker and Smith 2007, "Increasing the reliability of reliability diagrams"; here
    the images are fixed and only the outcomes are drawn.
    """
    require(draws >= 1, "draws", draws, "an integer of at least 1", "1000 is usual")
    confidence = _compute_confidence(logits, temperature)
    index = _bin_by_width(confidence, bins)
    generator = torch.Generator().manual_seed(seed)
    errors = torch.empty(draws, dtype=torch.float64)
    with using_threads(1):  # as little work as this waits longer for a second thread than it takes
        for draw in range(draws):
            correct = (torch.rand(confidence.shape, generator=generator, dtype=torch.float64) < confidence).double()
            errors[draw] = torch.bincount(index, weights=correct - confidence).abs().sum() / len(confidence)
    return ChanceError(float(errors.mean()), float(errors.quantile(0.95)))


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """Return the T in [0.01, 100] that minimises the NLL of softmax(logits / T); never fit it on test images.

    The NLL is convex in 1/T, so the only zero of its slope is the minimum, and a bracketing search always finds it.
    If the range contains no zero, the bound with the lower NLL is returned, with ``at_bound``. This happens if all
    predictions are correct: a smaller T then always lowers the NLL. If all rows are constant, T has no effect and is 1.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    from scipy.optimize import brentq  # imported late: takes 25 MB, and not every run fits a temperature

    scores = _scale_logits(logits, labels, 1.0)
    scores = scores - scores.amax(dim=1, keepdim=True)
    if not scores.any():
        return Temperature(1.0, at_bound=False)
    label_scores = scores.gather(1, _to_column(labels))

    def slope(log_temperature: float) -> float:
        """Return the derivative of the NLL with respect to 1/T: expected minus label score. Never increases with T."""
        expected = ((scores / math.exp(log_temperature)).softmax(dim=1) * scores).sum(dim=1, keepdim=True)
        return float((expected - label_scores).mean())

    if slope(math.log(T_MIN)) <= 0:
        return Temperature(T_MIN, at_bound=True)
    if slope(math.log(T_MAX)) >= 0:
        return Temperature(T_MAX, at_bound=True)
    return Temperature(math.exp(brentq(slope, math.log(T_MIN), math.log(T_MAX), xtol=1e-12)), at_bound=False)


def temperature_scaling(
    val_logits: Tensor, val_labels: Tensor, test_logits: Tensor, test_labels: Tensor, *, bins: int = BINS
) -> Scaling:
    """Fit the temperature on validation images; measure calibration on test images without and with it."""
    temperature = fit_temperature(val_logits, val_labels)
    before = calibration(test_logits, test_labels, bins=bins)
    classes = test_logits.shape[1]
    require(
        classes == val_logits.shape[1],
        "val_logits",
        list(val_logits.shape),
        f"of shape [images, {classes}], like test_logits",
    )
    after = calibration(test_logits, test_labels, temperature=temperature.value, bins=bins)
    return Scaling(temperature, before, after)


def _scale_logits(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Check all arguments and return logits / T in float64."""
    require_logits("logits", logits)
    require_labels(labels, logits)
    return _divide(logits, temperature)


def _divide(logits: Tensor, temperature: float) -> Tensor:
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0")
    return logits.detach().cpu().double() / temperature


def _to_column(labels: Tensor) -> Tensor:
    return labels.cpu().long()[:, None]


def _compute_confidence(logits: Tensor, temperature: float) -> Tensor:
    """Return the probability of each prediction, [N]: the largest of its row at any temperature."""
    require_logits("logits", logits)
    return _divide(logits, temperature).softmax(dim=1).amax(dim=1)


def _score_predictions(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the confidence of each prediction, [N], and 1.0 if it is correct, else 0.0, [N].

    Predictions come from the raw logits: dividing by T rounds and could create ties.
    """
    confidence = _compute_confidence(logits, temperature)
    require_labels(labels, logits)
    return confidence, (logits.detach().cpu().argmax(dim=1) == labels.cpu()).double()


def _bin_by_width(confidence: Tensor, bins: int) -> Tensor:
    """Return the bin of each confidence, [N]. Intervals are closed on the right.

    Edges are computed as b/B with a single rounding, as is a confidence of 1/K, so that equal values compare as equal.
    """
    require(bins >= 1, "bins", bins, "an integer of at least 1", f"{BINS} is usual")
    return torch.bucketize(confidence, torch.arange(1, bins, dtype=torch.float64) / bins)


def _bin_by_mass(confidence: Tensor, bins: int) -> Tensor:
    """Return the bin of each confidence, [N], from the number of smaller confidences."""
    require(bins >= 1, "bins", bins, "an integer of at least 1", f"{BINS} is usual")
    rank = torch.searchsorted(confidence.sort().values, confidence)
    return rank * bins // len(confidence)
