"""Stratified splits: they keep the overall class proportions and depend only on labels and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kd.checks import require
from kd.data.datasets import ArrayDataset, Split

Rows = np.ndarray[Any, np.dtype[np.int64]]


def stratified_order(labels: Tensor, *, seed: int) -> Rows:
    """Return a shuffled order of all samples in which every prefix has the overall class proportions.

    Each class is shuffled separately and spread evenly over [0, 1) from a random offset; samples are then sorted by
    position.
    """
    rng = np.random.default_rng(seed)
    classes = labels.numpy()
    position = np.empty(len(classes))
    by_class = np.argsort(classes, kind="stable")
    for indices in np.split(by_class, np.unique(classes[by_class], return_index=True)[1][1:]):
        members = rng.permutation(indices)
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(position, kind="stable")


def stratified_split(
    dataset: ArrayDataset, *, held_back: float, seed: int, limit: int | None = None
) -> tuple[Split, Split]:
    """Split a dataset into a training and a validation split with the overall class proportions.

    The validation split is the end of the stratified order. This is scikit-learn's stratified ``train_test_split``
    up to the choice of images, without its import, which takes a second and 75 MB.

    Args:
        held_back: fraction for validation, in (0, 1), rounded up to whole images.
        seed: at least 0.
        limit: split the first N images of the stratified order only; None splits all.

    Raises:
        ValueError: too few images for every class to be in both splits.
    """
    training, validation = split_rows(dataset.labels, [held_back], seed=seed, limit=limit)
    return Split(dataset, training.tolist()), Split(dataset, validation.tolist())


def split_rows(labels: Tensor, shares: Sequence[float], *, seed: int, limit: int | None = None) -> list[Rows]:
    """Return the rows of each split: the training split first, then one split per share. All contain every class.

    Args:
        labels: [N] int64.
        shares: fractions in (0, 1), rounded up to whole samples. The last share is taken first, from the end of the
            stratified order; each earlier one is a fraction of the remaining samples.
        limit: as in ``stratified_split``.

    Raises:
        ValueError: too few samples for every class to be in every split.
    """
    for share in shares:
        require(0 < share < 1, "the fraction of a split", share, "in (0, 1)")
    order = stratified_order(labels, seed=seed)
    used = order[:limit]
    splits = _cut(used, shares)
    counts = _count_classes(labels, splits)
    classes = len(np.unique(labels.numpy()[used]))
    if counts != [classes] * len(splits):
        raise ValueError(
            f"holding back {_join(shares)} of {len(used):,} samples does not leave every class in "
            f"{'both' if len(splits) == 2 else 'all'} splits: they contain {_join(counts)} of {classes} classes. "
            f"{_advise(labels, order, shares, used=len(used))}"
        )
    return splits


def _cut(order: Rows, shares: Sequence[float]) -> list[Rows]:
    """Cut the splits from the end of an order: the training split, then one split per share."""
    remaining, splits = order, list[Rows]()
    for share in reversed(shares):
        size = len(remaining) - math.ceil(share * len(remaining))
        remaining, splits = remaining[:size], [remaining[size:], *splits]
    return [remaining, *splits]


def _count_classes(labels: Tensor, splits: Sequence[Rows]) -> list[int]:
    return [len(np.unique(labels.numpy()[rows])) for rows in splits]


def _advise(labels: Tensor, order: Rows, shares: Sequence[float], *, used: int) -> str:
    """Name a limit that leaves every class in every split, or advise to change the fractions."""
    classes = len(np.unique(labels.numpy()))
    size = used
    while size < len(order):
        size = min(len(order), size + max(1, size // 10))
        if min(_count_classes(labels, _cut(order[:size], shares))) == classes:
            return f"--limit {size} is enough."
    return "Use more samples or change the fractions (--test-size, --test-share)."


def _join(values: Sequence[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last
