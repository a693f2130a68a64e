"""How long an answer takes: a single input through one model, as it is asked where it is used, or a batch of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.devices import using_threads
from kd.models.inference import device_of, evaluating

SECONDS = 0.3  # that measuring one model may take
WARM_UP, MOST = 20, 1000  # calls before the clock counts, and calls that are timed at most
_FEWEST = 3  # timed even where one call takes longer than all the time there is


class Latency(NamedTuple):
    """Wall time from an input, or a batch, on the model's device to the answer on the CPU.

    Attributes:
        median, p90: in seconds; nine calls of ten are no slower than p90.
        calls: how many were timed.
        threads: that torch could use.
        device: where the model is.
    """

    median: float
    p90: float
    calls: int
    threads: int
    device: str


def measure_latency(model: nn.Module, example: Tensor, *, threads: int = 1, seconds: float = SECONDS) -> Latency:
    """Time the model's answers to the example, one call after the other, in eval mode without gradient.

    A single image gives several threads little to do, and waiting for each other is what they then do; one thread also
    is what stays comparable between machines. The number of threads is as before afterwards.

    Args:
        example: [N, …]; a batch of one is what is usually meant.
        threads: at least 1.
        seconds: after so many no further call is begun, above 0; 200 calls and more fit into the usual 0.3 s unless one
            takes longer than a millisecond.
    """
    inputs = example.to(device_of(model))
    with using_threads(threads), evaluating(model), torch.no_grad():
        # To the CPU: on a GPU a call returns before its work is done, and its answer is what is waited for.
        times = _times(lambda: model(inputs).cpu(), seconds)
    p90 = sorted(times)[-(-9 * len(times) // 10) - 1]
    return Latency(statistics.median(times), p90, len(times), threads, str(device_of(model)))


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each timed call: the warm-up takes a quarter of the time at most, and the first call always."""
    started = time.perf_counter()
    for _ in range(WARM_UP):
        call()
        if time.perf_counter() - started > seconds / 4:
            break
    times: list[float] = []
    while len(times) < MOST:
        begun = time.perf_counter()
        call()
        ended = time.perf_counter()
        times.append(ended - begun)
        if ended - started > seconds and len(times) >= _FEWEST:
            break
    return times
