"""Loaders: made, copied onto another dataset with the same order, seeded before each epoch, and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, Subset

from kd.checks import require
from kd.data.datasets import collate, length_of, takes_rows
from kd.seeding import epoch_seed, seeded
from kd.types import Batch


class Loader(DataLoader[Any]):
    """torch's loader, with less to do for each batch where a dataset of this package lies in memory.

    There a batch's rows are a piece of one tensor, the epoch's order, and no list of numbers, and nothing else stands
    between dataset and caller: a twentieth of a small student's step (benchmarks/epochs.py). Order and random draws are
    torch's own, bit for bit; other datasets and samplers, workers and pinned memory are left to torch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises its own class of iterators
        usual = type(self.sampler) in (RandomSampler, SequentialSampler) and self.batch_size is not None
        simple = usual and not self.num_workers and not self.pin_memory and takes_rows(self.dataset)
        if not simple:
            return super().__iter__()
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # for workers: torch draws it here, always
        return self._gathered()

    def _gathered(self) -> Iterator[Any]:
        rows, items, size = iter(self.sampler), len(self.sampler), self.batch_size or 1  # type: ignore[arg-type]
        order = torch.from_numpy(np.fromiter(rows, dtype=np.int64, count=items))
        for start in range(0, size * len(self), size):
            yield self.collate_fn(self.dataset.__getitems__(order[start : start + size]))  # type: ignore[attr-defined]
        next(rows, None)  # a sampler may draw once more at its end


def make_loader(dataset: Dataset[Any], *, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """A loader with one gather per batch and a generator of its own, which ``seed_loader`` sets before each epoch."""
    require(batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1")
    return Loader(dataset, batch_size=batch_size, shuffle=shuffle, collate_fn=collate, generator=torch.Generator())


def loader_like(loader: DataLoader[Any], dataset: Dataset[Any]) -> DataLoader[Any]:
    """A loader over another dataset with this loader's batch size, drop_last, workers and, above all, order.

    The sampler itself is shared, so both loaders draw the same indices from the same seed. Only where the datasets
    differ in length is a new one made, which shuffles unless the old one was sequential.

    Raises:
        ValueError: the lengths differ, and the loader has no batch size to copy.
    """
    settings: dict[str, Any] = {
        "collate_fn": collate,
        "generator": loader.generator,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
    }
    batches = loader.batch_sampler
    if length_of(dataset) == length_of(loader.dataset):
        if batches is None:  # torch's loading in bulk: the sampler hands out lists of indices
            bulk = settings | {"batch_size": None, "collate_fn": loader.collate_fn}
            return Loader(dataset, sampler=loader.sampler, **bulk)
        if loader.batch_size is None:
            return Loader(dataset, batch_sampler=batches, **settings)
        settings |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        return Loader(dataset, sampler=loader.sampler, **settings)
    if not isinstance(batches, BatchSampler):
        raise ValueError(
            "the loader's own way of making batches cannot be copied to a dataset of another length "
            f"({length_of(dataset)} items instead of {length_of(loader.dataset)}). Give the loader a batch_size, or "
            "make the second one yourself."
        )
    shuffle = not isinstance(batches.sampler, SequentialSampler)
    return Loader(dataset, batch_size=batches.batch_size, drop_last=batches.drop_last, shuffle=shuffle, **settings)


def in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader over the same samples, each once, in the dataset's own order: row i belongs to sample i.

    A sampler other than torch's two that cover everything is asked which samples it means.
    """
    dataset, batches = loader.dataset, loader.batch_sampler
    sampler = batches.sampler if isinstance(batches, BatchSampler) else batches or loader.sampler
    if not isinstance(sampler, (RandomSampler, SequentialSampler)):
        drawn = {int(i) for item in sampler for i in (item if isinstance(item, (list, tuple)) else [item])}
        dataset = Subset(dataset, sorted(drawn))
    return Loader(
        dataset,
        batch_size=loader.batch_size or getattr(batches, "batch_size", None) or 128,
        collate_fn=collate if batches is None else loader.collate_fn,
        num_workers=loader.num_workers,
        generator=torch.Generator(),  # without one, torch's loader draws from the caller's
    )


def seed_loader(loader: Iterable[Any] | None, *, seed: int, epoch: int) -> None:
    """Make the order of the coming epoch a pure function of (seed, epoch), whatever was drawn before."""
    sampler, batches = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    for owner in (loader, sampler, batches, getattr(batches, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(epoch_seed(seed, epoch))


def batches_differ(first: DataLoader[Any], second: DataLoader[Any], *, seed: int) -> str | None:
    """Why two loaders would not show the same inputs and labels in the same order, or None where they would.

    Compares the order of a whole epoch by index, and the content of its first batch. Items from the third on
    (teacher logits) are not compared.
    """
    if _epoch_indices(first, seed) != _epoch_indices(second, seed):
        return "their samplers draw different indices"
    one, other = (first_batch(loader, seed=seed)[:2] for loader in (first, second))
    if not all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
        return "their items differ (another dataset, or random augmentation)"
    return None


def _epoch_indices(loader: DataLoader[Any], seed: int) -> list[Any]:
    with seeded(epoch_seed(seed, 0)):
        seed_loader(loader, seed=seed, epoch=0)
        return list(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)


def first_batch(loader: DataLoader[Any], *, seed: int = 0) -> Batch:
    """The first batch of the first epoch, () where there is none; the caller's random state is left as it was."""
    with seeded(epoch_seed(seed, 0)):
        seed_loader(loader, seed=seed, epoch=0)
        return tuple(next(iter(loader), ()))
