"""One training step as an object: from a batch to new weights. The loop around it knows none of its parts.

``kd.fit`` calls ``require_trained`` first. For each batch it calls ``forward``, ``backward`` and ``update``, after an
epoch's last batch ``end_epoch`` and, if ``may_skip``, ``take_skipped``, around validation ``averaged``, and at the end
``use_average``. ``optimizer`` and ``may_skip`` determine how numbers that are not finite are found. Snapshots need
``copies``, ``state_dict`` and ``load_state_dict``; ``kd.training.run_steps`` needs ``inputs`` for the training's key.
An engine that distributes training is another class with these methods and attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kd.checks import at_least, require, require_in_range
from kd.models.inference import device_of
from kd.training.optimizers import require_trained
from kd.training.step_numbers import step_if_finite
from kd.types import Batch, Objective

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST_SKIPPED = 30  # steps in a row: the scale of the loss has then fallen by 2³⁰, so the cause is not the scale


class Step:
    """Forward pass under autocast, backward pass, accumulation, clipping, optimizer, scheduler and weight average.

    With the defaults it is a plain step: ``loss.backward()``, ``optimizer.step()``, ``scheduler.step()``.

    Args:
        model: on its device; its weights are trained in place.
        optimizer: holds parameters of the model, and all of the objective.
        scheduler: stepped after each optimizer step, not after each epoch.
        clip: largest Euclidean norm of all gradients together (``clip_grad_norm_``), at least 0; 0 does not clip.
        accumulate: batches per optimizer step, at least 1. Each sample has the same weight in the step's gradient, so
            k batches of b samples equal one batch of k·b if the loss is a mean over samples, not over some of them or a
            weighted one, such as with class weights. An epoch's last step may have fewer batches.
        ema: decay of an exponential moving average of weights and buffers, updated after each optimizer step, in
            [0, 1); 0 keeps none. Buffers that are not floating-point are copied.
        precision: of matrix products and convolutions in training. Weights, gradients and evaluation keep theirs. With
            float16 the loss is scaled (``torch.amp.GradScaler``), and a step whose gradient is not finite is skipped.

    Raises:
        ValueError: an argument is outside its range, or the device does not support the precision.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None = None,
        *,
        clip: float = 0.0,
        accumulate: int = 1,
        ema: float = 0.0,
        precision: str = "float32",
    ) -> None:
        require(clip >= 0, "clip", clip, "at least 0", "the largest norm of the gradient; 0 does not clip")
        require_in_range("accumulate", accumulate, at_least(1))
        require(0 <= ema < 1, "ema", ema, "in [0, 1)", "0.999 is usual; 0 keeps no average")
        require(precision in PRECISIONS, "precision", precision, f"one of {', '.join(PRECISIONS)}")
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.clip, self.accumulate, self.ema, self.precision = clip, accumulate, ema, precision
        self._device = device_of(model)
        if precision != "float32" and not torch.amp.is_autocast_available(self._device.type):
            raise ValueError(f"precision {precision} is not available on {self._device}. Use float32.")
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._scaler = torch.amp.GradScaler(self._device.type) if precision == "float16" else None
        if self._scaler is not None:  # makes its tensors, which a resumed training may need before its first backward
            self._scaler.scale(torch.zeros((), device=self._device))
        self._average = _make_average(model, ema) if ema else None
        self._batches, self._first, self._samples = 0, 0, 0  # of the current optimizer step so far
        self._skipped, self._skipped_in_a_row = 0, 0

    @property
    def may_skip(self) -> bool:
        """Whether a gradient that is not finite is skipped instead of an error."""
        return self._scaler is not None

    @property
    def copies(self) -> int:
        """Number of tensors of the weights' size in a snapshot, with Adam's two moments."""
        return 3 + (self._average is not None) + (self.accumulate > 1)

    def inputs(self) -> dict[str, Any]:
        """Return all that determines the result besides the model, for a step's key."""
        settings = {"clip": self.clip, "accumulate": self.accumulate, "ema": self.ema, "precision": self.precision}
        return {"optimizer": self.optimizer, "scheduler": self.scheduler, "step": settings}

    def require_trained(self, model: nn.Module, objective: Objective) -> None:
        """Raise ``ValueError`` unless this object trains the model and all parameters of the objective."""
        if model is not self.model:
            raise ValueError("the step must belong to the model that is trained. It was made for another one.")
        require_trained(self.optimizer, model, objective, self.scheduler)

    def forward(self, objective: Objective, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective's output and terms, computed in ``precision``."""
        if self.precision == "float32":
            return objective(model, batch)
        with torch.autocast(self._device.type, PRECISIONS[self.precision]):
            return objective(model, batch)

    def backward(self, loss: Tensor, *, samples: int) -> Sequence[Tensor]:
        """Add the gradient of a batch, and return the norm of each parameter's gradient so far.

        Args:
            samples: size of the batch.
        """
        if not self._batches:
            self._first = samples
            for parameter in self._parameters:  # optimizer.zero_grad() takes 45 µs, 5 % of a small student's step
                parameter.grad = None
        if samples != self._first:
            loss = loss * (samples / self._first)
        scaled: Tensor = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        self._batches, self._samples = self._batches + 1, self._samples + samples
        norms = gradient_norms(self._parameters)
        return norms if self._scaler is None else [norm / self._scaler.get_scale() for norm in norms]

    def update(self, non_finite: Tensor | None) -> None:
        """Change the weights if ``accumulate`` batches have been added since the last change.

        Args:
            non_finite: flag of ``kd.training.step_numbers.StepNumbers``; if it is 1, the weights do not change.

        Raises:
            FloatingPointError: ``MOST_SKIPPED`` steps in a row were skipped.
        """
        if self._batches == self.accumulate:
            self._change_weights(non_finite)

    def end_epoch(self, non_finite: Tensor | None) -> None:
        """Change the weights with the batches that have been added since the last change, if any."""
        if self._batches:
            self._change_weights(non_finite)

    def take_skipped(self) -> int:
        """Return the number of steps skipped since the last call, because their gradient was not finite in float16."""
        skipped, self._skipped = self._skipped, 0
        return skipped

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model its averaged weights inside the block; without an average, do nothing."""
        if self._average is None:
            yield
            return
        tensors = [*self.model.parameters(), *self.model.buffers()]
        current = [tensor.detach().clone() for tensor in tensors]
        self.use_average()
        try:
            yield
        finally:
            _copy(current, tensors)

    def use_average(self) -> None:
        """Give the model its averaged weights, if there are any."""
        if self._average is not None:
            average: nn.Module = self._average.module
            _copy([*average.parameters(), *average.buffers()], [*self.model.parameters(), *self.model.buffers()])

    def state_dict(self) -> dict[str, Any]:
        """Return all state besides the model's, between any two batches."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counts = [self._batches, self._first, self._samples, self._skipped, self._skipped_in_a_row]
        gradients = [parameter.grad for parameter in self._parameters] if self._batches else []
        return {**parts, "counts": counts, "gradients": gradients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by ``state_dict``.

        Raises:
            ValueError, KeyError, TypeError, RuntimeError: the state belongs to another kind of step.
        """
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._batches, self._first, self._samples, self._skipped, self._skipped_in_a_row = map(int, state["counts"])
        gradients = state["gradients"]
        if self._batches:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = None if gradient is None else torch.empty_like(parameter).copy_(gradient)

    def _parts(self) -> dict[str, Any]:
        parts = {"scheduler": self.scheduler, "scaler": self._scaler, "average": self._average}
        return {"optimizer": self.optimizer} | {name: part for name, part in parts.items() if part is not None}

    def _change_weights(self, non_finite: Tensor | None) -> None:
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if self._samples != self._first:  # each gradient is relative to the first batch
            for gradient in self._gradients():
                gradient.mul_(self._first / self._samples)
        if self.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.clip)
        self._batches, self._samples = 0, 0
        if self._scaler is None:
            step_if_finite(self.optimizer, non_finite)
        elif not self._step_scaled(self._scaler):
            return
        if self.scheduler is not None:
            self.scheduler.step()
        if self._average is not None:
            _update_average(self._average, self.model)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _step_scaled(self, scaler: torch.amp.GradScaler) -> bool:
        """Step unless the gradient is not finite; return whether the weights changed."""
        before = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        if scaler.get_scale() >= before:
            self._skipped_in_a_row = 0
            return True
        self._skipped, self._skipped_in_a_row = self._skipped + 1, self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise FloatingPointError(
                f"the gradient in float16 was not finite in {MOST_SKIPPED} steps in a row, which were skipped, "
                f"although the scale of the loss fell to {scaler.get_scale():g}. Use bfloat16 or float32, lower the "
                "learning rate, or look for non-finite inputs."
            )
        return False


def gradient_norms(parameters: Iterable[Tensor]) -> Sequence[Tensor]:
    """Return the Euclidean norm of each gradient that is not None."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Same kernel as in torch.nn.utils.get_total_norm; the total norm is computed later, from Python floats.
    return torch._foreach_norm(gradients) if gradients else ()


def _make_average(model: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _update_average(average: AveragedModel, model: nn.Module) -> None:
    average.update_parameters(model)
    for old, new in zip(average.module.buffers(), model.buffers(), strict=True):
        if not old.is_floating_point():  # torch rounds the average of integers down: a constant 5 would become 4
            old.copy_(new)


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
