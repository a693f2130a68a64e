"""Where distillation helps and where it harms: paired differences on parts of the test set, with Holm's adjustment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd.evaluation.contrast import Contrast, contrast_of
from kd.evaluation.verdict import holm

FEWEST_ITEMS = 6  # items that differ in some pair; the sign test of fewer has no p-value below 0.05

Masks = Mapping[str, NDArray[np.bool_]]  # name of a slice → [N], True for its test items


class SliceDifference(NamedTuple):
    """Error rates of both arms on one slice of the test items, in percent, and their difference.

    Attributes:
        items: number of test items in the slice, at least 1.
        control, distilled: mean error rates over the pairs.
        contrast: distilled minus control, in percentage points of the slice's items.
        p: Holm-adjusted for the slices compared together; 1 if ``has_enough_items`` is False.
        has_enough_items: whether at least ``FEWEST_ITEMS`` items differ in some pair. Pairs share the items, so more of
            them cannot make up for fewer.
    """

    items: int
    control: float
    distilled: float
    contrast: Contrast
    p: float
    has_enough_items: bool


def compare_slices(
    masks: Masks, control: NDArray[np.float64], distilled: NDArray[np.float64], *, anytime: bool = False
) -> dict[str, SliceDifference]:
    """Compare both arms on each slice; slices without items are omitted.

    Args:
        control, distilled: [pairs, N], 1 where a student is wrong, else 0; row i of both is one pair.
        anytime: whether the number of pairs depended on their differences.
    """
    parts = {name: (control[:, mask], distilled[:, mask]) for name, mask in masks.items() if mask.any()}
    return compare_parts(parts, anytime=anytime)


def compare_parts(
    parts: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], *, anytime: bool = False
) -> dict[str, SliceDifference]:
    """Compare both arms on several sets of items, with Holm's adjustment for their number.

    Args:
        parts: control and distilled, [pairs, items], by the name of the set; at least one item in each.
        anytime: see ``compare_slices``.
    """
    contrasts = {
        name: contrast_of(
            100 / first.shape[1] * (second - first), one_error=100 / first.shape[1], anytime=anytime, largest=100.0
        )
        for name, (first, second) in parts.items()
    }
    enough = {name: int((first != second).any(axis=0).sum()) >= FEWEST_ITEMS for name, (first, second) in parts.items()}
    adjusted = holm([contrast.p if enough[name] else 1.0 for name, contrast in contrasts.items()])
    return {
        name: SliceDifference(
            first.shape[1],
            100 * float(first.mean()),
            100 * float(second.mean()),
            contrasts[name],
            p,
            enough[name],
        )
        for (name, (first, second)), p in zip(parts.items(), adjusted, strict=True)
    }
