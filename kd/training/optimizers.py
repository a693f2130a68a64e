"""Optimizers and learning rate schedules by name, from ``torch.optim``; and Adam with a rate that falls to 0."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from kd.checks import require
from kd.training.lean_adam import LeanAdam
from kd.types import Objective

# From (optimizer, number of steps) to a schedule. A step schedule divides the rate by 10 after each third.
SCHEDULES: Mapping[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "linear": lambda optimizer, steps: LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0, total_iters=0),
    "step": lambda optimizer, steps: StepLR(optimizer, step_size=-(-steps // 3), gamma=0.1),
}
OPTIMIZERS = ("adam", "adamw", "sgd")


def make_optimizer(
    name: str,
    model: nn.Module,
    objective: Objective | None = None,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Return an optimizer of the model's parameters, and of the objective's if it has any.

    Args:
        name: ``adam``, ``adamw`` (decoupled weight decay) or ``sgd``.
        learning_rate: above 0.
        weight_decay: at least 0; not applied to parameters of less than two dimensions, which are biases and the
            weights of norms.
        momentum, nesterov: of SGD.
    """
    require(name in OPTIMIZERS, "optimizer", name, f"one of {', '.join(OPTIMIZERS)}")
    objective_parameters = objective.parameters() if isinstance(objective, nn.Module) else ()
    parameters = [*model.parameters(), *objective_parameters]
    groups: list[Any] = parameters
    if weight_decay:
        decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay}
        plain = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
        groups = [group for group in (decayed, plain) if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov)
    # Fused: one pass over the weights instead of a dozen, a fifth of a small student's step (benchmarks/epochs.py).
    # torch.optim.AdamW is Adam with this argument. torch has no fused step for complex numbers.
    is_fused = not any(parameter.is_complex() for parameter in parameters)
    return LeanAdam(groups, lr=learning_rate, fused=is_fused, decoupled_weight_decay=name == "adamw")


def make_schedule(optimizer: torch.optim.Optimizer, name: str, *, steps: int, warmup: int = 0) -> LRScheduler:
    """Return the scheduler of a whole training, to be stepped after each optimizer step.

    Args:
        name: ``linear`` to 0, ``cosine`` to 0, ``constant``, or ``step``, which divides the rate by 10 twice.
        steps: optimizer steps of the training, at least 1.
        warmup: steps, below ``steps``, in which the rate first rises linearly; the schedule has the rest.
    """
    require(name in SCHEDULES, "schedule", name, f"one of {', '.join(SCHEDULES)}")
    require(0 <= warmup < steps or not warmup, "warmup", warmup, f"less than the {steps:,} steps of the training")
    if not warmup:
        return SCHEDULES[name](optimizer, steps)
    rising = LinearLR(optimizer, start_factor=1 / (warmup + 1), end_factor=1.0, total_iters=warmup)
    return SequentialLR(optimizer, [rising, SCHEDULES[name](optimizer, steps - warmup)], [warmup])


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
    optimizer = make_optimizer("adam", model, objective, learning_rate=learning_rate)
    return optimizer, make_schedule(optimizer, "linear", steps=steps)


def _require_simple(optimizer: torch.optim.Optimizer, scheduler: object) -> None:
    """Check that a step of the optimizer needs no closure, and one of the scheduler no metric."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "the optimizer must take a step from the gradients of one batch. Got LBFGS, which computes the loss "
            "several times in a step. Use Adam or SGD."
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "the scheduler is stepped after each training step, without a metric. Got ReduceLROnPlateau, which needs "
            "one. Step it after each epoch instead: on_epoch=lambda epoch, history: "
            "plateau.step(history['val_loss'][-1])."
        )


def require_trained(
    optimizer: torch.optim.Optimizer, model: nn.Module, objective: Objective, scheduler: LRScheduler | None = None
) -> None:
    """Check that the optimizer trains the model, and all parameters of the objective; the scheduler must change it.

    Warns if the optimizer lacks parameters of the model and holds others instead, as after replacing a layer.

    Raises:
        ValueError: it holds no parameter of the model that needs a gradient, or lacks one of the objective; the
            scheduler belongs to another optimizer; or one of them needs more than a step (LBFGS, ReduceLROnPlateau).
    """
    _require_simple(optimizer, scheduler)
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
            stacklevel=5,
        )
