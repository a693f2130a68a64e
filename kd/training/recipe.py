"""The training recipe as plain values, and the training step that it describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from kd.checks import require
from kd.training.optimizers import make_optimizer, make_schedule
from kd.training.step import Step
from kd.types import Objective


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained. The defaults are Adam with a learning rate that falls linearly to 0.

    Attributes:
        learning_rate: the largest, above 0.
        epochs: at least 1.
        optimizer, momentum, nesterov, weight_decay: see ``kd.training.optimizers.make_optimizer``.
        schedule: see ``kd.training.optimizers.make_schedule``.
        warmup: a share of the training if below 1, else epochs; 0 for none.
        clip, accumulate, ema, precision: see ``kd.training.step.Step``.
        keep, patience: see ``kd.fit``.
    """

    learning_rate: float = 4e-3
    epochs: int = 10
    optimizer: str = "adam"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    precision: str = "float32"
    keep: Literal["last", "best"] = "last"
    patience: int = 0

    def steps(self, batches: int) -> int:
        """Return the number of optimizer steps in an epoch of so many batches."""
        return -(-batches // self.accumulate)

    def make_step(self, model: nn.Module, objective: Objective | None = None, *, batches: int) -> Step:
        """Return the step that trains the model, and the objective's parameters if it has any.

        Args:
            batches: number of batches in an epoch, at least 1.

        Raises:
            ValueError: a warm-up in epochs is not shorter than the training, or the device does not support the
                precision.
        """
        optimizer = make_optimizer(
            self.optimizer,
            model,
            objective,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        per_epoch = self.steps(batches)
        steps = self.epochs * per_epoch
        warmup = round(self.warmup * (steps if self.warmup < 1 else per_epoch))
        if self.warmup < 1:
            warmup = min(
                warmup, steps - 1
            )  # a share below 1 is shorter than the training, though it may round up to it
        shorter = f"shorter than the training of {self.epochs} epochs"
        require(not warmup or warmup < steps, "warmup", self.warmup, shorter, "below 1 it is a share of the training")
        scheduler = make_schedule(optimizer, self.schedule, steps=steps, warmup=warmup)
        return Step(
            model,
            optimizer,
            scheduler,
            clip=self.clip,
            accumulate=self.accumulate,
            ema=self.ema,
            precision=self.precision,
        )
