"""Inference latency of a model, for a single input or a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.devices import using_threads
from kd.evaluation.timing import SECONDS, summarise_times, time_calls
from kd.models.inference import device_of, evaluating


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
        times = time_calls(lambda: model(inputs).cpu(), seconds)
    return Latency(*summarise_times(times), threads, str(device_of(model)))
