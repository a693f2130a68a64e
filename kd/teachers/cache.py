"""Cached teacher logits: collected in dataset order, never in loader order, and verified.

A shuffling loader yields a different order at each pass. Iterating over it to collect logits silently pairs images with
the logits of other images. Here row i belongs to ``dataset[i]``; ``verify_logits`` recomputes a random subset of rows
and checks all rows by their agreement with the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kd.checks import require_finite_logits, require_label_kind, require_label_values
from kd.console import progress, say
from kd.data.datasets import DistillDataset, collate
from kd.data.loaders import loader_like, make_loader
from kd.data.unlabelled import Joined, Unlabelled
from kd.models.inference import Predictions, device_of, find_differing_rows, predict
from kd.models.outputs import require_model_returns_logits
from kd.seeding import seeded
from kd.storage.run_folder import explain_saved_state, run_step
from kd.teachers.lookup import LogitLookup
from kd.types import UNLABELLED, Batch

TEACHER_BATCH_SIZE = 256  # larger batches need more memory and are not faster


def collect_logits(
    teacher: nn.Module,
    dataset: Dataset[Any],
    *,
    batch_size: int = TEACHER_BATCH_SIZE,
    workers: int = 0,
    on_batch: Callable[[], None] | None = None,
) -> Predictions:
    """Return the logits [N, K] float32 of the teacher and the labels [N] on the CPU; row i belongs to ``dataset[i]``.

    The teacher runs in eval mode without gradient; its mode, weights and buffers do not change.

    Args:
        workers: see ``kd.make_loader``.
    """
    return predict(teacher, make_loader(dataset, batch_size=batch_size, workers=workers), on_batch=on_batch)


def verify_logits(
    teacher: nn.Module, dataset: Dataset[Any], cached: Predictions, *, sample: int = 256, seed: int = 0
) -> None:
    """Check that cached logits belong to this teacher and to the samples of this dataset, row by row.

    Each sample must have one finite row and must not change between reads. In a random subset of rows, labels must
    equal the dataset's labels, and logits the live teacher's logits within a tolerance. The accuracy of all cached
    rows must equal the accuracy of the live teacher on the subset, within sampling error; rows without a label (−1)
    are ignored in this last check.

    Args:
        cached: logits [N, K] and labels [N], as returned by ``collect_logits``.
        sample: number of rows to recompute.
        seed: seed of the random subset of rows.

    Raises:
        ValueError: a check fails, or a label is not −1 and has no column in the logits; the message names the mismatch
            and the remedy.
    """
    _require_one_finite_row_per_sample(cached, len(dataset))  # type: ignore[arg-type]
    rows = np.random.default_rng(seed).permutation(len(cached.labels))[:sample]
    inputs, labels = _read_stable_samples(dataset, rows, seed)
    require_model_returns_logits("outputs of the teacher", cached.logits, teacher, inputs)
    live_logits = predict(teacher, [(inputs, labels)]).logits
    _require_equal_rows(live_logits, cached.logits[rows], rows)
    require_label_values(cached.labels, cached.logits.shape[1], unlabelled=True)
    if not torch.equal(labels, cached.labels[rows]):
        raise ValueError("labels cached with the teacher logits differ from the dataset. Collect the logits again.")
    _require_same_accuracy(live_logits, labels, cached)


def _require_one_finite_row_per_sample(cached: Predictions, samples: int) -> None:
    if cached.logits.ndim != 2 or 0 in cached.logits.shape or not len(cached.logits) == len(cached.labels) == samples:
        raise ValueError(
            f"teacher logits must have one row per sample: [{samples}, classes]. Got {list(cached.logits.shape)} "
            f"with {len(cached.labels)} labels instead. Collect them from the same dataset."
        )
    require_label_kind(cached.labels, samples)
    require_finite_logits("teacher logits", cached.logits, "Check the weights of the teacher and this sample.")


def _read_stable_samples(dataset: Dataset[Any], rows: Any, seed: int) -> Batch:
    """Read the samples of these rows twice under different random states, and check that they are equal."""
    reads = []
    for attempt in range(2):
        with seeded(seed + attempt):
            reads.append(collate([dataset[int(row)] for row in rows])[:2])
    if not all(torch.equal(first, second) for first, second in zip(*reads, strict=True)):
        raise ValueError(
            "samples of the dataset change between reads (random augmentation?), so cached logits cannot match the "
            "inputs of the student. Remove the randomness, or run the teacher at every step with kd.live_teacher()."
        )
    return reads[0]


def _require_equal_rows(live: Tensor, cached: Tensor, rows: Any) -> None:
    if live.shape != cached.shape or not live.isfinite().all():
        raise ValueError(
            f"teacher logits cannot be compared with the live teacher: it returns {list(live.shape)}, "
            f"{'all' if live.isfinite().all() else 'not all'} finite; the cached logits are {list(cached.shape)}, all "
            "finite. Use the teacher that they were collected from."
        )
    different = find_differing_rows(live, cached)
    if different:
        raise ValueError(
            f"teacher logits do not match their samples: {len(different)} of {len(rows)} recomputed rows differ from "
            f"the live teacher, the first at row {rows[different[0]]}. They were collected in a different order "
            "(shuffled loader?), from other data or with another teacher. Collect them again with kd.collect_logits()."
        )


def _require_same_accuracy(live: Tensor, labels: Tensor, cached: Predictions) -> None:
    n = int((labels != UNLABELLED).sum())
    if not n:
        return  # without labels, the recomputed rows are the only check
    live_accuracy = int((live.argmax(dim=1) == labels).sum()) / n
    labelled = int((cached.labels != UNLABELLED).sum())
    cached_accuracy = int((cached.logits.argmax(dim=1) == cached.labels).sum()) / labelled
    # Five standard errors of the sampled accuracy, computed at (hits + 1) / (n + 2), so not 0 for an accuracy of 1.
    p = (live_accuracy * n + 1) / (n + 2)
    allowed = 5 * (p * (1 - p) / n) ** 0.5
    if abs(live_accuracy - cached_accuracy) > allowed:
        raise ValueError(
            f"teacher logits do not match their labels: accuracy is {cached_accuracy:.1%} on all cached rows, but "
            f"{live_accuracy:.1%} for the live teacher on {n} sampled rows (allowed difference {allowed:.1%}). "
            "Collect them again with kd.collect_logits()."
        )


def with_teacher_logits(
    teacher: nn.Module,
    parts: Mapping[str, tuple[Dataset[Any], DataLoader[Any]]],
    *,
    ids: bool = False,
    seen: Mapping[str, Dataset[Any]] | None = None,
) -> dict[str, DataLoader[Any]]:
    """Return, for each split, a loader of (input, label, teacher logits) that otherwise equals the given loader.

    Logits are collected from the datasets, never from the loaders, which may shuffle. They are verified against the
    live teacher before they are used or cached.

    Args:
        parts: by split name, the dataset, and the loader whose batch size, drop_last and order are reused.
        ids: append the index of each sample in its dataset, for methods that need ids.
        seen: by split name, the same samples as the teacher sees them, such as images of another size; None
            if it gets the samples of ``parts``.
    """
    logits = {
        name: teacher_logits(f"logits-{name}", teacher, (seen or {}).get(name, dataset), workers=loader.num_workers)
        for name, (dataset, loader) in parts.items()
    }
    rows = sum(map(len, logits.values()))
    is_live = not any(isinstance(module, LogitLookup) for module in teacher.modules())
    source = (
        "collected and verified against the live teacher" if is_live else "read from the file; no teacher verified them"
    )
    say(f"teacher logits: {rows:,} rows {source}")
    return {
        name: loader_like(loader, DistillDataset(dataset, logits[name], ids=ids))
        for name, (dataset, loader) in parts.items()
    }


def teacher_logits(title: str, teacher: nn.Module, dataset: Dataset[Any], *, workers: int = 0) -> torch.Tensor:
    """Return the logits [N, K] float32 of the teacher, verified by ``verify_logits``; row i belongs to ``dataset[i]``.

    Args:
        title: name of the step under which an open run caches the logits.
        dataset: samples (input, label); −1 means no label.
        workers: see ``kd.make_loader``.

    Raises:
        ValueError: new or cached logits fail ``kd.verify_logits``.
    """
    size, verified = TEACHER_BATCH_SIZE, False

    def produce(_: object) -> dict[str, Any]:
        nonlocal verified
        with progress(title, steps=-(-len(dataset) // size)) as advance:  # type: ignore[arg-type]  # has no __len__
            cached = collect_logits(teacher, dataset, batch_size=size, workers=workers, on_batch=advance)
        verify_logits(teacher, dataset, cached)
        verified = True
        return cached._asdict()

    inputs = {"teacher": teacher, "dataset": dataset, "batch_size": size, "device": device_of(teacher)}
    result = run_step(title, inputs, produce)
    with explain_saved_state(title):
        predictions = Predictions.from_state(result)
    # Reused logits are checked too: the cache may come from elsewhere, and its key may not cover everything that
    # affects the outputs of the teacher.
    if not verified:
        try:
            verify_logits(teacher, dataset, predictions)
        except ValueError as error:
            raise ValueError(f"cached {title} are invalid: {error} Use --fresh to collect them again.") from error
    return predictions.logits


def with_unlabelled(
    teacher: nn.Module, labelled: Dataset[Any], unlabelled: Dataset[Any], *, suffix: str = ""
) -> DistillDataset:
    """Return the distillation data: samples (input, label or −1, teacher logits), labelled samples first.

    Logits are collected per dataset and verified row by row (``kd.verify_logits``). Without labels, the check is
    limited to a comparison with the live teacher. An open run caches the logits.

    Args:
        labelled: samples (input, label).
        unlabelled: samples (input, ...); everything after the input is ignored.
        suffix: distinguishes the logits of several teachers in the run folder.

    Raises:
        ValueError: the datasets do not fit together (see ``Joined``), or logits fail ``kd.verify_logits``.
    """
    inputs_only = Unlabelled(unlabelled)
    joined = Joined(labelled, inputs_only)  # checks the data before the teacher runs
    datasets: dict[str, Dataset[Any]] = {
        f"logits-training{suffix}": labelled,
        f"logits-unlabelled{suffix}": inputs_only,
    }
    logits = [teacher_logits(title, teacher, dataset) for title, dataset in datasets.items()]
    say(f"teacher logits: {len(logits[0]):,} labelled and {len(logits[1]):,} unlabelled samples, verified by row")
    return DistillDataset(joined, torch.cat(logits))
