"""Inference latency of a model, for a single input or a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.devices import using_threads
from kd.models.inference import device_of, evaluating

SECONDS = 0.3  # time budget of one measurement
WARM_UP, MAX_CALLS = 20, 1000  # maximum number of warm-up calls and of timed calls
_MIN_CALLS = 3  # minimum number of timed calls, even if they exceed the budget


class Latency(NamedTuple):
    """Wall time from inputs on the device of the model to outputs on the CPU.

    Attributes:
        median, p90: median and 90th percentile in seconds.
        calls: number of timed calls.
        threads: number of threads available to torch.
        device: of the model.
    """

    median: float
    p90: float
    calls: int
    threads: int
    device: str


def measure_latency(model: nn.Module, example: Tensor, *, threads: int = 1, seconds: float = SECONDS) -> Latency:
    """Time consecutive forward passes in eval mode without gradient.

    The default is one thread: a single image is too little work for several, and results of one thread are easier to
    compare between machines. The previous number of threads is restored afterwards.

    Args:
        example: [N, …], usually a batch of one.
        threads: at least 1.
        seconds: time budget, above 0; no call starts after it. The default of 0.3 s fits 200 calls of 1 ms.
    """
    inputs = example.to(device_of(model))
    with using_threads(threads), evaluating(model), torch.no_grad():
        # GPU calls return before the work is done; copying the output to the CPU waits for it.
        times = _time_calls(lambda: model(inputs).cpu(), seconds)
    # Nearest-rank percentile: the ⌈0.9 n⌉-th smallest time.
    p90 = sorted(times)[-(-9 * len(times) // 10) - 1]
    return Latency(statistics.median(times), p90, len(times), threads, str(device_of(model)))


def _time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each call after a warm-up of at least one call and at most a quarter of the budget."""
    start = time.perf_counter()
    for _ in range(WARM_UP):
        call()
        if time.perf_counter() - start > seconds / 4:
            break
    times: list[float] = []
    while len(times) < MAX_CALLS:
        call_start = time.perf_counter()
        call()
        call_end = time.perf_counter()
        times.append(call_end - call_start)
        if call_end - start > seconds and len(times) >= _MIN_CALLS:
            break
    return times
