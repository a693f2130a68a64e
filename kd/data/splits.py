"""Stratified splits: parts in which the classes have their overall proportions, as a function of labels and a seed."""

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
    """A shuffled order of all samples in which every prefix has the classes in their overall proportions.

    Each class is shuffled by itself and spread evenly over [0, 1); the order is that of the positions.
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
    """Two parts in which the classes have their overall proportions: to train on, and to validate with.

    The end of the stratified order is held back: the same as scikit-learn's stratified ``train_test_split`` in all but
    the images drawn, without the second and the 75 MB that importing it takes.

    Args:
        held_back: fraction for validation, in (0, 1), rounded up to whole images.
        seed: at least 0.
        limit: split only the first so many images of the stratified order; None splits all.

    Raises:
        ValueError: too few images for every class to be in both parts.
    """
    training, held = stratified_parts(dataset.labels, [held_back], seed=seed, limit=limit)
    return Split(dataset, training.tolist()), Split(dataset, held.tolist())


def stratified_parts(labels: Tensor, shares: Sequence[float], *, seed: int, limit: int | None = None) -> list[Rows]:
    """The indices of what is left to train on, then those of each share held back; every class is in every part.

    Args:
        labels: [N] int64.
        shares: each in (0, 1), of what the shares after it have left, rounded up to whole images; the last one is the
            end of the stratified order.
        limit: as ``stratified_split`` has it.

    Raises:
        ValueError: too few items for every class to be in every part.
    """
    left = chosen = stratified_order(labels, seed=seed)[:limit]
    parts: list[Rows] = []
    for share in reversed(shares):
        require(0 < share < 1, "a share that is held back", share, "in (0, 1)")
        kept = len(left) - math.ceil(share * len(left))
        left, parts = left[:kept], [left[kept:], *parts]
    parts = [left, *parts]
    classes, *found = (len(np.unique(labels.numpy()[rows])) for rows in (chosen, *parts))
    if found != [classes] * len(parts):
        raise ValueError(
            f"holding back {_listed(shares)} of {len(chosen):,} items does not leave every class in "
            f"{'both' if len(parts) == 2 else 'all'} parts: of {classes} classes, {_listed(found)} are. "
            "Take more items, or hold back another share."
        )
    return parts


def _listed(values: Sequence[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last
