"""Statistics of one or two models on a test set: Wilson's interval for a proportion and McNemar's exact test.

Computed with the standard library: importing ``scipy.special`` for two functions takes a tenth of a second per run.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, NamedTuple

from torch import Tensor

from kd.formatting import count_noun, equate_p

EXACT = 5_000  # largest number of images for an exact sum of integers, in 10 ms


class Accuracy(NamedTuple):
    """Accuracy of one network on a test set, in [0, 1], with its 95 % Wilson interval and counts."""

    accuracy: float
    accuracy_low_95: float
    accuracy_high_95: float
    errors: int
    images: int


def accuracy_of(errors: int, images: int) -> Accuracy:
    """Return the accuracy of a network with this number of errors."""
    return Accuracy(1 - errors / images, *proportion_interval(images - errors, images), errors, images)


class McNemar(NamedTuple):
    """McNemar's test of two networks: images that only the first or only the second gets wrong, and the p-value."""

    only_first_wrong: int
    only_second_wrong: int
    p_value: float


def mcnemar(first_wrong: Tensor, second_wrong: Tensor) -> McNemar:
    """Run McNemar's exact two-sided test on two boolean tensors [N] for the same images, in the same order.

    Let b and c be the numbers of images that only the first and only the second network gets wrong. Under the null
    hypothesis, such an image is equally likely to be an error of either network, so b is binomial(b + c, ½). The test
    compares two networks, not the methods that trained them.

    Source: McNemar 1947; Dietterich 1998, "Approximate statistical tests for comparing supervised classification
    learning algorithms", section 3.1 (there with the χ² approximation; here exact).
    """
    if first_wrong.shape != second_wrong.shape:
        raise ValueError(
            "both networks must be evaluated on the same images. "
            f"Got {list(first_wrong.shape)} and {list(second_wrong.shape)} predictions."
        )
    b = int((first_wrong & ~second_wrong).sum())
    c = int((second_wrong & ~first_wrong).sum())
    p_value = min(1.0, 2 * _lower_tail(min(b, c), b + c))  # twice the smaller tail of a symmetric distribution
    return McNemar(b, c, p_value)


def _lower_tail(k: int, n: int) -> float:
    """Return P(X ≤ k) for X ~ binomial(n, ½)."""
    if n > EXACT:
        from scipy.special import bdtr

        return float(bdtr(k, n, 0.5))
    ways, total = 1, 0  # n choose i, and its sum over i
    for i in range(k + 1):
        total += ways
        ways = ways * (n - i) // (i + 1)
    return float(total / 2**n)


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of a proportion, in [0, 1].

    Source: Wilson 1927; Brown, Cai, DasGupta 2001, "Interval estimation for a binomial proportion", equation 4.
    """
    share, z2 = successes / n, NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (share * (1 - share) * z2 / n + (z2 / (2 * n)) ** 2) ** 0.5 / (1 + z2 / n)
    # Rounding could otherwise exclude a fraction of exactly 0 or 1.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def find_better(
    test: McNemar, balanced: tuple[float, float] | None = None, *, level: float = 0.05
) -> Literal["control", "distilled"] | None:
    """Return the better student by McNemar's test, or None if it is not significant.

    Args:
        test, balanced: see ``verdict``. Also None if the balanced error has the other sign: then fewer errors come
            from larger classes.
    """
    if test.p_value >= level:
        return None
    is_distilled = test.only_second_wrong < test.only_first_wrong
    if balanced and (balanced[1] > balanced[0] if is_distilled else balanced[1] < balanced[0]):
        return None
    return "distilled" if is_distilled else "control"


def verdict(
    control_errors: int,
    distilled_errors: int,
    test: McNemar,
    *,
    level: float = 0.05,
    noun: str = "images",
    balanced: tuple[float, float] | None = None,
) -> str:
    """State whether the distilled student differs from its control, and the limits of the conclusion.

    Args:
        test: McNemar's test of the control (first) and the distilled student (second).
        noun: word for the test samples.
        balanced: balanced errors of control and distilled student in percent, if the classes differ much in size.
    """
    counts = (
        f"the distilled student makes {count_noun(distilled_errors, 'error')}, the control {control_errors:,} "
        f"({noun} that only the control gets wrong: {test.only_first_wrong:,}, only the distilled student: "
        f"{test.only_second_wrong:,}; exact McNemar {equate_p(test.p_value)})"
    )
    fewer = "fewer" if test.only_second_wrong < test.only_first_wrong else "more"
    is_significant = test.p_value < level
    text = {
        "distilled": f"The distilled student is better: {counts}.",
        "control": f"The distilled student is worse: {counts}.",
        None: f"The distilled student makes {fewer} errors, but not with equal weight of all classes: {counts}."
        if is_significant
        else f"No significant difference: {counts}.",
    }[find_better(test, balanced, level=level)]
    if balanced:
        text += f" Its balanced error is {balanced[1]:.2f} %, the control's {balanced[0]:.2f} %."
    these = "This applies to these two networks only" if is_significant else "These two networks may be equally good"
    return f"{text} {these}; judging the method takes several seeds."
