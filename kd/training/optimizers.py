"""How the pipeline's models are stepped: Adam, with a step size that falls linearly to nothing."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from kd.training.lean_adam import LeanAdam
from kd.types import Objective


def adam(
    model: nn.Module, *, learning_rate: float, steps: int, objective: Objective | None = None
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Adam, and the schedule to be stepped with it after each training step.

    A constant step size leaves the weights wherever the last batches threw them; falling to 0, the last epoch is the
    best one or near it, without choosing any.

    Args:
        learning_rate: at the first step, above 0.
        steps: training steps until it is 0, at least 1.
        objective: its parameters, if it has any, are trained with the model's.
    """
    own = objective.parameters() if isinstance(objective, nn.Module) else ()
    # Fused: one pass over the weights instead of a dozen, a fifth of a small student's step (benchmarks/epochs.py).
    optimizer = LeanAdam([*model.parameters(), *own], lr=learning_rate, fused=True)
    return optimizer, LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
