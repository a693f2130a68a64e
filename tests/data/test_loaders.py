"""The package's loader beside torch's: the same batches, from the same random draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

from kd.data.datasets import ArrayDataset, DistillDataset, Split, collate
from kd.data.loaders import Loader
from kd.data.unlabelled import Joined, Unlabelled
from kd.seeding import seeded

some = settings(max_examples=60)


def rows(n: int) -> ArrayDataset:
    return ArrayDataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def distilled(dataset: Dataset[Any], *, ids: bool) -> DistillDataset:
    n = len(dataset)  # type: ignore[arg-type]
    return DistillDataset(dataset, torch.arange(2.0 * n).reshape(n, 2), ids=ids)


def drawn(kind: type[DataLoader[Any]], dataset: Dataset[Any], *, seed: int, **how: Any) -> list[torch.Tensor]:
    """Everything of two epochs, and the state of both generators after each."""
    found = []
    with seeded(seed):
        loader = kind(dataset, collate_fn=collate, **how)
        if loader.generator is not None:
            loader.generator.manual_seed(seed)
        for _ in range(2):
            found += [tensor for batch in loader for tensor in (*batch, torch.rand(1))]
            found += [torch.get_rng_state()] + ([] if loader.generator is None else [loader.generator.get_state()])
    return found


@some
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 41),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    own=st.booleans(),
    wrap=st.sampled_from(["array", "split", "joined", "distill", "ids"]),
    seed=st.integers(0, 9),
)
def test_batches_and_random_states_are_torchs(
    n: int, batch_size: int, shuffle: bool, drop_last: bool, own: bool, wrap: str, seed: int
) -> None:
    dataset: Dataset[Any] = rows(n)
    if wrap != "array":
        dataset = Split(dataset, list(range(n))[::-2])
    if wrap == "joined":
        dataset = Joined(dataset, Unlabelled(rows(n)))
    if wrap in ("distill", "ids"):
        dataset = distilled(dataset, ids=wrap == "ids")
    how = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    ours, torchs = (
        drawn(kind, dataset, seed=seed, generator=torch.Generator() if own else None, **how)
        for kind in (Loader, DataLoader)
    )
    assert len(ours) == len(torchs)
    assert all(torch.equal(one, other) for one, other in zip(ours, torchs, strict=True))


def test_two_loaders_of_one_generator_in_step_are_torchs() -> None:
    found = []
    for kind in (Loader, DataLoader):
        generator = torch.Generator().manual_seed(4)
        both = [kind(rows(9), batch_size=2, shuffle=True, generator=generator, collate_fn=collate) for _ in range(2)]
        found.append([batch[1].tolist() for batches in zip(*both, strict=True) for batch in batches])
    assert found[0] == found[1]


OTHERS: dict[str, dict[str, Any]] = {
    "with replacement": {"sampler": RandomSampler(range(20), replacement=True, num_samples=7), "batch_size": 3},
    "weighted": {"sampler": WeightedRandomSampler([1.0] * 20, 9), "batch_size": 4},
    "a list of rows": {"sampler": [3, 1, 2], "batch_size": 2},
    "batches of its own": {"batch_sampler": [[3, 1], [2]]},
    "pinned": {"batch_size": 4, "pin_memory": torch.cuda.is_available()},
}


@pytest.mark.parametrize("how", OTHERS.values(), ids=OTHERS)
def test_other_samplers_give_torchs_batches_too(how: dict[str, Any]) -> None:
    ours, torchs = (drawn(kind, rows(20), seed=3, **how) for kind in (Loader, DataLoader))
    assert all(torch.equal(one, other) for one, other in zip(ours, torchs, strict=True))


@pytest.mark.parametrize("of", [TensorDataset(torch.arange(6.0), torch.arange(6)), Subset(rows(9), range(6))])
def test_a_dataset_that_may_know_only_lists_is_left_to_torch(of: Dataset[Any]) -> None:
    ours, torchs = (drawn(kind, distilled(of, ids=True), seed=1, batch_size=4) for kind in (Loader, DataLoader))
    assert all(torch.equal(one, other) for one, other in zip(ours, torchs, strict=True))


def test_with_workers_it_is_torchs() -> None:
    with_workers = Loader(rows(8), batch_size=4, num_workers=1, collate_fn=collate)
    assert [batch[1].tolist() for batch in with_workers] == [[0, 1, 2, 3], [4, 5, 6, 7]]
