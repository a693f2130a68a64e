"""The package's loader compared with torch's: the same batches from the same random draws."""

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

examples = settings(max_examples=60)


def rows(n: int) -> ArrayDataset:
    return ArrayDataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def add_logits(dataset: Dataset[Any], *, ids: bool) -> DistillDataset:
    n = len(dataset)  # type: ignore[arg-type]
    return DistillDataset(dataset, torch.arange(2.0 * n).reshape(n, 2) + 2, ids=ids)


def draw_epochs(
    kind: type[DataLoader[Any]], dataset: Dataset[Any], *, seed: int, **arguments: Any
) -> list[torch.Tensor]:
    """All batches of two epochs, and the state of both generators after each."""
    drawn = []
    with seeded(seed):
        loader = kind(dataset, collate_fn=collate, **arguments)
        if loader.generator is not None:
            loader.generator.manual_seed(seed)
        for _ in range(2):
            drawn += [tensor for batch in loader for tensor in (*batch, torch.rand(1))]
            drawn += [torch.get_rng_state()] + ([] if loader.generator is None else [loader.generator.get_state()])
    return drawn


@examples
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 41),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    own_generator=st.booleans(),
    wrap=st.sampled_from(["array", "split", "joined", "distill", "ids"]),
    seed=st.integers(0, 9),
)
def test_batches_and_random_states_equal_torchs(
    n: int, batch_size: int, shuffle: bool, drop_last: bool, own_generator: bool, wrap: str, seed: int
) -> None:
    dataset: Dataset[Any] = rows(n)
    if wrap != "array":
        dataset = Split(dataset, list(range(n))[::-2])
    if wrap == "joined":
        dataset = Joined(dataset, Unlabelled(rows(n)))
    if wrap in ("distill", "ids"):
        dataset = add_logits(dataset, ids=wrap == "ids")
    arguments = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    batches, expected_batches = (
        draw_epochs(kind, dataset, seed=seed, generator=torch.Generator() if own_generator else None, **arguments)
        for kind in (Loader, DataLoader)
    )
    assert len(batches) == len(expected_batches)
    assert all(torch.equal(tensor, expected) for tensor, expected in zip(batches, expected_batches, strict=True))


def test_two_loaders_that_share_a_generator_match_torchs() -> None:
    orders = []
    for kind in (Loader, DataLoader):
        generator = torch.Generator().manual_seed(4)
        loaders = [kind(rows(9), batch_size=2, shuffle=True, generator=generator, collate_fn=collate) for _ in range(2)]
        orders.append([batch[1].tolist() for batches in zip(*loaders, strict=True) for batch in batches])
    assert orders[0] == orders[1]


SAMPLERS: dict[str, dict[str, Any]] = {
    "with replacement": {"sampler": RandomSampler(range(20), replacement=True, num_samples=7), "batch_size": 3},
    "weighted": {"sampler": WeightedRandomSampler([1.0] * 20, 9), "batch_size": 4},
    "a list of rows": {"sampler": [3, 1, 2], "batch_size": 2},
    "custom batches": {"batch_sampler": [[3, 1], [2]]},
    "pinned": {"batch_size": 4, "pin_memory": torch.cuda.is_available()},
}


@pytest.mark.parametrize("arguments", SAMPLERS.values(), ids=SAMPLERS)
def test_other_samplers_yield_torchs_batches_too(arguments: dict[str, Any]) -> None:
    batches, expected_batches = (draw_epochs(kind, rows(20), seed=3, **arguments) for kind in (Loader, DataLoader))
    assert all(torch.equal(tensor, expected) for tensor, expected in zip(batches, expected_batches, strict=True))


@pytest.mark.parametrize("dataset", [TensorDataset(torch.arange(6.0), torch.arange(6)), Subset(rows(9), range(6))])
def test_datasets_without_by_rows_use_torchs_code(dataset: Dataset[Any]) -> None:
    batches, expected_batches = (
        draw_epochs(kind, add_logits(dataset, ids=True), seed=1, batch_size=4) for kind in (Loader, DataLoader)
    )
    assert all(torch.equal(tensor, expected) for tensor, expected in zip(batches, expected_batches, strict=True))


def test_with_workers_the_batches_are_the_same() -> None:
    with_workers = Loader(rows(8), batch_size=4, num_workers=1, collate_fn=collate)
    assert [batch[1].tolist() for batch in with_workers] == [[0, 1, 2, 3], [4, 5, 6, 7]]
