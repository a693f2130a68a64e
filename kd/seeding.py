"""Random seeds as a pure function of (seed, epoch), and seeded blocks that restore the caller's generators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from kd.checks import require


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a 63-bit seed from (seed, epoch). Mixing avoids correlated streams of neighbouring seeds and epochs."""
    require(seed >= 0, "seed", seed, "an integer of at least 0")
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore the caller's states afterwards.

    Args:
        seed: seed of the generators.
        device: GPU (CUDA or MPS) whose generator is seeded too. The CPU's generator is always seeded, those of other
            devices never.
    """
    device = device or torch.device("cpu")
    previous = generator_states(device)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    try:
        yield
    finally:
        set_generator_states(previous, device)


def generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of torch's global generators: the CPU's, then the GPU's if the device is a GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_generator_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Restore states returned by ``generator_states``."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])
