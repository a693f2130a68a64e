"""Settings of the training recipe: how each network is trained. Imports no torch, like ``kd.commands.settings``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kd.checks import LEARNING_RATE, at_least


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """How the teacher, the control and the distilled student are trained."""

    batch_size: Annotated[int, at_least(1)] = 128
    """images per training step, at least 1"""
    epochs: Annotated[int, at_least(1)] = 10
    """epochs of each training run, at least 1"""
    learning_rate: Annotated[float, LEARNING_RATE] = 4e-3
    """initial learning rate of Adam, above 0; decays linearly to 0"""
    bfloat16: bool = False
    """train the teacher under bfloat16 autocast: faster with Intel AMX or a recent GPU, rounds differently"""
    seed: Annotated[int, at_least(0)] = 0
    """seed of initial weights, batch order and dropout, at least 0"""
