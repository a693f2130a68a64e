"""The training loop. One function runs a pass over the batches, for both training and evaluation."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from kd.checks import at_least, require_in_range
from kd.data.loaders import seed_loader
from kd.losses.labels import to_int64
from kd.methods.results import check_result
from kd.models.inference import device_of, evaluating, move_inputs, require_pair
from kd.seeding import epoch_seed, seeded
from kd.storage.run_folder import explain_saved_state
from kd.storage.stopping import is_stop_requested, stop_if_requested
from kd.training.batch_metrics import METRICS, labelled_rows, measure_batch
from kd.training.history import History, Means, Position
from kd.training.kept_epoch import KeptEpoch
from kd.training.step import Step
from kd.training.step_numbers import StepNumbers
from kd.training.untrained import UntrainedWatch
from kd.types import Metric, Objective

if TYPE_CHECKING:
    from kd.storage.snapshots import Snapshots


def fit(
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    *,
    epochs: int,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    step: Step | None = None,
    keep: Literal["last", "best"] = "last",
    patience: int = 0,
    metrics: Mapping[str, Metric] = METRICS,
    on_batch: Callable[[], None] | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
    snapshots: Snapshots | None = None,
) -> History:
    """Train the model in place and return its history. The model ends with the weights of the last epoch.

    Give an optimizer, with a scheduler if wanted, for plain steps, or a ``Step`` that also clips, accumulates or
    averages. With an average of the weights, the averaged weights are evaluated after each epoch, and are the result.
    Warns if parameters that the objective uses get a gradient but are in no optimizer, if the first batch gives the
    model no gradient, or if the first epoch changes no weight because the learning rate is 0.

    Batch order and dropout depend only on (seed, epoch); the caller's random state is restored.

    An objective that is an ``nn.Module`` switches between training and eval mode with the model and is saved in the
    same snapshots; its parameters are trained if the optimizer contains them. If the objective has a method
    ``set_epoch(epoch, epochs)``, it is called before each epoch (the first is 0). A method ``first_phase(epochs)``
    returns the number of first epochs that ``keep`` and ``patience`` ignore, such as those without labels.

    Args:
        val_loader: data to evaluate on after each epoch; None skips validation, and the history has no ``val_`` curves.
        epochs: passes over ``train_loader``, at least 1.
        seed: at least 0.
        scheduler: stepped after each training step, not after each epoch.
        step: takes the training steps, in place of optimizer and scheduler.
        keep: ``best`` ends with the weights of the epoch with the highest ``val_acc``, of equal ones that with the
            lowest ``val_ce``, or ``val_loss`` if that is not measured. The validation set then selects, so its results
            are too good.
        patience: end after this many epochs in a row without a better one, at least 1; 0 trains all. Needs ``best``.
        metrics: metrics to record besides the loss and its terms, by name.
        on_batch: called after each batch.
        on_epoch: called after each epoch with (completed epochs, history so far).
        snapshots: training resumes from the newest one, bit-identical to an uninterrupted run, and new ones are written
            at intervals.

    Raises:
        ValueError: the optimizer holds no parameter of the model, or lacks one of the objective; the scheduler
            belongs to another optimizer; or arguments clash.
        FloatingPointError: the loss or a gradient is not finite. Raised before the optimizer step, so the weights are
            intact. With a fused Adam on CUDA the step has no effect, nor have later ones, and the error is raised up
            to 50 steps later; batch statistics and the scheduler have then moved on. In float16 a step whose gradient
            is not finite is skipped, and the error is raised after 30 skipped steps in a row.
    """
    require_in_range("epochs", epochs, at_least(1))
    step = _choose_step(model, step, optimizer, scheduler)
    step.require_trained(model, objective)
    kept = KeptEpoch.make(keep, patience, validated=val_loader is not None, ignored=_first_phase(objective, epochs))
    training = _Training(model, objective, step, kept, metrics, epochs, seed, on_batch, snapshots)
    while training.position.epoch < epochs and not (kept and kept.is_over(training.position.epoch)):
        training.run_epoch(train_loader, val_loader)
        if on_epoch:
            on_epoch(training.position.epoch, training.position.history)
    training.finish()
    return training.position.history


def _choose_step(model: nn.Module, step: Step | None, optimizer: Any, scheduler: Any) -> Step:
    """Return the step, or a plain one of optimizer and scheduler."""
    if (step is None) == (optimizer is None) or (step is not None and scheduler is not None):
        raise ValueError(
            "fit needs either an optimizer, with a scheduler if wanted, or a step, which holds both. Pass "
            "optimizer=torch.optim.Adam(model.parameters()), or step=Step(model, optimizer, scheduler)."
        )
    return step if step is not None else Step(model, optimizer, scheduler)


@dataclass
class _Training:
    """State of one call of ``fit``: its arguments and its position."""

    model: nn.Module
    objective: Objective
    step: Step
    kept: KeptEpoch | None
    metrics: Mapping[str, Metric]
    epochs: int
    seed: int
    on_batch: Callable[[], None] | None
    snapshots: Snapshots | None

    def __post_init__(self) -> None:
        """Start, or resume from the newest snapshot."""
        self.device, self.position = device_of(self.model), Position()
        self.parts = {name: getattr(self, name) for name in ("model", "step", "objective", "kept")}
        if self.snapshots:
            weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
            self.snapshots.reserve((self.step.copies + (self.kept is not None)) * weights)
            with explain_saved_state(self.snapshots.folder.name):
                self.position.restore(self.snapshots.state, self.parts)
        self.watch = UntrainedWatch(self.model, self.objective, self.step.optimizer)
        self.started = time.perf_counter() - self.position.history.seconds

    def run_epoch(self, train_loader: DataLoader[Any], val_loader: DataLoader[Any] | None) -> None:
        """Train to the end of the epoch, evaluate on ``val_loader``, and add the results to the history."""
        model, objective, epoch = self.model, self.objective, self.position.epoch
        where = f"epoch {epoch + 1} of {self.epochs}"
        with _explain_dead_workers(where, train_loader, val_loader), seeded(epoch_seed(self.seed, epoch), self.device):
            for loader in (train_loader, val_loader):
                seed_loader(loader, seed=self.seed, epoch=epoch)
            _start_epoch(model, objective, epoch, self.epochs)
            if not epoch:
                self.watch.start_epoch()
            batches, after_step = self.position.remaining(train_loader, self.device), self._after_step
            train = _run_batches(
                model,
                objective,
                batches,
                self.metrics,
                where,
                self.position.means,
                loader=train_loader,
                step=self.step,
                after_step=after_step,
            )
            val: dict[str, float] = {}
            if val_loader is not None:
                # Stop signals wait for the next training step: a stateful objective may change during validation, so
                # training could not resume exactly from a snapshot taken in the middle.
                validation = f"the validation after {where}"
                with self.step.averaged(), evaluating(model, *_objective_modules(objective)):
                    val = _run_batches(
                        model, objective, val_loader, self.metrics, validation, Means(), after_step=lambda _: None
                    )
                    if self.kept:
                        self.kept.consider(epoch, val, model)
        self.watch.end_epoch()
        if self.step.may_skip:
            train["skipped"] = float(self.step.take_skipped())
        self.position.next_epoch(dict([*_add_prefix("train", train), *_add_prefix("val", val)]))
        self.position.history.seconds = time.perf_counter() - self.started

    def finish(self) -> None:
        """Give the model the weights that count, and add notes on them to the history."""
        history = self.position.history
        self.step.use_average()
        if self.kept:
            self.kept.restore(self.model)
            history.kept = self.kept.epoch
            history.notes.append(self.kept.describe(self.position.epoch, self.epochs))
        if skipped := sum(history.get("train_skipped", ())):
            history.notes.append(f"{skipped:,.0f} training steps were skipped: their gradient overflowed float16.")

    def _after_step(self, read_numbers: Callable[[], None]) -> None:
        self.watch.after_step()
        if self.on_batch:
            self.on_batch()
        should_stop = is_stop_requested()  # read once: a signal may arrive while the snapshot is written
        should_save = self.snapshots is not None and (should_stop or self.snapshots.due())
        if should_stop or should_save:
            read_numbers()  # before the position is saved, and so that no state after a non-finite step is
        if self.snapshots and should_save:
            self.position.history.seconds = time.perf_counter() - self.started
            self.snapshots.write(self.position.state(self.parts, self.device))
        if should_stop:
            stop_if_requested()


def evaluate(
    model: nn.Module, objective: Objective, loader: DataLoader[Any], *, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Return loss, terms and metrics averaged over the loader's samples, in eval mode; the mode is restored."""
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
    loader: Iterable[Any] | None = None,
    step: Step | None = None,
    after_step: Callable[[Callable[[], None]], None] = lambda _: stop_if_requested(),
) -> dict[str, float]:
    """Run one pass over the batches, training if a step is given; adds loss, terms and metrics to ``means``.

    Args:
        loader: the loader of the batches, if they are an iterator over it.
        after_step: called after each step with a function that reads all numbers, which completes ``means`` and checks
            that they are finite.
    """
    device = device_of(model)
    optimizer, may_skip = (None, False) if step is None else (step.optimizer, step.may_skip)
    numbers = StepNumbers(where, means, optimizer, device, may_skip=may_skip)
    compute = objective if step is None else functools.partial(step.forward, objective)
    with torch.set_grad_enabled(step is not None):
        for raw in map(require_pair, batches):
            labels = to_int64(raw[1])
            inputs = move_inputs(raw[0], batches if loader is None else loader, device)
            batch = (inputs, *(tensor.to(device, non_blocking=True) for tensor in (labels, *raw[2:])))
            output, terms = check_result(compute(model, batch), name="the objective", metrics=metrics)
            loss = functools.reduce(operator.add, terms.values())
            measured, labelled_count = measure_batch(metrics, output.detach(), batch, labelled_rows(labels))
            samples, fewer = len(batch[1]), dict.fromkeys(metrics, labelled_count)
            norms = () if step is None else step.backward(loss, samples=samples)
            numbers.add(loss, terms, measured, norms, samples=samples, fewer=fewer)
            if step is not None:
                step.update(numbers.non_finite)
            after_step(numbers.read)
        if step is not None:
            step.end_epoch(numbers.non_finite)
    numbers.read()
    return means.values()


