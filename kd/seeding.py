"""Randomness as a pure function of (seed, epoch), without leaving a trace in the caller's generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from kd.checks import require


def epoch_seed(seed: int, epoch: int) -> int:
    """One 63-bit number from (seed, epoch), well mixed: neighbouring seeds and epochs share no stream."""
    require(seed >= 0, "seed", seed, "a whole number of at least 0")
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block and give the caller's states back after it.

    Args:
        device: the CUDA device whose generator is used inside, if any; the CPU's is always covered. No other device's
            generator is touched.
    """
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
