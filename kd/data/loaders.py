"""Data loaders, and functions that create, copy, seed and compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler, Subset

from kd.checks import require
from kd.data.datasets import collate, length_of, takes_rows
from kd.seeding import epoch_seed, seeded, seeded_torch
from kd.types import Batch

BatchTransform = Callable[[Batch], Batch]  # draws from torch's global generator only


class Loader(DataLoader[Any]):
    """torch's ``DataLoader`` with less overhead per batch for the in-memory datasets of this package.

    For these, a batch's rows are a slice of one tensor, the epoch's order, instead of a list of ints, and batches
    bypass torch's fetcher. This saves a twentieth of a small student's training step (benchmarks/epochs.py). Order and
    random draws equal torch's bit for bit. Other datasets and samplers, workers and pinned memory use torch's code.

    Args:
        mix: random transform of whole batches, such as ``kd.data.mixing.Mixing``. Its draws depend only on the seed of
            the loader's generator and the batch number; the caller's random state does not change.
    """

    def __init__(self, dataset: Dataset[Any], *, mix: BatchTransform | None = None, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.mix = mix

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch declares its own iterator class
        batches = self._iterate()
        return batches if self.mix is None else self._mix_each(batches, self.mix)

    def _mix_each(self, batches: Iterator[Any], mix: BatchTransform) -> Iterator[Any]:
        seed = self.generator.initial_seed()
        for number, batch in enumerate(batches):
            with seeded_torch(epoch_seed(seed, number)):
                mixed = mix(tuple(batch))
            yield mixed

    def _iterate(self) -> Iterator[Any]:
        plain_sampler = type(self.sampler) in (RandomSampler, SequentialSampler) and self.batch_size is not None
        simple = plain_sampler and not self.num_workers and not self.pin_memory and takes_rows(self.dataset)
        if not simple:
            return super().__iter__()
        # torch draws its base seed here, even without workers; the random stream must stay the same.
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return self._iterate_rows()

    def _iterate_rows(self) -> Iterator[Any]:
        rows, samples, size = iter(self.sampler), len(self.sampler), self.batch_size or 1  # type: ignore[arg-type]
        order = torch.from_numpy(np.fromiter(rows, dtype=np.int64, count=samples))
        for start in range(0, size * len(self), size):
            yield self.collate_fn(self.dataset.__getitems__(order[start : start + size]))  # type: ignore[attr-defined]
        next(rows, None)  # exhaust the sampler: it may draw once more at its end


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    shuffle: bool = False,
    sampler: Sampler[int] | None = None,
    workers: int = 0,
    mix: BatchTransform | None = None,
) -> DataLoader[Any]:
    """Return a loader with one gather per batch and its own generator, which ``seed_loader`` seeds each epoch.

    Args:
        mix: see ``Loader``.
        workers: processes that read the dataset; the batches are the same. Arrays in memory are read in this process,
            because a gather takes less time than sending its result.
    """
    is_loader = isinstance(dataset, DataLoader)
    require(not is_loader, "dataset", type(dataset).__name__, "a dataset", "pass loader.dataset: loaders may shuffle")
    require(batch_size >= 1, "batch_size", batch_size, "an integer of at least 1")
    require(workers >= 0, "workers", workers, "an integer of at least 0")
    workers = 0 if takes_rows(dataset) else workers
    return Loader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        sampler=sampler,
        collate_fn=collate,
        generator=torch.Generator(),
        num_workers=workers,
        persistent_workers=workers > 0,
        mix=mix,
    )


def loader_like(loader: DataLoader[Any], dataset: Dataset[Any]) -> DataLoader[Any]:
    """Return a loader over another dataset with this loader's batch size, drop_last, workers, order and mixing.

    The sampler is shared, so both loaders draw the same indices from the same seed. If the datasets differ in length,
    a new sampler is created, which shuffles unless the old one is sequential.

    Raises:
        ValueError: the lengths differ and the loader uses a custom batch sampler or none, which cannot be copied.
    """
    settings: dict[str, Any] = {
        "collate_fn": collate,
        "generator": loader.generator,
        "num_workers": loader.num_workers,
        "persistent_workers": loader.persistent_workers,
        "prefetch_factor": loader.prefetch_factor,
        "pin_memory": loader.pin_memory,
        "mix": getattr(loader, "mix", None),
    }
    batches = loader.batch_sampler
    if length_of(dataset) == length_of(loader.dataset):
        if batches is None:  # batch_size=None: the sampler itself yields lists of indices
            unbatched = settings | {"batch_size": None, "collate_fn": loader.collate_fn}
            return Loader(dataset, sampler=loader.sampler, **unbatched)
        if loader.batch_size is None:
            return Loader(dataset, batch_sampler=batches, **settings)
        settings |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        return Loader(dataset, sampler=loader.sampler, **settings)
    if not isinstance(batches, BatchSampler):
        raise ValueError(
            "the loader's batch sampler cannot be copied to a dataset of a different length "
            f"({length_of(dataset)} samples instead of {length_of(loader.dataset)}). Give the loader a batch_size, or "
            "create the second loader yourself."
        )
    shuffle = not isinstance(batches.sampler, SequentialSampler)
    return Loader(dataset, batch_size=batches.batch_size, drop_last=batches.drop_last, shuffle=shuffle, **settings)


def in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader over the same samples, each once, in the dataset's order, so that row i belongs to sample i.

    Samplers other than torch's random and sequential ones may select a subset; they are iterated once to find it.
    """
    dataset, batches = loader.dataset, loader.batch_sampler
    sampler = batches.sampler if isinstance(batches, BatchSampler) else batches or loader.sampler
    if not isinstance(sampler, (RandomSampler, SequentialSampler)):
        indices = {int(i) for item in sampler for i in (item if isinstance(item, (list, tuple)) else [item])}
        dataset = Subset(dataset, sorted(indices))
    return Loader(
        dataset,
        batch_size=loader.batch_size or getattr(batches, "batch_size", None) or 128,
        collate_fn=collate if batches is None else loader.collate_fn,
        num_workers=loader.num_workers,
        generator=torch.Generator(),  # without one, torch draws from the caller's global generator
    )


