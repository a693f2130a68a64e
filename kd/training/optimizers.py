"""The pipeline's optimizer: Adam with a learning rate that falls linearly to 0."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from kd.training.lean_adam import LeanAdam
from kd.types import Objective


def adam(
    model: nn.Module, *, learning_rate: float, steps: int, objective: Objective | None = None
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Return Adam and its scheduler. Step the scheduler after each training step.

    With a constant learning rate the final weights depend on the last few batches. With a rate that falls to 0 the last
    epoch is at or near the best one, so no epoch needs to be selected.

    Args:
        learning_rate: initial learning rate, above 0.
        steps: training steps until the rate is 0, at least 1.
        objective: its parameters, if any, are trained together with the model's.
    """
    objective_parameters = objective.parameters() if isinstance(objective, nn.Module) else ()
    # Fused: one pass over the weights instead of a dozen, a fifth of a small student's step (benchmarks/epochs.py).
    optimizer = LeanAdam([*model.parameters(), *objective_parameters], lr=learning_rate, fused=True)
    return optimizer, LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)


def require_trained(
    optimizer: torch.optim.Optimizer, model: nn.Module, objective: Objective, scheduler: LRScheduler | None = None
) -> None:
    """Check that the optimizer trains the model, and all parameters of the objective; the scheduler must change it.

    Warns if the optimizer lacks parameters of the model and holds others instead, as after replacing a layer.

    Raises:
        ValueError: it holds no parameter of the model that needs a gradient, or lacks one of the objective; or the
            scheduler belongs to another optimizer.
    """
    scheduled = getattr(scheduler, "optimizer", optimizer)
    if scheduled.param_groups is not optimizer.param_groups:  # a wrapped optimizer shares its groups
        raise ValueError(
            f"the scheduler {type(scheduler).__name__} must belong to the optimizer, or the learning rate would stay "
            "constant. It was made for another one. Make it from this optimizer."
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not any(id(parameter) in held for parameter in needed):
        cause = "it was made for another model" if needed else "all its parameters are frozen"
        raise ValueError(
            f"the optimizer must hold parameters of the model {type(model).__name__} that need a gradient. It holds "
            f"none: {cause}. Make it from model.parameters()."
        )
    _warn_of_replaced_layers(held, model, objective)
    own = objective.named_parameters() if isinstance(objective, nn.Module) else ()
    missing = [name for name, parameter in own if parameter.requires_grad and id(parameter) not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"the optimizer must hold the parameters of the objective {type(objective).__name__} too. It lacks "
            f"{missing[0]}{more}. Make it from [*model.parameters(), *objective.parameters()]."
        )


def _warn_of_replaced_layers(held: set[int], model: nn.Module, objective: Objective) -> None:
    own = objective.parameters() if isinstance(objective, nn.Module) else ()
    others = held - {id(parameter) for parameter in (*model.parameters(), *own)}
    needed = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    lacking = [name for name, parameter in needed.items() if id(parameter) not in held]
    if lacking and others:
        warnings.warn(
            f"the optimizer holds {len(others):,} parameters that are not the model's, and lacks {len(lacking):,} that "
            f"are, such as {lacking[0]}: was a layer replaced after the optimizer was made? These are not trained.",
            stacklevel=4,
        )
