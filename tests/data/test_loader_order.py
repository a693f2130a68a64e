"""Loaders: their order is determined by the seed, and a copy draws the same batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Subset, SubsetRandomSampler

import kd
from kd.data.datasets import collate
from kd.data.loaders import in_order, seed_loader
from kd.seeding import epoch_seed
from tests.data.test_datasets import ALL, N, Plain, as_tensors, numbered, same_batches

EVENS = list(range(0, N, 2))


def order(loader: DataLoader[Any], *, seed: int = 0, epoch: int = 0) -> list[int]:
    """The sample indices of one epoch, as drawn by ``kd.fit``."""
    with kd.seeded(epoch_seed(seed, epoch)):
        seed_loader(loader, seed=seed, epoch=epoch)
        return [int(label) for batch in loader for label in batch[1]]


def batched(sampler: Any, *, drop_last: bool = False) -> Any:
    """Return a batch sampler of batches of 8."""
    return BatchSampler(sampler, 8, drop_last)


LOADERS: dict[str, Callable[[Any], DataLoader[Any]]] = {
    "in order": lambda d: DataLoader(d, batch_size=8),
    "drop_last": lambda d: DataLoader(d, batch_size=8, shuffle=True, drop_last=True),
    "shuffled": lambda d: DataLoader(d, batch_size=8, shuffle=True),
    "generator": lambda d: DataLoader(d, batch_size=8, shuffle=True, generator=torch.Generator()),
    "sampler": lambda d: DataLoader(d, batch_size=8, sampler=RandomSampler(d, generator=torch.Generator())),
    "make_loader": lambda d: kd.make_loader(d, batch_size=8, shuffle=True),
    "half": lambda d: DataLoader(d, batch_size=8, sampler=SubsetRandomSampler(EVENS)),
    "listed half": lambda d: DataLoader(d, batch_size=8, sampler=EVENS),
    "batches": lambda d: DataLoader(d, batch_sampler=batched(RandomSampler(d), drop_last=True)),
    "batches of half": lambda d: DataLoader(d, batch_sampler=batched(SubsetRandomSampler(EVENS))),
    "own batches": lambda d: DataLoader(d, batch_sampler=batched(RandomSampler(d, generator=torch.Generator()))),
    # As torch documents it: no automatic batching, the sampler yields lists of indices.
    "bulk": lambda d: DataLoader(d, batch_size=None, sampler=batched(RandomSampler(d))),
}
every_loader = pytest.mark.parametrize("name", [name for name in LOADERS if name != "bulk"])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_raises(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"^batch_size must be an integer of at least 1. Got {batch_size} instead"):
        kd.make_loader(numbered(), batch_size=batch_size)


@every_loader
def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch_only(name: str) -> None:
    loader = LOADERS[name](numbered())
    first, second = order(loader, seed=1, epoch=0), order(loader, seed=1, epoch=1)
    list(loader)
    next(iter(loader))
    torch.rand(1)
    assert order(loader, seed=1, epoch=0) == first
    assert order(LOADERS[name](numbered()), seed=1, epoch=1) == second
    assert (first != second) == (first != sorted(first))


def test_a_shuffled_make_loader_ignores_the_global_random_state() -> None:
    loader, orders = kd.make_loader(numbered(), batch_size=8, shuffle=True), []
    for _ in range(2):
        torch.rand(1)
        seed_loader(loader, seed=3, epoch=2)
        orders.append([int(label) for _, labels in loader for label in labels])
    assert orders[0] == orders[1] != sorted(orders[0])
    assert sorted(orders[0]) == list(range(N))


@every_loader
def test_loader_like_yields_the_same_samples_in_the_same_order(name: str) -> None:
    loader = LOADERS[name](numbered())
    twin = kd.loader_like(loader, kd.DistillDataset(numbered(), torch.randn(N, 3)))
    for epoch in range(2):
        assert order(twin, epoch=epoch) == order(loader, epoch=epoch)
    assert [len(batch[1]) for batch in twin] == [len(batch[1]) for batch in loader]
    assert (twin.batch_size, twin.drop_last, twin.num_workers) == (loader.batch_size, loader.drop_last, 0)
    assert all(len(batch) == 3 for batch in twin)
    assert kd.batches_differ(loader, twin, seed=0) is None


def test_loader_like_copies_a_loader_without_automatic_batching() -> None:
    loader = LOADERS["bulk"](as_tensors(numbered()))
    twin = kd.loader_like(loader, kd.DistillDataset(as_tensors(numbered()), torch.randn(N, 3)))
    assert [len(batch[1]) for batch in twin] == [len(batch[1]) for batch in loader]
    assert order(twin) == order(loader)


def test_a_loader_without_a_batch_size_cannot_be_copied_to_another_length() -> None:
    with pytest.raises(ValueError, match=r"a different length \(20 samples instead of .*Give the loader a batch_size"):
        kd.loader_like(LOADERS["bulk"](as_tensors(numbered())), Subset(numbered(), range(20)))


@pytest.mark.parametrize(
    ("name", "shuffles", "sizes"),
    [
        ("in order", False, [8, 8, 4]),
        ("drop_last", True, [8, 8]),
        ("shuffled", True, [8, 8, 4]),
        ("make_loader", True, [8, 8, 4]),
        ("half", True, [8, 8, 4]),
        ("batches", True, [8, 8]),
    ],
)
def test_loader_like_keeps_batch_size_and_shuffling_for_another_length(
    name: str, shuffles: bool, sizes: list[int]
) -> None:
    twin = kd.loader_like(LOADERS[name](numbered()), Subset(numbered(), range(20)))
    seen = order(twin)
    assert (seen != sorted(seen)) == shuffles
    assert set(seen) <= set(range(20))
    assert [len(labels) for _, labels in twin] == sizes


TWIN = LOADERS["shuffled"]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (TWIN(numbered()), TWIN(numbered()), None),
        (TWIN(numbered()), TWIN(Plain(numbered())), None),
        (TWIN(numbered()), LOADERS["in order"](numbered()), "samplers draw different indices"),
        (TWIN(numbered()), LOADERS["make_loader"](numbered()), "samplers draw different indices"),
        (TWIN(numbered()), DataLoader(numbered(), batch_size=7, shuffle=True), "samplers draw different indices"),
        (TWIN(numbered()), TWIN(numbered(1)), "samples differ"),
        (TWIN(numbered()), TWIN(Subset(numbered(), range(N)[::-1])), "samples differ"),
        (TWIN(numbered()), TWIN(Plain(numbered(), noise=0.1)), "samples differ"),
    ],
)
def test_batches_differ_returns_the_reason(first: DataLoader[Any], second: DataLoader[Any], reason: str | None) -> None:
    before = torch.get_rng_state()
    difference = kd.batches_differ(first, second, seed=4)
    assert difference is None if reason is None else reason in (difference or "")
    assert torch.equal(torch.get_rng_state(), before)


def test_two_empty_loaders_do_not_differ() -> None:
    first, second = (DataLoader(numbered(), batch_size=50, drop_last=True) for _ in range(2))
    assert kd.batches_differ(first, second, seed=0) is None


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        *[(name, ALL) for name in ("in order", "shuffled", "drop_last", "make_loader", "batches")],
        ("half", EVENS),
        ("listed half", EVENS),
        ("batches of half", EVENS),
        ("bulk", ALL),
    ],
)
def test_in_order_yields_each_sample_once_in_dataset_order(name: str, samples: list[int]) -> None:
    seen = list(in_order(LOADERS[name](as_tensors(numbered()))))
    assert [int(label) for _, labels in seen for label in labels] == samples
    assert torch.equal(torch.cat([images for images, _ in seen]), collate(numbered().__getitems__(samples))[0])


@pytest.mark.timeout(60)
def test_worker_processes_do_not_change_batches() -> None:
    dataset = kd.DistillDataset(Subset(numbered(), range(20)), torch.randn(20, 3))
    in_process = kd.make_loader(dataset, batch_size=8, shuffle=True)
    with_workers = DataLoader(dataset, batch_size=8, shuffle=True, generator=torch.Generator(), num_workers=2)
    for loader in (in_process, with_workers):
        seed_loader(loader, seed=1, epoch=0)
    assert same_batches(in_process, with_workers)
    assert kd.loader_like(with_workers, dataset).num_workers == 2
