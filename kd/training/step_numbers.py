"""Numbers of training steps, read from the device every few steps, and checked before a step changes a weight.

Reading a number makes the CPU wait until a GPU has finished all earlier work, and the GPU then waits for the CPU. On a
GPU the numbers therefore stay on the device for many steps. There a non-finite step is skipped as by torch's
``GradScaler``: its kernel sets a flag, and the fused optimizer changes nothing if the flag is set.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd.training.history import Means
from kd.training.lean_adam import LeanAdam

READ_EVERY = 50  # steps; waiting once in so many steps costs next to nothing, and few steps are lost after a bad one
# Optimizers whose fused kernel can skip a step. Not SGD: if its first step is skipped, its momentum is uninitialised.
# Not their subclasses, whose step() may do more.
_SKIPPING = (torch.optim.Adam, torch.optim.AdamW, LeanAdam)
_REMEDY = (
    "Look for non-finite inputs or logits, or labels of -1 that the loss cannot ignore, or lower the learning rate."
)


def read_interval(device: torch.device, optimizer: torch.optim.Optimizer | None) -> int:
    """Return the number of steps between two reads.

    It is 1, a read before every optimizer step, on a CPU, where waiting costs nothing, and with optimizers that cannot
    skip a step on the device.
    """
    can_skip = optimizer is None or (
        type(optimizer) in _SKIPPING and all(group["fused"] for group in optimizer.param_groups)
    )
    return READ_EVERY if device.type == "cuda" and can_skip else 1


class _Step(NamedTuple):
    """Numbers of one step that have not been read."""

    numbers: Tensor  # [G + V] on the device: gradient norms, then values
    names: tuple[str, ...]  # of the V values: the loss, its terms, metrics
    terms: tuple[str, ...]
    samples: int
    fewer: Mapping[str, int]  # see Means.add
    rate: float  # learning rate; NaN in an evaluation


class StepNumbers:
    """Numbers of one pass over the batches, which are added to ``means`` when they are read.

    Call ``read`` at the end of the pass and before ``means`` is used or saved.

    Args:
        where: name of the pass, for errors.
        means: running means; the result does not depend on when the numbers are read.
        optimizer: None in an evaluation.
        device: device of the numbers.
        may_skip: a gradient that is not finite is no error, because the step is skipped; numbers that are not finite
            are left out of the means. Each step is then read when it is added.

    Attributes:
        non_finite: a float32 scalar on the device, 1 if loss or gradient were not finite in any step so far, else 0.
            None if each step is read, and checked, when it is added.
    """

    def __init__(
        self,
        where: str,
        means: Means,
        optimizer: torch.optim.Optimizer | None,
        device: torch.device,
        *,
        may_skip: bool = False,
    ) -> None:
        self._where, self._means, self._optimizer, self._may_skip = where, means, optimizer, may_skip
        self._interval = 1 if may_skip else read_interval(device, optimizer)
        self._pending: list[_Step] = []
        self._one = torch.ones((), dtype=torch.float32, device=device)
        self.non_finite = torch.zeros((), dtype=torch.float32, device=device) if self._interval > 1 else None

    def add(
        self,
        loss: Tensor,
        terms: Mapping[str, Tensor],
        metrics: Mapping[str, Tensor],
        gradient_norms: Sequence[Tensor],
        *,
        samples: int,
        fewer: Mapping[str, int],
    ) -> None:
        """Add a step before the optimizer's, and read all numbers if the last read was ``read_interval`` steps ago.

        Args:
            samples, fewer: see ``kd.training.history.Means.add``.

        Raises:
            FloatingPointError: see ``read``.
        """
        values = {"loss": loss, **terms, **metrics}
        numbers = torch.stack([number.detach() for number in (*gradient_norms, *values.values())])
        if self.non_finite is not None:
            checked = numbers[: len(gradient_norms) + 1]  # the loss is the first value
            torch._amp_foreach_non_finite_check_and_unscale_([checked], self.non_finite, self._one)
        rate = self._optimizer.param_groups[0]["lr"] if self._optimizer else math.nan
        self._pending.append(_Step(numbers, tuple(values), tuple(terms), samples, fewer, rate))
        if len(self._pending) >= self._interval:
            self.read()

    def read(self) -> None:
        """Wait for the device, and add the numbers of all steps since the last read to the means.

        Raises:
            FloatingPointError: a loss or gradient is not finite. The means then contain the steps before this one.
        """
        steps, self._pending = self._pending, []
        if not steps:
            return
        floats = iter(torch.cat([step.numbers for step in steps]).tolist())
        for step in steps:
            self._check_and_add(step, list(itertools.islice(floats, len(step.numbers))))

    def _check_and_add(self, step: _Step, floats: Sequence[float]) -> None:
        first_value = len(floats) - len(step.names)
        gradient, numbers = math.hypot(*floats[:first_value]), dict(zip(step.names, floats[first_value:], strict=True))
        fewer = step.fewer
        if not math.isfinite(numbers["loss"] + gradient):
            if not self._may_skip or math.isfinite(gradient):
                raise FloatingPointError(self._format_not_finite(step, numbers, gradient))
            fewer = {**fewer, **{name: 0 for name, number in numbers.items() if not math.isfinite(number)}}
        self._means.add(numbers, step.samples, fewer)

    def _format_not_finite(self, step: _Step, numbers: Mapping[str, float], gradient: float) -> str:
        where = f"{self._where}, batch {self._means.batches + 1}"
        values = ", ".join(f"{name} = {numbers[name]}" for name in step.terms)
        if self._optimizer is None:
            return f"the loss is not finite in {where}: {values}. {_REMEDY}"
        return (
            f"the loss or its gradient is not finite in {where} at learning rate {step.rate:g}: {values}, gradient = "
            f"{gradient}. Training stopped before this step changed any weight. {_REMEDY}"
        )


def step_if_finite(optimizer: torch.optim.Optimizer, non_finite: Tensor | None) -> None:
    """Step the optimizer, without effect on weights and state if the flag ``StepNumbers.non_finite`` is 1."""
    if non_finite is None:
        optimizer.step()
        return
    flagged: Any = optimizer
    flagged.found_inf = non_finite
    try:
        optimizer.step()
    finally:
        del flagged.found_inf  # a flag left behind would silently disable the caller's own steps
