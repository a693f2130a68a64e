"""Teacher logits that provably belong to their images: collected by sample, never by loader order, and verified.

A loader that shuffles hands out other images at each pass. Logits collected by walking it look right, train without
an error, and teach every image another image's lesson. Here row i is the teacher's answer to ``dataset[i]``, and
``verify_logits`` proves it on a sample of rows, and on all of them by their agreement with the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.data.datasets import collate
from kd.data.loaders import make_loader
from kd.models.inference import Predictions, predict
from kd.seeding import seeded
from kd.types import UNLABELLED, Batch

ASKED_AT_ONCE = 256  # images: as fast as more of them, at less memory


def collect_logits(
    teacher: nn.Module,
    dataset: Dataset[Any],
    *,
    batch_size: int = ASKED_AT_ONCE,
    on_batch: Callable[[], None] | None = None,
) -> Predictions:
    """The teacher's logits [N, K] float32 and the labels [N], row i for ``dataset[i]``, on the CPU.

    The teacher is asked in eval mode without gradient; its mode, weights and buffers are left as they were.
    """
    return predict(teacher, make_loader(dataset, batch_size=batch_size), on_batch=on_batch)


def verify_logits(
    teacher: nn.Module, dataset: Dataset[Any], cached: Predictions, *, sample: int = 256, seed: int = 0
) -> None:
    """Refuse logits that are not this teacher's answers to this dataset's items, row by row.

    The checks: one finite row per item; items that stay the same from call to call; for a random sample of rows, labels
    equal to the dataset's and logits equal to the live teacher's answers; and the share of all rows whose largest logit
    is the label, which must be the live teacher's accuracy as measured on the sample, within its sampling error. Rows
    without a label (−1) have no part in the last one.

    Args:
        cached: logits [N, K] and labels [N], as ``collect_logits`` returns them.
        sample: rows to recompute.
        seed: of the choice of rows.

    Raises:
        ValueError: naming the check that failed and what to do.
    """
    _require_one_finite_row_each(cached, len(dataset))  # type: ignore[arg-type]
    rows = np.random.default_rng(seed).permutation(len(cached.labels))[:sample]
    inputs, labels = _stable_items(dataset, rows, seed)
    live = predict(teacher, [(inputs, labels)]).logits
    _require_equal_rows(live, cached.logits[rows], rows)
    if not torch.equal(labels, cached.labels[rows]):
        raise ValueError("the labels kept with the teacher logits are not the dataset's. Collect them again.")
    _require_same_accuracy(live, labels, cached)


def _require_one_finite_row_each(cached: Predictions, items: int) -> None:
    if cached.logits.ndim != 2 or 0 in cached.logits.shape or not len(cached.logits) == len(cached.labels) == items:
        raise ValueError(
            f"teacher logits must be one row per item: [{items}, classes]. Got {list(cached.logits.shape)} "
            f"with {len(cached.labels)} labels instead. Collect them from this very dataset."
        )
    # By the extremes of each row, in which NaN and infinity show: no mask of the size of all logits.
    finite = cached.logits.amin(dim=1).isfinite() & cached.logits.amax(dim=1).isfinite()
    bad = (~finite).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"teacher logits must be finite. Got NaN or infinity in {len(bad)} of {items} rows, the first at row "
            f"{int(bad[0])}. Check the teacher's weights and that item."
        )


def _stable_items(dataset: Dataset[Any], rows: Any, seed: int) -> Batch:
    """The items of these rows, read twice under different random states."""
    reads = []
    for attempt in range(2):
        with seeded(seed + attempt):
            reads.append(collate([dataset[int(row)] for row in rows])[:2])
    if not all(torch.equal(first, second) for first, second in zip(*reads, strict=True)):
        raise ValueError(
            "the dataset's items change from call to call (random augmentation?), so logits kept per item cannot "
            "belong to what the student sees. Remove the randomness, or ask the teacher live: kd.live_teacher()."
        )
    return reads[0]


def _require_equal_rows(live: Tensor, cached: Tensor, rows: Any) -> None:
    if live.shape != cached.shape or not live.isfinite().all():
        raise ValueError(
            f"teacher logits cannot be compared with the live teacher: it answers {list(live.shape)}, "
            f"{'all' if live.isfinite().all() else 'not all'} finite, where {list(cached.shape)} finite logits are "
            "kept. Use the teacher that they were collected from."
        )
    # Another batch size changes the order of summation, and a GPU may use TF32: 1 % of the logits' scale covers
    # both, and is far below the distance between two images' logits.
    tolerance = 0.01 * float(live.abs().max())
    wrong = ((live - cached).abs().amax(dim=1) > tolerance).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"teacher logits do not belong to their items: {len(wrong)} of {len(rows)} recomputed rows differ from "
            f"the live teacher, the first at row {rows[wrong[0]]}. They were collected in another order (a shuffled "
            "loader?), from other data or by another teacher. Collect them again with kd.collect_logits()."
        )


def _require_same_accuracy(live: Tensor, labels: Tensor, cached: Predictions) -> None:
    n = int((labels != UNLABELLED).sum())
    if not n:
        return  # what has no label cannot be held against one: the recomputed rows are all the proof there is
    live_accuracy = int((live.argmax(dim=1) == labels).sum()) / n
    labelled = int((cached.labels != UNLABELLED).sum())
    agreement = int((cached.logits.argmax(dim=1) == cached.labels).sum()) / labelled
    # Five standard errors of the sampled accuracy, taken at (hits + 1) / (n + 2) so that a perfect sample has one.
    p = (live_accuracy * n + 1) / (n + 2)
    allowed = 5 * (p * (1 - p) / n) ** 0.5
    if abs(live_accuracy - agreement) > allowed:
        raise ValueError(
            f"teacher logits do not belong to their labels: the largest logit is the label in {agreement:.1%} of all "
            f"rows, but the live teacher is right on {live_accuracy:.1%} of {n} sampled items "
            f"(allowed difference {allowed:.1%}). Collect them again with kd.collect_logits()."
        )
