"""Where a model trains: a device by its name, and whether this machine has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kd.checks import require


def device_named(name: str, *, setting: str = "--device") -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` is CUDA where there is one, else the CPU.

    Args:
        setting: what the error calls it.

    Raises:
        ValueError: there is no such kind of device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{setting} must be cpu, cuda, cuda:N or mps. Got {name!r} instead.") from error


def require_device(device: torch.device, name: str) -> None:
    """Refuse a device that this machine lacks; the error calls it by the setting's name."""
    works = True
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch raises either, by how it was built
        works = False
    require(works, name, str(device), "a device of this machine", "cpu always works")


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the block, at least 1; afterwards as many as before."""
    require(count >= 1, "threads", count, "a whole number of at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
