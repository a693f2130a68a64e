"""A training stops with a clear error if a worker process of its loader dies."""

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
