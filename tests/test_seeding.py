"""Random numbers are a pure function of (seed, epoch), and the caller's generators are restored."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kd
from kd.seeding import epoch_seed
from kd.storage.snapshots import Snapshots


def draw(seed: int) -> Tensor:
    with kd.seeded(seed):
        return torch.rand(8)


@settings(max_examples=50)
@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000))
def test_the_seed_of_an_epoch_is_deterministic_and_fits_every_generator(seed: int, epoch: int) -> None:
    value = epoch_seed(seed, epoch)
    torch.rand(1)
    assert epoch_seed(seed, epoch) == value
    assert 0 <= value < 2**63


def test_neighbouring_seeds_and_epochs_share_no_stream() -> None:
    values = {epoch_seed(seed, epoch) for seed in range(40) for epoch in range(40)}
    assert len(values) == 40 * 40


@pytest.mark.parametrize("seed", [-1, -(2**40)])
def test_a_negative_seed_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"^seed must be an integer of at least 0\. Got {seed} instead"):
        epoch_seed(seed, 0)


def test_inside_the_block_only_the_seed_matters() -> None:
    first = draw(5)
    torch.rand(3)
    assert torch.equal(draw(5), first)
    assert not torch.equal(draw(6), first)


def test_after_the_block_the_callers_state_is_restored() -> None:
    before = torch.get_rng_state()
    draw(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_is_restored_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), kd.seeded(5):
        torch.rand(1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_nested_block_does_not_change_the_outer_stream() -> None:
    with kd.seeded(1):
        torch.rand(2)
        draw(2)
        interrupted = torch.rand(8)
    with kd.seeded(1):
        torch.rand(2)
        assert torch.equal(torch.rand(8), interrupted)


def test_without_a_cuda_device_no_cuda_generator_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    draw(5)
    assert seeds == []


def draw_from_all() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.random())]  # noqa: NPY002


def noisy(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """An objective that draws from the generators of torch, NumPy and Python."""
    output, terms = kd.supervised(model, batch)
    return output, {name: sum(draw_from_all()) * term for name, term in terms.items()}


def test_numpys_and_pythons_generators_are_seeded_and_restored_too() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]  # noqa: NPY002
    with kd.seeded(7):
        first = draw_from_all()
        with kd.seeded(8):
            other = draw_from_all()
        second = draw_from_all()
    with kd.seeded(7):
        assert draw_from_all() == first
        assert draw_from_all() == second
    assert not {*first, *second} & {*other}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr]  # noqa: NPY002


def test_a_training_that_draws_from_any_generator_is_repeated_and_resumed_exactly(tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def train(*, cut_after: int = 0, **options: Any) -> bytes:
        with kd.seeded(0):
            model, data = nn.Linear(3, 4), TensorDataset(torch.randn(12, 3), torch.arange(12) % 4)
        batches = itertools.count(1)

        def on_batch() -> None:
            if next(batches) == cut_after:
                raise Cut

        loader, optimizer = kd.make_loader(data, batch_size=4), torch.optim.SGD(model.parameters(), lr=0.1)
        kd.fit(model, noisy, loader, None, epochs=2, seed=0, optimizer=optimizer, on_batch=on_batch, **options)
        return kd.weights_bytes(model)

    whole = train()
    assert train() == whole
    with pytest.raises(Cut):
        train(cut_after=3, snapshots=Snapshots(tmp_path, key="k", interval=0))
    assert train(snapshots=Snapshots(tmp_path, key="k", interval=0)) == whole
