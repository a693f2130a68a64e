"""The steps of a run, with plain arguments: training, the pair of students, predictions.

Inside an open run (``kd.storage.run_folder``) each is kept, resumed or done anew as its inputs demand; elsewhere it is
simply done.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from kd.arms import CONTROL, DISTILLED
from kd.console import progress
from kd.data.loaders import batches_differ
from kd.methods.objectives import supervised
from kd.models.inference import Predictions, device_of, predict
from kd.storage.run_folder import run_step
from kd.storage.snapshots import Snapshots
from kd.training.contention import advise_on_contention
from kd.training.history import History, load_state
from kd.training.hooks import print_epoch
from kd.training.loop import fit
from kd.types import Objective

# (title, model, objective, training loader, validation loader) → the history of training the model in place.
Train = Callable[[str, nn.Module, Objective, DataLoader[Any], DataLoader[Any]], History]


class Pair(NamedTuple):
    """The control and its distilled twin, trained."""

    control: nn.Module
    distilled: nn.Module
    control_history: History
    distilled_history: History


def train(
    title: str,
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    seed: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> History:
    """Train the model in place towards the objective, with progress on the screen; the last epoch's weights count.

    From a training that was kept the model's weights are taken, and no state of the objective or of the optimizer.

    Args:
        val_loader: None measures nothing but the training.
        scheduler: stepped after each training step.
    """
    settings = {
        "epochs": epochs,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "seed": seed,
        "device": device_of(model),
    }
    loaders = {"train": train_loader, "validation": val_loader}

    def produce(snapshots: Snapshots | None) -> dict[str, Any]:
        with progress(
            title, steps=epochs * len(train_loader), done=_count_completed_steps(snapshots, train_loader)
        ) as advance:
            history = fit(
                model,
                objective,
                train_loader,
                val_loader,
                optimizer=optimizer,
                scheduler=scheduler,
                epochs=epochs,
                seed=seed,
                on_batch=advance,
                on_epoch=advise_on_contention(print_epoch(title, epochs)),
                snapshots=snapshots,
            )
        return {"model": model.state_dict(), "history": history.state()}

    outcome = run_step(title, {"model": model, "objective": objective, **settings, **loaders}, produce)
    load_state(model, outcome["model"], title)
    return History.from_state(outcome["history"])


def _count_completed_steps(snapshots: Snapshots | None, loader: DataLoader[Any]) -> int:
    """Steps that an interrupted training has behind it."""
    state = snapshots.state if snapshots else None
    return int(state["epoch"] * len(loader) + state["means"]["batches"]) if state else 0


def train_pair(
    student: nn.Module,
    objective: Objective,
    loaders: tuple[DataLoader[Any], DataLoader[Any]],
    distill_loaders: tuple[DataLoader[Any], DataLoader[Any]],
    *,
    train: Train,
    seed: int,
    on_purpose: str | None = None,
) -> Pair:
    """Train the student on the labels, as the control, and a copy of it towards the objective: same weights at start.

    Should the two training loaders not show the same batches, a warning says why, and the histories' ``notes`` keep it.
    Where that is wanted, it is a note alone.

    Args:
        loaders, distill_loaders: training and validation; those of the copy carry what its objective needs.
        train: how each of the two is trained.
        seed: the one that ``train`` uses, to compare the order of the batches.
        on_purpose: why the batches differ, where they are meant to.
    """
    control, distilled = student, copy.deepcopy(student)
    difference = batches_differ(loaders[0], distill_loaders[0], seed=seed)
    control_history = train(CONTROL, control, supervised, *loaders)
    distilled_history = train(DISTILLED, distilled, objective, *distill_loaders)
    if difference:
        note = f"The control and the distilled student did not see the same batches: {on_purpose or difference}."
        if on_purpose is None:
            warnings.warn(f"{note} Their difference is not due to the objective alone.", stacklevel=3)
        control_history.notes.append(note)
        distilled_history.notes.append(note)
    return Pair(control, distilled, control_history, distilled_history)


def predict_models(
    models: Mapping[str, nn.Module], loader: DataLoader[Any], *, title: str = "evaluation"
) -> dict[str, Predictions]:
    """Each model's answers to every item of the loader, which must not shuffle (``kd.data.loaders.in_order``)."""

    def produce(_: object) -> dict[str, Any]:
        with progress(title, steps=len(models) * len(loader)) as advance:
            return {name: predict(model, loader, on_batch=advance)._asdict() for name, model in models.items()}

    devices = sorted({str(device_of(model)) for model in models.values()})
    outcome = run_step(title, {"models": models, "test": loader, "devices": devices}, produce)
    return {name: Predictions(**outcome[name]) for name in models}
