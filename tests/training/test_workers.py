"""A loader whose worker process dies: the training says so and stops."""

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
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's loader, when it is collected
def test_a_killed_worker_is_named_with_a_remedy(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    loader = DataLoader(Deadly(digits), batch_size=4, num_workers=1)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(OSError, match=r"DataLoader worker process died in epoch 1 of 3.*run again to resume"):
        kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=3, seed=0)
