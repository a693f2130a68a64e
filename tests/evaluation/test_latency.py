"""Latency is measured in eval mode with the given number of threads, and leaves no trace."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from kd.evaluation.latency import measure_latency
from kd.evaluation.timing import MAX_CALLS, WARM_UP
from tests.conftest import tiny_model

pytestmark = pytest.mark.timed

EXAMPLE = torch.zeros(1, 1, 6, 6)


class Observed(nn.Module):
    """A model that records threads and modes of each call and sleeps for some time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seconds = seconds
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((torch.get_num_threads(), self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds)
        return self.scale * images.flatten(1)


def test_latency_is_the_duration_of_a_call() -> None:
    latency = measure_latency(Observed(0.002), EXAMPLE)
    assert 0.002 <= latency.median <= latency.p90 < 0.5  # seconds, on a loaded machine too
    assert (latency.threads, latency.device) == (1, "cpu")


def test_the_number_of_calls_is_limited_by_count_and_by_time() -> None:
    fast, slow = Observed(), Observed(0.02)
    assert measure_latency(fast, EXAMPLE, seconds=5).calls == MAX_CALLS
    assert len(fast.calls) == MAX_CALLS + WARM_UP
    latency = measure_latency(slow, EXAMPLE, seconds=0.1)
    assert 3 <= latency.calls < 10
    assert latency.calls < len(slow.calls) < WARM_UP


def test_a_slow_model_is_timed_at_least_three_times() -> None:
    assert measure_latency(Observed(0.05), EXAMPLE, seconds=1e-9).calls == 3


def test_timing_uses_eval_mode_and_the_given_threads_and_restores_both() -> None:
    model, threads = Observed(), torch.get_num_threads()
    latency = measure_latency(model.train(), EXAMPLE, threads=threads + 1, seconds=0.01)
    assert set(model.calls) == {(threads + 1, False, False)}
    assert latency.threads == threads + 1
    assert (torch.get_num_threads(), model.training, torch.is_grad_enabled()) == (threads, True, True)


def test_threads_are_restored_after_an_error() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="shapes"):
        measure_latency(tiny_model(), torch.zeros(1, 5), threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_weights_and_random_state_do_not_change() -> None:
    model, state = tiny_model(dropout=0.5, batch_norm=True), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_latency(model, EXAMPLE, seconds=0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_zero_threads_raise() -> None:
    with pytest.raises(ValueError, match="threads must be an integer of at least 1"):
        measure_latency(tiny_model(), EXAMPLE, threads=0)
