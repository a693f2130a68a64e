"""Where a model trains: a device by its name, and whether this machine has it."""

from __future__ import annotations

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
