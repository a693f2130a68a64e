"""The training loop. One private epoch function serves training and evaluation; the method is a value given to it."""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd.checks import require
from kd.data.loaders import seed_loader
from kd.models.inference import device_of, evaluating
from kd.seeding import epoch_seed, seeded
from kd.storage.stopping import is_stop_requested, stop_if_requested
from kd.training.batch_metrics import METRICS, labelled_rows, measure_batch
from kd.training.history import History, Means, Position
from kd.types import Metric, Objective

if TYPE_CHECKING:
    from kd.storage.snapshots import Snapshots


_REMEDY = "Look for non-finite inputs or logits, or lower the learning rate."


def fit(
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    seed: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    metrics: Mapping[str, Metric] = METRICS,
    on_batch: Callable[[], None] | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
    snapshots: Snapshots | None = None,
) -> History:
    """Train the model in place and return its history. The weights after the last epoch stand.

    Order of batches and dropout are a pure function of (seed, epoch); the caller's random state is left as it was.

    An objective that is an ``nn.Module`` is put into training and eval mode with the model and lies in the same
    snapshots; its parameters are trained if the optimizer has them. One with a method ``set_epoch(epoch, epochs)`` is
    told before each epoch, counted from 0.

    Args:
        val_loader: what is measured on after each epoch; None measures nothing, and the history has no ``val_`` curves.
        epochs: passes over ``train_loader``, at least 1.
        seed: at least 0.
        scheduler: stepped after each training step, not after each epoch.
        metrics: what to report besides the loss and its terms, by name.
        on_batch: called after each training step.
        on_epoch: called after each epoch with (epochs done, history so far).
        snapshots: goes on from the newest, bit for bit as if never interrupted, and adds to them as time passes.

    Raises:
        FloatingPointError: the loss or a gradient is not finite; raised before the step, so the weights are still good.
    """
    require(epochs >= 1, "epochs", epochs, "a whole number of at least 1")
    training = _Training(model, objective, optimizer, scheduler, metrics, epochs, seed, on_batch, snapshots)
    while training.at.epoch < epochs:
        training.run_epoch(train_loader, val_loader)
        if on_epoch:
            on_epoch(training.at.epoch, training.at.history)
    return training.at.history


@dataclass
class _Training:
    """One call of ``fit``: what it was given, and where it stands."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    metrics: Mapping[str, Metric]
    epochs: int
    seed: int
    on_batch: Callable[[], None] | None
    snapshots: Snapshots | None

    def __post_init__(self) -> None:
        """Start, or go on from the newest snapshot."""
        self.device, self.at = device_of(self.model), Position()
        self.parts = {name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "objective")}
        if self.snapshots:
            weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
            self.snapshots.reserve(3 * weights)  # and two moments of each
            self.at.restore(self.snapshots.state, self.parts)
        self.started = time.perf_counter() - self.at.history.seconds

    def run_epoch(self, train_loader: DataLoader[Any], val_loader: DataLoader[Any] | None) -> None:
        """Train until the end of the epoch, measure on ``val_loader``, and note both in the history."""
        model, objective, epoch = self.model, self.objective, self.at.epoch
        where = f"epoch {epoch + 1} of {self.epochs}"
        with _explain_dead_workers(where, train_loader, val_loader), seeded(epoch_seed(self.seed, epoch), self.device):
            for loader in (train_loader, val_loader):
                seed_loader(loader, seed=self.seed, epoch=epoch)
            _start_epoch(model, objective, epoch, self.epochs)
            batches, step = self.at.remaining(train_loader, self.device), self._after_step
            train = _run_batches(
                model, objective, batches, self.metrics, where, self.at.means, optimizer=self.optimizer, after_step=step
            )
            val: dict[str, float] = {}
            if val_loader is not None:
                # A signal waits for the next training step: an objective with a memory may change it in validation,
                # so a state taken in the middle of one could not be gone on from.
                after = f"the validation after {where}"
                with evaluating(model, *_objective_modules(objective)):
                    val = _run_batches(
                        model, objective, val_loader, self.metrics, after, Means(), after_step=lambda: None
                    )
        self.at.next_epoch(dict([*_add_prefix("train", train), *_add_prefix("val", val)]))
        self.at.history.seconds = time.perf_counter() - self.started

    def _after_step(self) -> None:
        if self.scheduler:
            self.scheduler.step()
        if self.on_batch:
            self.on_batch()
        asked = is_stop_requested()  # read once: a signal may come in while a snapshot is written
        if self.snapshots and (asked or self.snapshots.due()):
            self.at.history.seconds = time.perf_counter() - self.started
            self.snapshots.write(self.at.state(self.parts, self.device))
        if asked:
            stop_if_requested()


def evaluate(
    model: nn.Module, objective: Objective, loader: DataLoader[Any], *, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Loss, terms and metrics averaged over the loader's samples, in eval mode; the model's mode is restored."""
    with evaluating(model, *_objective_modules(objective)), _explain_dead_workers("evaluation", loader):
        return _run_batches(model, objective, loader, metrics, "evaluation", Means())


