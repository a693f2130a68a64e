"""A loader whose worker process dies: the training says so and stops, with nothing learned from half a batch."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import kd
from tests.conftest import tiny_model


class Deadly(Dataset[Any]):
    """Kills the process that asks for its sixty-first item."""

    def __init__(self, items: kd.ImageDataset) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if index == 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.items[index]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends processes in another way")
def test_a_killed_worker_is_named_and_the_weights_are_those_of_the_last_step(digits: kd.ImageDataset) -> None:
    model, weights = tiny_model(), []
    loader = DataLoader(Deadly(digits), batch_size=4, num_workers=1)
    optimizer = torch.optim.Adam(model.parameters())

    def fit() -> None:
        keep = lambda: weights.append(kd.weights_bytes(model))  # noqa: E731
        kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=3, seed=0, on_batch=keep)

    with pytest.raises(OSError, match=r"worker process of the loader has died in epoch 1 of 3.*Run again to go on"):
        fit()
    assert kd.weights_bytes(model) == weights[-1]
