"""Reading the numbers of many steps at once changes nothing: not the weights, not the history, not the error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.data.datasets import DistillDataset
from kd.storage import stopping
from kd.storage.snapshots import Snapshots
from kd.training import step_numbers
from kd.training.history import Means
from kd.training.lean_adam import LeanAdam
from kd.training.optimizers import adam
from kd.training.step_numbers import READ_EVERY, StepNumbers, read_interval
from tests.conftest import CLASSES, tiny_model
from tests.training.test_nonfinite import Steep

INTERVALS = (1, 2, 7, 1000)  # an epoch has 5 steps
CUDA = torch.device("cuda")


@pytest.fixture
def read_every(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the interval for all devices and optimizers."""
    return lambda steps: monkeypatch.setattr(step_numbers, "read_interval", lambda *_: steps)


class Trained:
    """A small model and the result of training it; ``error`` is the text of a FloatingPointError."""

    def __init__(
        self, digits: kd.ImageDataset, *, bad_call: int | None = None, bad: float = math.nan, **settings: Any
    ) -> None:
        self.model, self.calls, self.error = tiny_model(dropout=0.5, batch_norm=True), 0, ""
        self.bad_call, self.bad = bad_call, bad
        self.optimizer, scheduler = adam(self.model, learning_rate=0.05, steps=15)
        labels = digits.labels.clone()
        labels[::5] = -1  # unlabelled: metrics are measured on fewer samples
        logits = torch.randn(len(digits), CLASSES, generator=torch.Generator().manual_seed(3))
        data = DistillDataset(kd.ImageDataset(digits.images, labels, mean=0.4, std=0.25), logits)
        loaders = kd.make_loader(data, batch_size=20, shuffle=True), kd.make_loader(data, batch_size=50)
        arguments: dict[str, Any] = {"epochs": 3, "seed": 0, "optimizer": self.optimizer, "scheduler": scheduler}
        self.history: dict[str, list[float]] = {}
        try:
            self.history = kd.fit(self.model, self.objective, *loaders, **(arguments | settings))
        except FloatingPointError as error:
            self.error = str(error)

    def objective(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Distil; ``bad`` is added to the loss of training step ``bad_call``, from 1, whose gradient stays finite."""
        output, terms = kd.distilled(temperature=2, alpha=0.5)(model, batch)
        self.calls += model.training
        return output, {**terms, "soft": terms["soft"] + (self.bad if self.calls == self.bad_call else 0)}

    def parameters(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.model.parameters()]

    def moments(self) -> list[Tensor]:
        return [value for state in self.optimizer.state.values() for value in state.values()]


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("steps", INTERVALS)
def test_the_interval_changes_no_bit_of_weights_and_history(
    digits: kd.ImageDataset, read_every: Callable[[int], None], steps: int
) -> None:
    expected = Trained(digits)
    read_every(steps)
    trained = Trained(digits)
    assert kd.weights_bytes(trained.model) == kd.weights_bytes(expected.model)
    assert_equal(trained.moments(), expected.moments())
    assert trained.history == expected.history
    assert len(trained.history["val_acc"]) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("bad_call", [2, 5, 8])
@pytest.mark.parametrize("steps", INTERVALS)
def test_a_bad_step_and_later_ones_change_no_weight_and_the_error_is_the_same(
    digits: kd.ImageDataset, read_every: Callable[[int], None], steps: int, bad_call: int, bad: float
) -> None:
    expected = Trained(digits, bad_call=bad_call, bad=bad)
    epoch, batch = divmod(bad_call - 1, 5)
    rate = 0.05 * (1 - (bad_call - 1) / 15)
    assert f"epoch {epoch + 1} of 3, batch {batch + 1} at learning rate {rate:g}: hard = " in expected.error
    read_every(steps)
    trained = Trained(digits, bad_call=bad_call, bad=bad)
    assert trained.error == expected.error
    steps_to_read = -(-(batch + 1) // steps) * steps
    assert trained.calls == 5 * epoch + min(steps_to_read, 5)
    assert_equal(trained.parameters(), expected.parameters())
    assert_equal(trained.moments(), expected.moments())
    assert not hasattr(trained.optimizer, "found_inf")


def test_a_bad_first_step_leaves_empty_moments(digits: kd.ImageDataset, read_every: Callable[[int], None]) -> None:
    read_every(1000)
    trained = Trained(digits, bad_call=1)
    assert_equal(trained.parameters(), [parameter.detach() for parameter in tiny_model(batch_norm=True).parameters()])
    assert all(not moment.any() for moment in trained.moments())


def test_a_gradient_that_is_not_finite_is_skipped_although_the_loss_is_finite(
    digits: kd.ImageDataset, read_every: Callable[[int], None]
) -> None:
    loader, weights = kd.make_loader(digits, batch_size=20), []
    for steps in (1, 1000):
        read_every(steps)
        model = Steep()
        optimizer = LeanAdam(model.parameters(), lr=0.05, fused=True)
        with pytest.raises(FloatingPointError, match=r"batch 2 .*hard = \d\S+, gradient = (nan|inf)"):
            kd.fit(model, kd.supervised, loader, None, optimizer=optimizer, epochs=1, seed=0)
        weights.append(kd.weights_bytes(model))
    assert weights[0] == weights[1]


@pytest.mark.parametrize("steps", INTERVALS)
def test_an_evaluation_names_the_bad_batch(
    digits: kd.ImageDataset, read_every: Callable[[int], None], steps: int
) -> None:
    def objective(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, terms = kd.supervised(model, batch)
        return output, {"hard": terms["hard"] * (math.inf if torch.equal(batch[0], bad) else 1)}

    loader = kd.make_loader(digits, batch_size=20)
    bad = list(loader)[2][0]
    read_every(steps)
    with pytest.raises(FloatingPointError, match=r"^the loss is not finite in evaluation, batch 3: hard = inf\. Look"):
        kd.evaluate(tiny_model(), objective, loader)


@pytest.fixture
def stop_after() -> Iterator[Callable[[int], Callable[[], None]]]:
    """Return a function that makes an ``on_batch`` hook, which requests a stop after some steps."""

    def make_hook(steps: int) -> Callable[[], None]:
        calls = iter(range(1, 1000))
        return lambda: stopping.request_stop() if next(calls) == steps else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "_received", [])
        yield make_hook


@pytest.mark.parametrize("steps", INTERVALS)
@pytest.mark.parametrize("stop_at", [3, 5, 9])
def test_numbers_are_read_before_a_snapshot_so_that_training_resumes_exactly(
    digits: kd.ImageDataset,
    read_every: Callable[[int], None],
    stop_after: Callable[[int], Callable[[], None]],
    tmp_path: Path,
    steps: int,
    stop_at: int,
) -> None:
    expected = Trained(digits)
    read_every(steps)
    with pytest.raises(stopping.Stopped):
        Trained(digits, snapshots=Snapshots(tmp_path, key="k"), on_batch=stop_after(stop_at))
    stopping._received.clear()
    snapshots = Snapshots(tmp_path, key="k")
    assert snapshots.state is not None
    assert 5 * snapshots.state["epoch"] + snapshots.state["means"]["batches"] == stop_at
    resumed = Trained(digits, snapshots=snapshots)
    assert kd.weights_bytes(resumed.model) == kd.weights_bytes(expected.model)
    assert resumed.history == expected.history


def test_no_snapshot_is_written_after_a_bad_step(
    digits: kd.ImageDataset,
    read_every: Callable[[int], None],
    stop_after: Callable[[int], Callable[[], None]],
    tmp_path: Path,
) -> None:
    read_every(1000)
    trained = Trained(digits, bad_call=2, snapshots=Snapshots(tmp_path, key="k"), on_batch=stop_after(4))
    assert "epoch 1 of 3, batch 2 at" in trained.error
    assert trained.calls == 4
    assert not list(tmp_path.iterdir())


def test_steps_may_have_different_numbers(read_every: Callable[[int], None]) -> None:
    """A method may leave parameters without gradients in some steps, and metrics may have another precision."""
    values = torch.tensor([0.1, 0.7, 3.0, 1e-9]).tolist()
    all_means = []
    for steps in (1, 3):
        read_every(steps)
        means = Means()
        numbers = StepNumbers("test", means, None, torch.device("cpu"))
        for count, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16)):
            loss, *norms = (torch.tensor(value, dtype=dtype) for value in values)
            numbers.add(loss, {"hard": loss}, {"acc": norms[0]}, norms[:count], samples=3 + count, fewer={"acc": count})
        numbers.read()
        all_means.append(means)
    assert all_means[0] == all_means[1]
    assert all_means[0].batches == 3


def test_only_fused_adam_on_cuda_leaves_the_numbers_on_the_device() -> None:
    class WithMore(torch.optim.Adam):
        """A subclass may do more in its step than the fused kernel."""

    parameters = [nn.Parameter(torch.zeros(2))]
    assert read_interval(CUDA, None) == READ_EVERY
    for optimizer_class in (LeanAdam, torch.optim.Adam, torch.optim.AdamW):
        fused = optimizer_class(parameters, fused=True)
        assert read_interval(CUDA, fused) == READ_EVERY
        assert read_interval(torch.device("cpu"), fused) == 1
        assert read_interval(CUDA, optimizer_class(parameters, fused=False)) == 1
        assert read_interval(CUDA, optimizer_class(parameters)) == 1
    assert read_interval(CUDA, torch.optim.SGD(parameters, fused=True, momentum=0.9)) == 1
    assert read_interval(CUDA, WithMore(parameters, fused=True)) == 1


def test_a_left_over_flag_does_not_survive_an_error_in_the_optimizer() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], fused=True)
    optimizer.step = lambda *_: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(ZeroDivisionError):
        step_numbers.step_if_finite(optimizer, torch.zeros(()))
    assert not hasattr(optimizer, "found_inf")