def _run_batches(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Any],
    metrics: Mapping[str, Metric],
    where: str,
    means: Means,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    after_step: Callable[[], None] = stop_if_requested,
) -> dict[str, float]:
    """One pass over the batches, training if an optimizer is given; adds to the means of loss, terms and metrics."""
    device = device_of(model)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]] if optimizer else []
    with torch.set_grad_enabled(optimizer is not None):
        for raw in batches:
            batch = tuple(tensor.to(device, non_blocking=True) for tensor in raw)
            output, terms = objective(model, batch)
            loss = functools.reduce(operator.add, terms.values())
            over_labelled, labelled = measure_batch(metrics, output.detach(), batch, labelled_rows(raw[1]))
            values = {"loss": loss} | terms | over_labelled
            gradients: Sequence[Tensor] = ()
            if optimizer is not None:
                for parameter in trained:  # optimizer.zero_grad() does the same in 45 µs, a small student's twentieth
                    parameter.grad = None
                loss.backward()  # type: ignore[no-untyped-call]
                gradients = gradient_norms(trained)
            # One transfer for all numbers: on a GPU the only point at which the CPU waits, and the price of
            # knowing that loss and gradient are finite before the weights are touched.
            row = torch.stack([v.detach() for v in (*values.values(), *gradients)]).tolist()
            numbers, gradient = dict(zip(values, row, strict=False)), math.hypot(*row[len(values) :])
            if not math.isfinite(numbers["loss"] + gradient):
                shown = {name: numbers[name] for name in terms} | ({"gradient": gradient} if optimizer else {})
                raise FloatingPointError(_format_not_finite(f"{where}, batch {means.batches + 1}", shown, optimizer))
            if optimizer is not None:
                optimizer.step()
            means.add(numbers, len(batch[1]), dict.fromkeys(metrics, labelled))
            after_step()
    return means.values()


@contextmanager
def _explain_dead_workers(where: str, *loaders: DataLoader[Any] | None) -> Iterator[None]:
    """A clear error where a worker process of a loader dies. torch raises at whatever line is running just then.

    An exception that a living worker passes on ("Caught … in DataLoader worker") is left as it is.
    """
    try:
        yield
    except (ConnectionError, EOFError, RuntimeError) as error:
        died = "DataLoader worker (pid" in str(error) or not isinstance(error, RuntimeError)
        workers = sum(loader.num_workers for loader in loaders if loader is not None)
        if not workers or not died or str(error).startswith("Caught"):
            raise
        reason = str(error).split("\n", 1)[0]
        raise OSError(
            f"a worker process of the loader has died in {where} ({reason}). The step in hand is lost, snapshots are "
            "not: run again to go on, with fewer workers if memory is short."
        ) from error


def gradient_norms(parameters: Iterable[Tensor]) -> Sequence[Tensor]:
    """The Euclidean norm of each gradient that is there."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # What torch.nn.utils.get_total_norm starts with; their own norm is taken once they are numbers of Python.
    return torch._foreach_norm(gradients) if gradients else ()


def _format_not_finite(where: str, numbers: Mapping[str, float], optimizer: torch.optim.Optimizer | None) -> str:
    listed = ", ".join(f"{name} = {value}" for name, value in numbers.items())
    if optimizer is None:
        return f"the loss is not finite in {where}: {listed}. {_REMEDY}"
    rate = optimizer.param_groups[0]["lr"]
    return (
        f"the loss or its gradient is not finite in {where} at learning rate {rate:g}: {listed}. Stopped before the "
        f"step; no weight was changed by it. {_REMEDY}"
    )


def _add_prefix(split: str, means: dict[str, float]) -> Iterator[tuple[str, float]]:
    return ((f"{split}_{name}", value) for name, value in means.items())


def _start_epoch(model: nn.Module, objective: Objective, epoch: int, epochs: int) -> None:
    """Training mode, and the word to an objective that wants to know where the training stands."""
    for module in (model, *_objective_modules(objective)):
        module.train()
    if tell := getattr(objective, "set_epoch", None):
        tell(epoch, epochs)


def _objective_modules(objective: Objective) -> tuple[nn.Module, ...]:
    """The objective, where it has parameters or a memory of its own."""
    return (objective,) if isinstance(objective, nn.Module) else ()
