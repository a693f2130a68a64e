"""Statistics on predictions: what a test set can and cannot say.

By ``scipy.special``: ``scipy.stats`` has the same numbers, and takes a second and 60 MB to import.
"""

from __future__ import annotations

from typing import NamedTuple

from scipy.special import bdtr, ndtri
from torch import Tensor


class Accuracy(NamedTuple):
    """One network on a test set: its accuracy in [0, 1] with Wilson's 95 % interval, and the counts behind it."""

    accuracy: float
    accuracy_low_95: float
    accuracy_high_95: float
    errors: int
    images: int


def accuracy_of(errors: int, images: int) -> Accuracy:
    """The accuracy of a network that gets so many of the images wrong."""
    return Accuracy(1 - errors / images, *proportion_interval(images - errors, images), errors, images)


class McNemar(NamedTuple):
    """Two networks on one test set: images that only the first, or only the second, gets wrong, and the p-value."""

    only_first_wrong: int
    only_second_wrong: int
    p_value: float


def mcnemar(first_wrong: Tensor, second_wrong: Tensor) -> McNemar:
    """McNemar's exact two-sided test on two boolean [N] tensors over the same images, in the same order.

    Under the null hypothesis an image on which exactly one network errs is as likely to be the one's as the other's,
    so the count is binomial(b + c, ½). It compares these two networks; the method that trained them was run once.

    Source: McNemar 1947; Dietterich 1998, "Approximate statistical tests for comparing supervised classification
    learning algorithms", section 3.1 (there with the χ² approximation; here exact).
    """
    if first_wrong.shape != second_wrong.shape:
        raise ValueError(
            "both networks must be judged on the same images. "
            f"Got {list(first_wrong.shape)} and {list(second_wrong.shape)} predictions."
        )
    b = int((first_wrong & ~second_wrong).sum())
    c = int((second_wrong & ~first_wrong).sum())
    p_value = min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))  # the smaller tail of the binomial, and its mirror image
    return McNemar(b, c, p_value)


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion: the sampling error of a test set of n images, in [0, 1].

    Source: Wilson 1927; Brown, Cai, DasGupta 2001, "Interval estimation for a binomial proportion", equation 4.
    """
    share, z2 = successes / n, float(ndtri((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (share * (1 - share) * z2 / n + (z2 / (2 * n)) ** 2) ** 0.5 / (1 + z2 / n)
    # It holds the share itself, and rounding is not to push it out where it touches 0 or 1.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def verdict(
    control_errors: int, distilled_errors: int, test: McNemar, *, level: float = 0.05, noun: str = "images"
) -> str:
    """One honest sentence on whether the distilled student differs from its control, and what it speaks of.

    Args:
        noun: what the items are called.
    """
    counts = (
        f"the distilled student makes {distilled_errors:,} errors, the control {control_errors:,} "
        f"(only the control is wrong on {test.only_first_wrong:,} {noun}, only the distilled student on "
        f"{test.only_second_wrong:,}; exact McNemar p = {test.p_value:.2g})"
    )
    if test.p_value >= level:
        return (
            f"No difference shown: {counts}. These two networks may be equally good; "
            "whether the method helps takes several seeds."
        )
    better = "better" if test.only_second_wrong < test.only_first_wrong else "worse"
    return (
        f"The distilled student is {better}: {counts}. "
        "This speaks of these two networks, not of the method, which takes several seeds to judge."
    )
