"""The training loop. One private epoch function serves training and evaluation; the method is a value given to it."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd.checks import require
from kd.data import seed_loader
from kd.seeding import epoch_seed, seeded
from kd.types import Batch, Metric, Objective


class History(dict[str, list[float]]):
    """One list per quantity, one entry per epoch: ``train_loss``, ``val_accuracy``, …; accuracies are in [0, 1].

    Attributes:
        seconds: wall time of the whole training.
        notes: what a reader of these numbers must know, in plain sentences.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = 0.0
        self.notes: list[str] = []


class Predictions(NamedTuple):
    """Logits [N, K] float32 and labels [N] int64, both on the CPU, in the order of the loader."""

    logits: Tensor
    labels: Tensor


def accuracy(output: Tensor, batch: Batch) -> Tensor:
    """Share of the batch whose largest logit is the label's, in [0, 1]."""
    return (output.argmax(dim=1) == batch[1]).float().mean()


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the labels in nats, unweighted: comparable between any two objectives."""
    return F.cross_entropy(output.float(), batch[1])


METRICS: Mapping[str, Metric] = {"acc": accuracy, "ce": cross_entropy}


def fit(
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    seed: int,
    metrics: Mapping[str, Metric] = METRICS,
    on_batch: Callable[[], None] | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
) -> History:
    """Train the model in place and return its history. The weights after the last epoch stand.

    Order of batches and dropout are a pure function of (seed, epoch); the caller's random state is left as it was.

    Args:
        epochs: passes over ``train_loader``, at least 1.
        seed: at least 0.
        metrics: what to report besides the loss and its terms, by name.
        on_batch: called after each training step.
        on_epoch: called after each epoch with (epochs done, history so far).

    Raises:
        FloatingPointError: the loss is not finite; raised before the step, so the weights are still good.
    """
    require(epochs >= 1, "epochs", epochs, "a whole number of at least 1")
    history = History()
    started = time.perf_counter()
    for epoch in range(epochs):
        with seeded(epoch_seed(seed, epoch), device_of(model)):
            seed_loader(train_loader, seed=seed, epoch=epoch)
            model.train()
            where = f"epoch {epoch + 1} of {epochs}"
            train = _epoch(model, objective, train_loader, metrics, where, optimizer=optimizer, on_batch=on_batch)
            val = evaluate(model, objective, val_loader, metrics=metrics)
        for name, value in [*_prefixed("train", train), *_prefixed("val", val)]:
            history.setdefault(name, []).append(value)
        history.seconds = time.perf_counter() - started
        if on_epoch:
            on_epoch(epoch + 1, history)
    return history


def evaluate(
    model: nn.Module, objective: Objective, loader: DataLoader[Any], *, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Loss, terms and metrics averaged over the loader's samples, in eval mode; the model's mode is restored."""
    with evaluating(model):
        return _epoch(model, objective, loader, metrics, "evaluation")


def predict(model: nn.Module, loader: Iterable[Any], *, on_batch: Callable[[], None] | None = None) -> Predictions:
    """Logits and labels of every sample, in the loader's order, in eval mode without gradient."""
    device = device_of(model)
    logits, labels = [], []
    with evaluating(model), torch.no_grad():
        for inputs, label, *_ in loader:
            logits.append(model(inputs.to(device)).float().cpu())
            labels.append(label)
            if on_batch:
                on_batch()
    if not logits:
        raise ValueError("the loader yields no batch: there is nothing to predict on.")
    return Predictions(torch.cat(logits), torch.cat(labels))


def _epoch(
    model: nn.Module,
    objective: Objective,
    loader: DataLoader[Any],
    metrics: Mapping[str, Metric],
    where: str,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    on_batch: Callable[[], None] | None = None,
) -> dict[str, float]:
    """One pass over the loader, training if an optimizer is given; means over samples of the loss, terms, metrics."""
    device = device_of(model)
    totals: defaultdict[str, float] = defaultdict(float)
    samples = 0
    with torch.set_grad_enabled(optimizer is not None):
        for index, raw in enumerate(loader):
            batch = tuple(tensor.to(device, non_blocking=True) for tensor in raw)
            output, terms = objective(model, batch)
            loss = torch.stack(list(terms.values())).sum()
            values = {
                "loss": loss,
                **terms,
                **{name: metric(output.detach(), batch) for name, metric in metrics.items()},
            }
            # One transfer for all numbers: on a GPU the only point at which the CPU waits, and the price of
            # knowing that the loss is finite before the weights are touched.
            numbers = dict(zip(values, torch.stack([v.detach() for v in values.values()]).tolist(), strict=True))
            if not math.isfinite(numbers["loss"]):
                raise FloatingPointError(_not_finite(where, index, {name: numbers[name] for name in terms}))
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for name, number in numbers.items():
                totals[name] += number * len(batch[1])
            samples += len(batch[1])
            if on_batch:
                on_batch()
    if not samples:
        raise ValueError("the loader yields no batch (too few samples for drop_last, or an empty dataset).")
    return {name: total / samples for name, total in totals.items()}


def _not_finite(where: str, batch: int, terms: dict[str, float]) -> str:
    listed = ", ".join(f"{name} = {value}" for name, value in terms.items())
    return (
        f"the loss is not finite in {where}, batch {batch + 1}: {listed}. Stopped before the step; no weight was "
        "changed by it. Look for non-finite inputs or logits, or lower the learning rate."
    )


def _prefixed(split: str, means: dict[str, float]) -> Iterator[tuple[str, float]]:
    return ((f"{split}_{name}", value) for name, value in means.items())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
