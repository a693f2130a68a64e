"""Teacher logits that provably belong to their images: collected by sample, never by loader order, and verified.

A loader that shuffles hands out other images at each pass. Logits collected by walking it look right, train without
an error, and teach every image another image's lesson. Here row i is the teacher's answer to ``dataset[i]``, and
``verify_logits`` proves it on a sample of rows, and on all of them by their agreement with the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kd.checks import require_finite_logits
from kd.console import progress, say
from kd.data.datasets import DistillDataset, collate
from kd.data.loaders import loader_like, make_loader
from kd.data.unlabelled import Joined, Unlabelled
from kd.models.inference import Predictions, device_of, predict
from kd.seeding import seeded
from kd.storage.run_folder import run_step
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
    require_finite_logits("teacher logits", cached.logits, "Check the teacher's weights and that item.")


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


def with_teacher_logits(
    teacher: nn.Module, parts: Mapping[str, tuple[Dataset[Any], DataLoader[Any]]], *, ids: bool = False
) -> dict[str, DataLoader[Any]]:
    """For each part (training, validation) a loader like the given one over (input, label, teacher logits).

    The logits are taken from the datasets in their own order, never from the loaders, which may shuffle, and verified
    against the live teacher before they are used or kept.

    Args:
        parts: name → dataset, and the loader whose batch size, drop_last and order are taken over.
        ids: add the number of each item in its dataset, for a method that needs ids.
    """
    logits = {name: teacher_logits(f"logits-{name}", teacher, dataset) for name, (dataset, _) in parts.items()}
    rows = sum(map(len, logits.values()))
    say(f"teacher logits: {rows:,} rows collected by sample and verified against the live teacher")
    return {
        name: loader_like(loader, DistillDataset(dataset, logits[name], ids=ids))
        for name, (dataset, loader) in parts.items()
    }


def teacher_logits(title: str, teacher: nn.Module, dataset: Dataset[Any]) -> torch.Tensor:
    """The teacher's answers [N, K] float32, row i to ``dataset[i]``, verified against the live teacher.

    Args:
        title: under which an open run keeps them.
        dataset: items (input, label); −1 stands for no label.

    Raises:
        ValueError: as ``kd.verify_logits`` has it, which looks at what was kept as well.
    """
    size, verified = ASKED_AT_ONCE, False

    def produce(_: object) -> dict[str, Any]:
        nonlocal verified
        with progress(title, steps=-(-len(dataset) // size)) as advance:  # type: ignore[arg-type]  # has no __len__
            cached = collect_logits(teacher, dataset, batch_size=size, on_batch=advance)
        verify_logits(teacher, dataset, cached)
        verified = True
        return cached._asdict()

    inputs = {"teacher": teacher, "dataset": dataset, "batch_size": size, "device": device_of(teacher)}
    kept = Predictions(**run_step(title, inputs, produce))
    if not verified:  # a cache from elsewhere may say anything, and what decides a teacher's answers may not be seen
        try:
            verify_logits(teacher, dataset, kept)
        except ValueError as error:
            raise ValueError(f"the kept {title} are refused: {error} Use --fresh to collect them again.") from error
    return kept.logits


def with_unlabelled(
    teacher: nn.Module, labelled: Dataset[Any], unlabelled: Dataset[Any], *, suffix: str = ""
) -> DistillDataset:
    """What a student learns from: items (input, label or −1, teacher logits), the labelled ones first.

    The teacher is asked for each of the two in its own order, and its answers are verified row by row
    (``kd.verify_logits``); without labels, all that can be verified is that they are this teacher's. An open run keeps
    them.

    Args:
        labelled: items (input, label).
        unlabelled: items (input, ...); what follows the input is never looked at.
        suffix: tells one teacher's logits from another's in the run folder.

    Raises:
        ValueError: as ``Joined`` and ``kd.verify_logits`` say.
    """
    hidden = Unlabelled(unlabelled)
    both = Joined(labelled, hidden)  # checks, before the teacher is asked
    parts: dict[str, Dataset[Any]] = {f"logits-training{suffix}": labelled, f"logits-unlabelled{suffix}": hidden}
    logits = [teacher_logits(title, teacher, dataset) for title, dataset in parts.items()]
    say(f"teacher logits: {len(logits[0]):,} labelled and {len(logits[1]):,} unlabelled items, verified by row")
    return DistillDataset(both, torch.cat(logits))
