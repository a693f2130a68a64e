"""Numerical building blocks of the losses: precision, and vectors of unit length with bounded gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(values: Tensor) -> Tensor:
    """Return half-precision values as float32, because losses need it; float32 and float64 stay unchanged."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def scale_to_unit(values: Tensor, dim: int, eps: float = 1e-12) -> Tensor:
    """Return the vectors along a dimension scaled to length 1; vectors not longer than ``eps`` stay as they are.

    Equals ``torch.nn.functional.normalize`` for all other vectors. That function divides a zero vector by ``eps``, so
    dead features would get a gradient 10¹² times too large. The gradient of a short vector still grows as 1 / length,
    as for any direction.
    """
    lengths = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    return values / torch.where(lengths > eps, lengths, 1)
