"""Devices by name, checks that they are available, and the number of CPU threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kd.checks import require


def device_named(name: str, *, setting: str = "--device") -> torch.device:
    """Return the device with this name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for CUDA if available, else the CPU.
        setting: name of the setting in the error.

    Raises:
        ValueError: the name is not a device type. Availability is not checked; see ``require_device``.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{setting} must be cpu, cuda, cuda:N or mps. Got {name!r} instead.") from error


def require_device(device: torch.device, name: str) -> None:
    """Raise ``ValueError`` if this machine does not have the device; ``name`` is the setting's name in the error."""
    is_available = True
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # which of the two depends on the build of torch
        is_available = False
    require(is_available, name, str(device), "a device of this machine", "cpu always works")


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads (at least 1) inside the block and restore it afterwards."""
    require(count >= 1, "threads", count, "an integer of at least 1")
    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
