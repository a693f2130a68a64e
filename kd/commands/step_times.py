"""Times of training steps, measured with a few of them on this machine under its current load."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from kd.commands.data import Data
from kd.commands.recipe import add_label_options, make_recipe
from kd.commands.recipe_settings import teacher_settings
from kd.commands.settings import RunSettings
from kd.commands.steps import make_objective
from kd.data.datasets import DistillDataset
from kd.data.loaders import make_loader
from kd.methods.objectives import supervised
from kd.models.inference import device_of
from kd.teachers.cache import collect_logits
from kd.training.loop import fit
from kd.types import Objective

STEPS = 8  # training steps per epoch of a timing; fewer if the dataset is smaller


class Seconds(NamedTuple):
    """Seconds per training step of each kind of training, and per sample at inference."""

    teacher: float
    control: float
    distilled: float
    teacher_inference: float
    student_inference: float


def time_steps(
    settings: RunSettings, data: Data, teacher: nn.Module, student: nn.Module, *, is_parallel: bool
) -> Seconds:
    """Time a few steps of each kind of training, with the number of threads that the command would use.

    Args:
        is_parallel: students are trained in parallel, each on one thread.
    """
    size, own = settings.batch_size, teacher_settings(settings)
    rows = range(min(STEPS * max(size, own.batch_size), data.sizes["training"]))
    subset = Subset(data.train_loader.dataset, [row * data.views for row in rows])  # the first view of each sample
    loader = make_loader(subset, batch_size=size, mix=data.mix)
    labels_alone = add_label_options(settings, data, supervised, device_of(student))
    started = time.perf_counter()
    predictions = collect_logits(teacher, subset)
    teacher_inference = (time.perf_counter() - started) / len(rows)
    teacher_loader = make_loader(subset, batch_size=own.batch_size, mix=data.mix)
    teacher_step = _time_step(own, teacher, labels_alone, teacher_loader) if settings.trainings["teacher"] else 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if is_parallel else threads)
    try:
        distill_set = subset if settings.live else DistillDataset(subset, predictions.logits, ids=settings.needs_ids)
        distill_loader = make_loader(distill_set, batch_size=size, mix=data.mix)
        control = _time_step(settings, student, labels_alone, loader)
        objective = make_objective(settings, student, teacher, distill_loader)
        objective = add_label_options(settings, data, objective, device_of(student))
        distilled = _time_step(settings, student, objective, distill_loader)
        started = time.perf_counter()
        collect_logits(student, subset)
        student_inference = (time.perf_counter() - started) / len(rows)
    finally:
        torch.set_num_threads(threads)
    return Seconds(teacher_step, control, distilled, teacher_inference, student_inference)


def _time_step(settings: RunSettings, model: nn.Module, objective: Objective, loader: DataLoader[Any]) -> float:
    """Return the seconds per training step of a copy of the model: median of three epochs after a warm-up step."""
    timed_model, times = copy.deepcopy(model), [0.0]
    recipe = dataclasses.replace(make_recipe(settings), learning_rate=1e-6, schedule="constant", warmup=0)
    step = recipe.make_step(timed_model, objective, batches=len(loader))
    train = partial(fit, timed_model, objective, step=step, seed=0)
    size = loader.batch_size or 1
    rows = range(min(size, len(loader.dataset)))  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    train(make_loader(Subset(loader.dataset, rows), batch_size=size), None, epochs=1)
    train(loader, None, epochs=3, on_epoch=lambda _, history: times.append(history.seconds))
    epochs = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    return epochs[1] / len(loader)
