"""Random seeds as a pure function of (seed, epoch), and seeded blocks that restore the caller's generators."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    """Seed the global generators of torch, NumPy and Python inside the block; restore the caller's states afterwards.

    Users' models, objectives and datasets may draw from any of them.

    Args:
        seed: seed of the generators.
        device: GPU (CUDA or MPS) whose generator is seeded too. The CPU's generators are always seeded, those of other
            devices never.
    """
    previous = _states_outside_torch()
    random.seed(seed)
    np.random.seed([seed % 2**32, (seed >> 32) % 2**32])  # noqa: NPY002  # the generator that users' code draws from
    try:
        with seeded_torch(seed, device):
            yield
    finally:
        _set_states_outside_torch(previous)


@contextmanager
def seeded_torch(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """``seeded`` for torch's generators alone: takes a tenth of the time, for blocks that run once per batch."""
    device = device or torch.device("cpu")
    previous = _torch_states(device)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    try:
        yield
    finally:
        _set_torch_states(previous, device)


def generator_states(device: torch.device) -> list[Any]:
    """Return the states of all global generators as plain data: Python's, NumPy's, torch's.

    torch's are the CPU's, then the GPU's if the device is a GPU.
    """
    return [*_states_outside_torch(), *_torch_states(device)]


def set_generator_states(states: Sequence[Any], device: torch.device) -> None:
    """Restore states returned by ``generator_states``."""
    _set_states_outside_torch(states[:2])
    _set_torch_states(states[2:], device)


def check_generator_states(states: Sequence[Any]) -> None:
    """Raise an error of any type if the states do not have the form of ``generator_states``; change no generator."""
    random.Random().setstate(states[0])
    np.random.RandomState().set_state(states[1])
    torch.Generator().set_state(states[2])


def _states_outside_torch() -> list[Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, words, *rest = numpy_state
    return [random.getstate(), (name, words.tolist(), *rest)]


def _set_states_outside_torch(states: Sequence[Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def _torch_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def _set_torch_states(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])
