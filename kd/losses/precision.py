"""Floating-point precision of the losses."""

from __future__ import annotations

from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """Return half-precision values as float32, because losses need it; float32 and float64 stay unchanged."""
    return values if values.dtype.itemsize >= 4 else values.float()