def seed_loader(loader: Iterable[Any] | None, *, seed: int, epoch: int) -> None:
    """Seed the loader's generators, so that the next epoch's order is a function of (seed, epoch) only."""
    sampler, batches = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    for owner in (loader, sampler, batches, getattr(batches, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(epoch_seed(seed, epoch))


def batches_differ(first: DataLoader[Any], second: DataLoader[Any], *, seed: int) -> str | None:
    """Return how two loaders differ in inputs, labels, order or mixing; None if they match.

    Compares the indices of a whole epoch and the content of its first batch. Teacher logits and ids are not compared.
    """
    if getattr(first, "mix", None) != getattr(second, "mix", None):
        return "their batches are mixed differently"
    if _draw_epoch_indices(first, seed) != _draw_epoch_indices(second, seed):
        return "their samplers draw different indices"
    first_pair, second_pair = (first_batch(loader, seed=seed)[:2] for loader in (first, second))
    if not all(torch.equal(a, b) for a, b in zip(first_pair, second_pair, strict=True)):
        return "their samples differ (another dataset, or random augmentation)"
    return None


def _draw_epoch_indices(loader: DataLoader[Any], seed: int) -> list[Any]:
    with seeded(epoch_seed(seed, 0)):
        seed_loader(loader, seed=seed, epoch=0)
        return list(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)


def first_batch(loader: DataLoader[Any], *, seed: int = 0) -> Batch:
    """Return the first batch of the first epoch, () if the loader is empty; restore the caller's random state."""
    with seeded(epoch_seed(seed, 0)):
        seed_loader(loader, seed=seed, epoch=0)
        return tuple(next(iter(loader), ()))
