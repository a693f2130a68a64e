"""Factories of the methods that learn from the teacher's logits alone, for the table in ``kd.methods``."""

from __future__ import annotations

from torch import nn

from kd.objectives import distilled
from kd.types import Batch, Objective


def kd(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, alpha: float) -> Objective:
    """``kd.distilled``: nothing of it depends on the models."""
    return distilled(temperature=temperature, alpha=alpha)