@contextmanager
def _explain_dead_workers(where: str, *loaders: DataLoader[Any] | None) -> Iterator[None]:
    """Raise a clear error if a worker process of a loader dies. torch raises its error at whatever line is running.

    Exceptions raised inside a worker ("Caught … in DataLoader worker") pass unchanged.
    """
    try:
        yield
    except (ConnectionError, EOFError, RuntimeError) as error:
        worker_died = "DataLoader worker (pid" in str(error) or not isinstance(error, RuntimeError)
        workers = sum(loader.num_workers for loader in loaders if loader is not None)
        if not workers or not worker_died or str(error).startswith("Caught"):
            raise
        stop_if_requested()  # a signal to all processes of this program ends workers too
        reason = str(error).split("\n", 1)[0]
        raise OSError(
            f"a DataLoader worker process died in {where} ({reason}). Snapshots are intact: run again to resume, with "
            "fewer workers if memory is short."
        ) from error


def _add_prefix(split: str, means: dict[str, float]) -> Iterator[tuple[str, float]]:
    return ((f"{split}_{name}", value) for name, value in means.items())


def _start_epoch(model: nn.Module, objective: Objective, epoch: int, epochs: int) -> None:
    """Switch to training mode and call the objective's ``set_epoch`` if it has one."""
    for module in (model, *_objective_modules(objective)):
        module.train()
    if set_epoch := getattr(objective, "set_epoch", None):
        set_epoch(epoch, epochs)


def _first_phase(objective: Objective, epochs: int) -> int:
    """Return the number of epochs of the objective's first phase, with at least one epoch left."""
    first_phase = getattr(objective, "first_phase", None)
    return min(first_phase(epochs), epochs - 1) if first_phase else 0


def _objective_modules(objective: Objective) -> tuple[nn.Module, ...]:
    """Return the objective if it is a module, which may have parameters or state; else an empty tuple."""
    return (objective,) if isinstance(objective, nn.Module) else ()
