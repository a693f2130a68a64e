"""The precision in which losses are computed."""

from __future__ import annotations

from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """The values in float32 where they are in half precision, which is not enough for a loss; double stays double."""
    return values if values.dtype.itemsize >= 4 else values.float()
