"""The training recipe of a command's settings: how each of its models is trained."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import torch

from kd.commands.data import Data
from kd.commands.recipe_settings import describe_recipe, teacher_settings
from kd.commands.settings import RunSettings
from kd.console import say
from kd.methods.objectives import with_label_options
from kd.training import run_steps
from kd.training.recipe import Recipe
from kd.types import Objective


def say_recipe(settings: RunSettings, samples: int) -> None:
    """Print the training recipe if it is not the default; warn of an average that spans more than the training.

    Args:
        samples: size of the training split.
    """
    if text := describe_recipe(settings):
        say(f"training recipe: {text}")
    own = teacher_settings(settings)
    _warn_of_long_average("--ema", settings, samples)
    if settings.trainings["teacher"] and _average(own, samples) != _average(settings, samples):
        flag = "--ema" if settings.teacher_ema is None else "--teacher-ema"
        _warn_of_long_average(flag, own, samples, " of the teacher")


def _average(recipe: RunSettings, samples: int) -> tuple[float, int]:
    """Return the decay of the moving average and the number of steps."""
    return recipe.ema, recipe.epochs * -(-samples // (recipe.batch_size * recipe.accumulate))


def _warn_of_long_average(flag: str, recipe: RunSettings, samples: int, whose: str = "") -> None:
    ema, steps = _average(recipe, samples)
    remaining = ema ** (steps - 1)  # the average begins with the weights of the first step
    if ema and remaining > 0.5:
        warnings.warn(
            f"{flag} {ema:g} is too long an average for {steps:,} steps{whose}: {remaining:.0%} of it would still come "
            "from the first step. Train longer, or lower the decay.",
            stacklevel=3,
        )


def make_train(settings: RunSettings) -> run_steps.Train:
    """Return the function that trains a model with the recipe of these settings; the teacher's has its own."""
    return partial(run_steps.train_with_recipe, recipe=make_recipe(settings), seed=settings.seed)


def make_recipe(settings: RunSettings) -> Recipe:
    """Return the recipe of the settings, without the teacher's own."""
    return Recipe(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Recipe)})


def add_label_options(settings: RunSettings, data: Data, objective: Objective, device: torch.device) -> Objective:
    """Add the class weights and the label smoothing of the settings to an objective, for a model on this device."""
    weights = None if data.class_weights is None else data.class_weights.to(device)
    return with_label_options(objective, class_weights=weights, label_smoothing=settings.label_smoothing)
