"""One answer is timed as it is given: one input, eval mode, a told number of threads; and everything is as before."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from kd.evaluation.latency import MOST, WARM_UP, measure_latency
from tests.conftest import tiny_model

EXAMPLE = torch.zeros(1, 1, 6, 6)


class Observed(nn.Module):
    """Notes under which circumstances it was called, and sleeps for a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seconds = seconds
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((torch.get_num_threads(), self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds)
        return self.scale * images.flatten(1)


def test_the_times_are_those_of_a_call() -> None:
    found = measure_latency(Observed(0.002), EXAMPLE)
    assert 0.002 <= found.median <= found.p90 < 0.05
    assert (found.threads, found.device) == (1, "cpu")


def test_a_fast_model_is_asked_often_and_a_slow_one_until_the_time_is_over() -> None:
    fast, slow = Observed(), Observed(0.02)
    assert measure_latency(fast, EXAMPLE, seconds=5).calls == MOST
    assert len(fast.calls) == MOST + WARM_UP
    started = time.perf_counter()
    found = measure_latency(slow, EXAMPLE, seconds=0.1)
    assert time.perf_counter() - started < 1
    assert 3 <= found.calls < 10
    assert found.calls < len(slow.calls) < WARM_UP


def test_even_the_slowest_model_is_timed_three_times() -> None:
    assert measure_latency(Observed(0.05), EXAMPLE, seconds=1e-9).calls == 3


def test_a_model_answers_without_training_on_so_many_threads_and_all_is_as_before() -> None:
    model, threads = Observed(), torch.get_num_threads()
    found = measure_latency(model.train(), EXAMPLE, threads=threads + 1, seconds=0.01)
    assert set(model.calls) == {(threads + 1, False, False)}
    assert found.threads == threads + 1
    assert (torch.get_num_threads(), model.training, torch.is_grad_enabled()) == (threads, True, True)


def test_a_failing_model_leaves_the_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="shapes"):
        measure_latency(tiny_model(), torch.zeros(1, 5), threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_weights_and_random_state_are_not_touched() -> None:
    model, state = tiny_model(dropout=0.5, batch_norm=True), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_latency(model, EXAMPLE, seconds=0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_no_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1"):
        measure_latency(tiny_model(), EXAMPLE, threads=0)
