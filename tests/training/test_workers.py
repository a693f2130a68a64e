"""Worker processes of a loader change no result, and a training stops with a clear error if one dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kd
from kd.data.augmentation import EVERY, AugmentedImages, augmentation
from kd.data.views import one_view_each
from kd.storage.snapshots import Snapshots
from tests.conftest import tiny_model


def make_views(digits: kd.ImageDataset) -> AugmentedImages:
    return AugmentedImages(digits, augmentation(["flip", "crop:1"], (1, 6, 6)), views=EVERY)


def train_on_views(digits: kd.ImageDataset, *, workers: int, **arguments: Any) -> tuple[nn.Module, kd.History]:
    views, model = make_views(digits), tiny_model(dropout=0.3)
    loader = one_view_each(views, views.views, batch_size=16, workers=workers)
    assert loader.num_workers == workers
    optimizer = torch.optim.Adam(model.parameters())
    validation = kd.make_loader(digits, batch_size=32)
    history = kd.fit(model, kd.supervised, loader, validation, optimizer=optimizer, epochs=3, seed=1, **arguments)
    return model, history


def assert_same(first: tuple[nn.Module, kd.History], second: tuple[nn.Module, kd.History]) -> None:
    assert first[1] == second[1]
    pairs = zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit_of_a_training(workers: int, digits: kd.ImageDataset) -> None:
    assert_same(train_on_views(digits, workers=0), train_on_views(digits, workers=workers))


@pytest.mark.parametrize(("before", "after"), [(0, 1), (2, 0), (1, 2)])
def test_a_training_resumes_with_another_number_of_workers(
    before: int, after: int, digits: kd.ImageDataset, tmp_path: Path
) -> None:
    uninterrupted = train_on_views(digits, workers=0)
    steps = 0

    def interrupt() -> None:
        nonlocal steps
        steps += 1
        if steps == 9:  # in the middle of the second epoch
            raise KeyboardInterrupt

    def open_snapshots() -> Snapshots:
        return Snapshots(tmp_path, key="key", interval=0)

    with pytest.raises(KeyboardInterrupt):
        train_on_views(digits, workers=before, on_batch=interrupt, snapshots=open_snapshots())
    assert_same(uninterrupted, train_on_views(digits, workers=after, snapshots=open_snapshots()))


def test_loaders_of_arrays_need_no_workers(digits: kd.ImageDataset) -> None:
    assert kd.make_loader(digits, batch_size=4, workers=3).num_workers == 0


def test_a_copied_loader_keeps_its_workers(digits: kd.ImageDataset) -> None:
    views = make_views(digits)
    loader = one_view_each(views, views.views, batch_size=4, workers=2)
    copy = kd.loader_like(loader, kd.DistillDataset(views, torch.zeros(1, 4).expand(len(views), 4)))
    assert (copy.num_workers, copy.persistent_workers, copy.prefetch_factor) == (2, True, loader.prefetch_factor)


def test_logits_do_not_depend_on_workers(digits: kd.ImageDataset) -> None:
    views = AugmentedImages(digits, augmentation(["flip"], (1, 6, 6)), views=3)
    first, second = (kd.collect_logits(tiny_model(), views, batch_size=50, workers=workers) for workers in (0, 2))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.labels, second.labels)


class Deadly(Dataset[Any]):
    """A dataset that kills the process reading its sample 60."""

    def __init__(self, dataset: kd.ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if index == 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.dataset[index]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends processes in a different way")
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # raised when torch's loader is garbage-collected
def test_a_killed_worker_raises_with_a_remedy(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    loader = DataLoader(Deadly(digits), batch_size=4, num_workers=1)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(OSError, match=r"DataLoader worker process died in epoch 1 of 3.*run again to resume"):
        kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=3, seed=0)
