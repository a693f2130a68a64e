"""From a source to the three parts of a run: split where it came unsplit, checked, and normalised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset, Subset

from kd.data.datasets import Raw, Split, takes_rows
from kd.data.sources.normalisation import normalise
from kd.data.sources.scan import ScannedItems, scan
from kd.data.sources.source import Source
from kd.data.sources.validation import check_parts, require_classes, require_label_range
from kd.data.splits import stratified_parts

Chosen = dict[str, list[int]]  # rows of the source's training data, by part


class Splits(NamedTuple):
    """What to train on, to validate with and to test with: checked and normalised."""

    train: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]  # in label order
    chosen: bytes  # JSON: the rows of the source's training data in each part; ``split_source`` takes it again


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
    """The parts of a run. Those that came with the source stay what they are; the others are taken from its training
    data, stratified by class. Then all are checked (``kd.data.sources.validation``), and normalised by the training
    part.

    Args:
        held_back: share of the training data to validate with, where the source has no such part; in (0, 1).
        test_share: share to test with, where it has none; in (0, 1). It is taken first, ``held_back`` of the rest.
        seed: of the split; at least 0.
        test_seed: of the part to test with, where it is taken here; None for ``seed``. With one of its own, different
            splits are judged by the same items.
        limit: use only the first so many items of the training data's stratified order; None uses all.
        chosen: an earlier split, as ``Parts.chosen`` has kept it; shares, seeds and limit do not count then.

    Raises:
        ValueError: a check has failed, a class is too rare to be in every part, or the earlier split is damaged or of
            other data.
    """
    facts = {part: _facts(source.name, part, dataset) for part, dataset in source.parts.items()}
    for part, found in facts.items():
        require_label_range(found.labels, source.classes, part)
    pool = facts["train"]
    require_classes(pool.labels, source.classes)
    shares = {"val": held_back, "test": test_share}
    cut = {part: share for part, share in shares.items() if part not in facts}
    if chosen is None:
        split = _drawn(pool.labels, cut, seed=seed, test_seed=seed if test_seed is None else test_seed, limit=limit)
    else:
        split = _read(chosen, pool.labels, ["train", *cut])
    parts = {name: _subset(source.train, split[name]) if name in split else source.parts[name] for name in _PARTS}
    check_parts({name: pool.of(split[name]) if name in split else facts[name] for name in _PARTS}, source.classes)
    return Splits(**normalise(parts), classes=source.classes, chosen=_written(split, pool.labels))


_PARTS = ("train", "val", "test")


def _drawn(labels: Tensor, shares: Mapping[str, float], *, seed: int, test_seed: int, limit: int | None) -> Chosen:
    """Rows by part: all parts in one draw, or first the one to test with, by a seed of its own."""
    if "test" in shares and test_seed != seed:
        rest, test = stratified_parts(labels, [shares["test"]], seed=test_seed, limit=limit)
        others = {part: share for part, share in shares.items() if part != "test"}
        parts = _drawn(labels[rest], others, seed=seed, test_seed=seed, limit=None)
        return {part: rest[rows].tolist() for part, rows in parts.items()} | {"test": test.tolist()}
    rows = stratified_parts(labels, list(shares.values()), seed=seed, limit=limit)
    return {part: some.tolist() for part, some in zip(("train", *shares), rows, strict=True)}


def _facts(source: str, part: str, dataset: Dataset[Any]) -> ScannedItems:
    try:
        return scan(dataset)
    except ValueError as error:
        raise ValueError(f"{source}, {part}: {error}") from error


def _subset(dataset: Dataset[Any], rows: Sequence[int]) -> Dataset[Any]:
    """By torch's own subset, where the data set's batches do not take a tensor of rows."""
    return Split(dataset, rows) if takes_rows(dataset) or isinstance(dataset, Raw) else Subset(dataset, rows)


def _written(split: Mapping[str, Sequence[int]], labels: Tensor) -> bytes:
    return json.dumps({"items": len(labels), "labels": _digest(labels), "rows": split}).encode()


def _read(chosen: bytes, labels: Tensor, parts: Sequence[str]) -> Chosen:
    try:
        kept = json.loads(chosen)
        rows: Chosen = {part: kept["rows"][part] for part in parts}
        same = (kept["items"], kept["labels"]) == (len(labels), _digest(labels)) and len(kept["rows"]) == len(parts)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"the kept split is damaged: it must name the rows of {', '.join(parts)}. Got {type(error).__name__} when "
            "reading it. Split anew with a seed."
        ) from error
    if not same:
        raise ValueError(
            f"the kept split is of other data: its items, labels or parts are not those of these {len(labels):,} "
            "items. Split them anew with a seed."
        )
    _require_disjoint(rows, len(labels))
    return rows


def _require_disjoint(rows: Chosen, items: int) -> None:
    lists = all(isinstance(some, list) and some for some in rows.values())
    every = [row for some in rows.values() for row in some] if lists else []
    whole = all(type(row) is int and 0 <= row < items for row in every)
    if not (every and whole and len(set(every)) == len(every)):
        raise ValueError(
            f"the kept split is damaged: its parts must be lists of different rows, each within 0 … {items - 1}, and "
            "none of them empty. Split anew with a seed."
        )


def _digest(labels: Tensor) -> str:
    return hashlib.sha256(labels.numpy().tobytes()).hexdigest()
