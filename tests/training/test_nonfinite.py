"""NaN and infinity stop the run before the step and leave no bad state to resume from."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.storage.run_folder import open_run
from kd.storage.snapshots import Snapshots
from kd.teachers.cache import with_teacher_logits
from kd.training import run_steps
from tests.conftest import tiny_model


class Steep(nn.Module):
    """A model whose second call has an infinite gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.calls = tiny_model(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.model(images)
        return logits + (0 * logits).abs().sqrt() if self.calls == 2 else logits


def fit(model: nn.Module, digits: kd.ImageDataset, snapshots: Snapshots | None = None) -> None:
    loader = kd.make_loader(digits, batch_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=2, seed=0, snapshots=snapshots)


def test_a_gradient_that_is_not_finite_stops_before_the_step(digits: kd.ImageDataset, tmp_path: Path) -> None:
    model, snapshots = Steep(), Snapshots(tmp_path, key="k", interval=0)
    with pytest.raises(FloatingPointError, match=r"batch 2 at learning rate 0\.1: hard = \d.*, gradient = (nan|inf)"):
        fit(model, digits, snapshots)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    state = Snapshots(tmp_path, key="k").state
    assert state is not None
    assert state["where"] == "epoch 1, batch 1"
    assert all(tensor.isfinite().all() for tensor in state["parts"]["model"].values())


def test_the_error_names_the_step(digits: kd.ImageDataset) -> None:
    model = Steep()
    loader = kd.make_loader(digits, batch_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match=r"^distilled: the loss or its gradient is not finite in epoch 1 of 2"):
        run_steps.train("distilled", model, kd.supervised, loader, loader, optimizer=optimizer, epochs=2, seed=0)


def test_teacher_logits_that_are_not_finite_are_never_saved(digits: kd.ImageDataset, tmp_path: Path) -> None:
    teacher = tiny_model()
    with torch.no_grad():
        next(iter(teacher.parameters()))[0, 0] = math.nan
    loader = kd.make_loader(digits, batch_size=16)
    with open_run(tmp_path), pytest.raises(ValueError, match="teacher logits must be finite"):
        with_teacher_logits(teacher, {"training": (digits, loader)})
    assert not list(tmp_path.rglob("*.pt"))


def test_a_clock_that_goes_backwards_has_no_effect(
    digits: kd.ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, model = tiny_model(), tiny_model()
    fit(expected, digits)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    fit(model, digits, Snapshots(tmp_path, key="k", interval=0))
    assert kd.weights_bytes(model) == kd.weights_bytes(expected)
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_deleted_state_folder_is_created_again(digits: kd.ImageDataset, tmp_path: Path) -> None:
    folder = tmp_path / "step"
    snapshots = Snapshots(folder, key="k")
    snapshots.write({"value": 1})
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    snapshots.write({"value": 2})
    assert Snapshots(folder, key="k").state == {"value": 2}
