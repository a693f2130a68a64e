"""The steps of a run as functions of plain arguments: train a model, train the pair of students, predict.

Inside an open run (``kd.storage.run_folder``) each step is reused, resumed or run, depending on its saved state. If no
run is open, it just runs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from kd.arms import CONTROL, DISTILLED
from kd.console import progress, say
from kd.data.loaders import batches_differ, first_batch
from kd.methods.objectives import supervised
from kd.models.inference import Predictions, device_of, predict
from kd.storage.run_folder import explain_saved_state, run_step
from kd.storage.snapshots import Snapshots
from kd.training.contention import advise_on_contention
from kd.training.history import History, load_state, require_numbers
from kd.training.hooks import print_epoch
from kd.training.loop import fit
from kd.training.recipe import Recipe
from kd.training.saved_predictions import require_same_predictions
from kd.training.step import Step
from kd.training.tracking import track_epochs, track_training
from kd.training.trial import require_restorable
from kd.types import Objective

# Trains the model in place: (title, model, objective, training loader, validation loader) → history.
Train = Callable[[str, nn.Module, Objective, DataLoader[Any], DataLoader[Any]], History]


class Pair(NamedTuple):
    """A trained control and its distilled twin."""

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
    epochs: int,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    step: Step | None = None,
    keep: Literal["last", "best"] = "last",
    patience: int = 0,
) -> History:
    """Train the model in place with a progress display, like ``kd.fit``, whose arguments it takes.

    If the result of an earlier run is reused, only the model's weights are loaded, not the state of objective or
    optimizer. Notes of the training in the history begin with the title.

    Raises:
        ValueError: see ``kd.fit``; or after the training, the weights in an untrained copy of the model give other
            outputs, because the model has collected values outside its ``state_dict``.
    """
    settings: dict[str, Any] = {"epochs": epochs, "seed": seed, "keep": keep, "patience": patience}
    stepping: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler}
    inputs = {
        "model": model,
        "objective": objective,
        "device": device_of(model),
        **(stepping if step is None else step.inputs()),
        **settings,
        "train": train_loader,
        "validation": val_loader,
    }

    def produce(snapshots: Snapshots | None) -> dict[str, Any]:
        untrained = copy.deepcopy(model)
        history = _fit_and_display(
            title,
            model,
            objective,
            train_loader,
            val_loader,
            **stepping,
            step=step,
            **settings,
            snapshots=snapshots,
        )
        if batch := first_batch(train_loader if val_loader is None else val_loader):
            require_restorable(title, model, untrained, batch)  # before the weights are saved, reused or published
        return {"model": model.state_dict(), "history": history.state()}

    result = run_step(title, inputs, produce)
    with explain_saved_state(title):
        load_state(model, result["model"], title)
        require_numbers(model)
        history = History.from_state(result["history"])
    track_training(title, history)  # a reused step has called no hook
    return history


def _fit_and_display(
    title: str,
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    *,
    epochs: int,
    snapshots: Snapshots | None,
    **settings: Any,
) -> History:
    """Call ``kd.fit`` with a progress bar and a line per epoch; print the notes of the history under the title."""
    done = _count_completed_steps(snapshots, train_loader)
    with progress(title, steps=epochs * len(train_loader), done=done) as advance:
        history = fit(
            model,
            objective,
            train_loader,
            val_loader,
            epochs=epochs,
            snapshots=snapshots,
            on_batch=advance,
            on_epoch=track_epochs(title, advise_on_contention(print_epoch(title, epochs))),
            **settings,
        )
    history.notes = [f"{title}: {note}" for note in history.notes]
    for note in history.notes:
        say(note)
    return history


def train_with_recipe(
    title: str,
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    *,
    recipe: Recipe,
    seed: int,
) -> History:
    """Call ``train`` with the step, the number of epochs and the choice of the epoch of a recipe."""
    step = recipe.make_step(model, objective, batches=len(train_loader))
    settings: dict[str, Any] = {"epochs": recipe.epochs, "keep": recipe.keep, "patience": recipe.patience}
    return train(title, model, objective, train_loader, val_loader, step=step, seed=seed, **settings)


def train_with_adam(
    title: str,
    model: nn.Module,
    objective: Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    *,
    learning_rate: float,
    epochs: int,
    seed: int,
) -> History:
    """Call ``train`` with Adam, whose learning rate decays linearly to 0 (see ``kd.training.optimizers.adam``)."""
    recipe = Recipe(learning_rate=learning_rate, epochs=epochs)
    return train_with_recipe(title, model, objective, train_loader, val_loader, recipe=recipe, seed=seed)


def _count_completed_steps(snapshots: Snapshots | None, loader: DataLoader[Any]) -> int:
    """Return the number of completed training steps of an interrupted training run."""
    state = snapshots.state if snapshots else None
    if not state:
        return 0
    with explain_saved_state("training"):
        return int(state["epoch"] * len(loader) + state["means"]["batches"])


def train_pair(
    student: nn.Module,
    objective: Objective,
    loaders: tuple[DataLoader[Any], DataLoader[Any]],
    distill_loaders: tuple[DataLoader[Any], DataLoader[Any]],
    *,
    train: Train,
    seed: int,
    on_purpose: str | None = None,
    control_objective: Objective = supervised,
) -> Pair:
    """Train the student as control on the labels, and a copy with the same initial weights on the objective.

    If the two training loaders yield different batches, a warning gives the reason, and it is added to the ``notes`` of
    both histories. With ``on_purpose`` only the note is added, without a warning.

    Args:
        loaders: training and validation loader of the control.
        distill_loaders: training and validation loader of the copy, with the extra data that the objective needs.
        train: trains one student.
        seed: seed used by ``train``, to compare the order of batches.
        on_purpose: reason why the batches are meant to differ; None if they should be the same.
        control_objective: objective of the control, which uses the labels alone.
    """
    control, distilled = student, copy.deepcopy(student)
    difference = batches_differ(loaders[0], distill_loaders[0], seed=seed)
    control_history = train(CONTROL, control, control_objective, *loaders)
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
    """Return each model's predictions for all samples. The loader must not shuffle (``kd.data.loaders.in_order``)."""

    computed = False

    def produce(_: object) -> dict[str, Any]:
        nonlocal computed
        computed = True
        with progress(title, steps=len(models) * len(loader)) as advance:
            return {name: predict(model, loader, on_batch=advance)._asdict() for name, model in models.items()}

    devices = sorted({str(device_of(model)) for model in models.values()})
    result = run_step(title, {"models": models, "test": loader, "devices": devices}, produce)
    with explain_saved_state(title):
        predictions = {name: Predictions.from_state(result[name]) for name in models}
        if not computed:
            require_same_predictions(models, loader, predictions)
        return predictions
