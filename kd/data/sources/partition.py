"""The three splits of a run from a source: missing splits are drawn, all are checked and normalised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from kd.console import printable_name
from kd.data.datasets import Split, takes_rows
from kd.data.sources.normalisation import normalise
from kd.data.sources.scan import ScannedItems, scan
from kd.data.sources.source import Source
from kd.data.sources.validation import check_splits, require_class_names, require_classes, require_label_range
from kd.data.splits import split_rows

SplitRows = dict[str, list[int]]  # rows of the source's training data, by split


class Splits(NamedTuple):
    """Training, validation and test split, checked and normalised."""

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]  # in label order, with control characters as escapes
    chosen: bytes  # JSON: rows of the source's training data by split; argument of ``split_source``
    all_labels: Tensor  # [R] int64, of all samples of the source's own splits, in their order


def split_source(
    source: Source,
    *,
    held_back: float = 0.1,
    test_share: float = 0.2,
    seed: int = 0,
    test_seed: int | None = None,
    limit: int | None = None,
    chosen: bytes | None = None,
) -> Splits:
    """Return the three splits of a run.

    Splits that the source contains are used unchanged. Missing splits are drawn from its training data, stratified by
    class. All splits are checked (``kd.data.sources.validation``) and normalised with the training split's statistics.

    Args:
        source: the dataset, as returned by ``open_source``.
        held_back: fraction of the training data for validation if the source has no validation split, in (0, 1).
        test_share: fraction for testing if the source has no test split, in (0, 1). It is taken first; ``held_back``
            applies to the rest.
        seed: seed of the split, at least 0.
        test_seed: seed of a test split drawn here; None uses ``seed``. With a fixed value, runs with different
            ``seed`` are tested on the same samples.
        limit: use the first N samples of the training data's stratified order only; None uses all.
        chosen: an earlier split, from ``Splits.chosen``; shares, seeds and limit are then ignored.

    Raises:
        ValueError: a check fails, a class is too rare to be in every split, or the earlier split is damaged or belongs
            to other data.
    """
    require_class_names(source.classes)
    scans = {name: _scan_split(source.name, name, dataset) for name, dataset in source.parts.items()}
    for name, scanned in scans.items():
        require_label_range(scanned.labels, source.classes, name)
    pool = scans["train"]
    require_classes(pool.labels, source.classes)
    shares = {"val": held_back, "test": test_share}
    missing = {name: share for name, share in shares.items() if name not in scans}
    if chosen is None:
        rows = _draw_rows(
            pool.labels, missing, seed=seed, test_seed=seed if test_seed is None else test_seed, limit=limit
        )
    else:
        rows = _load_rows(chosen, pool.labels, ["train", *missing])
    splits = {name: _take_rows(source.train, rows[name]) if name in rows else source.parts[name] for name in _SPLITS}
    check_splits({name: pool.take(rows[name]) if name in rows else scans[name] for name in _SPLITS}, source.classes)
    return Splits(
        **normalise(splits),
        classes=tuple(map(printable_name, source.classes)),
        chosen=_dump_rows(rows, pool.labels),
        all_labels=torch.cat([scanned.labels for scanned in scans.values()]),
    )


_SPLITS = ("train", "val", "test")


def _draw_rows(
    labels: Tensor, shares: Mapping[str, float], *, seed: int, test_seed: int, limit: int | None
) -> SplitRows:
    """Draw the rows of all splits at once; with a separate ``test_seed``, draw the test split first."""
    if "test" in shares and test_seed != seed:
        rest, test = split_rows(labels, [shares["test"]], seed=test_seed, limit=limit)
        other_shares = {name: share for name, share in shares.items() if name != "test"}
        splits = _draw_rows(labels[rest], other_shares, seed=seed, test_seed=seed, limit=None)
        return {name: rest[rows].tolist() for name, rows in splits.items()} | {"test": test.tolist()}
    row_arrays = split_rows(labels, list(shares.values()), seed=seed, limit=limit)
    return {name: rows.tolist() for name, rows in zip(("train", *shares), row_arrays, strict=True)}


def _scan_split(source: str, split: str, dataset: Dataset[Any]) -> ScannedItems:
    try:
        return scan(dataset)
    except ValueError as error:
        raise ValueError(f"{source}, {split}: {error}") from error


def _take_rows(dataset: Dataset[Any], rows: Sequence[int]) -> Dataset[Any]:
    """Return a subset: torch's ``Subset`` if the dataset's ``__getitems__`` does not accept a tensor of rows."""
    return Split(dataset, rows) if takes_rows(dataset) else Subset(dataset, rows)


def _dump_rows(rows: Mapping[str, Sequence[int]], labels: Tensor) -> bytes:
    return json.dumps({"items": len(labels), "labels": _hash_labels(labels), "rows": rows}).encode()


def _load_rows(chosen: bytes, labels: Tensor, splits: Sequence[str]) -> SplitRows:
    try:
        saved = json.loads(chosen)
        rows: SplitRows = {name: saved["rows"][name] for name in splits}
        identity = (saved["items"], saved["labels"], len(saved["rows"]))
        matches = identity == (len(labels), _hash_labels(labels), len(splits))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"the saved split is damaged: it must contain the rows of {', '.join(splits)}. Got {type(error).__name__} "
            "when reading it. Omit chosen to draw a new split from a seed."
        ) from error
    if not matches:
        raise ValueError(
            f"the saved split belongs to other data: its samples, labels or splits do not match these "
            f"{len(labels):,} samples. Omit chosen to draw a new split from a seed."
        )
    _require_disjoint(rows, len(labels))
    return rows


def _require_disjoint(rows: SplitRows, samples: int) -> None:
    nonempty_lists = all(isinstance(split, list) and split for split in rows.values())
    all_rows = [row for split in rows.values() for row in split] if nonempty_lists else []
    valid = all(type(row) is int and 0 <= row < samples for row in all_rows)
    if not (all_rows and valid and len(set(all_rows)) == len(all_rows)):
        raise ValueError(
            "the saved split is damaged: its splits must be non-empty lists of distinct rows within 0 … "
            f"{samples - 1}. Omit chosen to draw a new split from a seed."
        )


def _hash_labels(labels: Tensor) -> str:
    return hashlib.sha256(labels.numpy().tobytes()).hexdigest()
