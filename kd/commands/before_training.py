"""Tries of models and methods before any training, so that what would fail later fails at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from kd.checks import naming_flag
from kd.commands.data import Data
from kd.commands.messages import say_layers
from kd.commands.models import Teacher, build_network, combine_teachers, new_student
from kd.commands.recipe_settings import teacher_settings
from kd.commands.settings import RunSettings
from kd.commands.students import list_start_messages, require_no_label_options, require_reached
from kd.commands.teacher_flags import ModelChoice
from kd.commands.teacher_inputs import task_of
from kd.commands.teacher_outputs import count_outputs, has_own_outputs, rebuild_around
from kd.commands.trained_on import warn_about_leaks
from kd.console import say
from kd.data.loaders import first_batch
from kd.imports import is_plugin
from kd.methods import try_method
from kd.methods.objectives import noting_label_options
from kd.models.features import find_network
from kd.seeding import seeded
from kd.training.trial import require_repeatable, require_restorable, try_training


def require_models(settings: RunSettings, data: Data, teachers: Sequence[Teacher]) -> None:
    """Try models and method before any training, and print the layers that the method compares.

    Raises:
        ValueError: a model cannot be trained or restored (``kd.training.trial``), or the method does not work with
            these models.
    """
    warn_about_leaks(settings, data)
    batch, other_seed = first_batch(data.val_loader), dataclasses.replace(settings, seed=settings.seed + 1)
    own = teacher_settings(settings)
    epochs = [(samples, settings.batch_size) for samples in (data.sizes["training"], data.distill_size)]
    for choice, (teacher, trained, _) in zip(settings.teachers_chosen, teachers, strict=True):
        if not choice.is_precomputed and not choice.is_foreign:
            name = f"--teacher {choice.spec}"
            tried = (
                teacher
                if trained
                else try_training(name, teacher, batch, epochs=[(data.sizes["training"], own.batch_size)])
            )
            require_repeatable(name, tried, batch[0])
            require_restorable(name, tried, _rebuild(other_seed, choice, data, tried), batch)
    name, cpu = f"--student {settings.student}", torch.device("cpu")
    student = new_student(settings, data.task, cpu)
    for line in list_start_messages(settings, data.task):
        say(line)
    tried = try_training(name, student, batch, epochs=epochs)
    require_repeatable(name, tried, batch[0])
    require_restorable(name, tried, new_student(other_seed, data.task, cpu), batch)
    require_method(settings, data, teachers)


def _rebuild(settings: RunSettings, choice: ModelChoice, data: Data, teacher: nn.Module) -> nn.Module:
    """Return the teacher with another network of the same kind inside its wrappers."""
    task, outputs, own = task_of(teacher, data.task), None, has_own_outputs(settings) and choice.may_be_loaded
    if own and choice.file is not None:  # a model of the user's gets the data's number of classes again
        outputs = count_outputs(teacher.get_submodule(find_network(teacher)), task)
    return rebuild_around(teacher, build_network(settings, choice.spec, task, outputs=outputs, own_outputs=own))


def require_method(settings: RunSettings, data: Data, teachers: Sequence[Teacher]) -> None:
    """Try the method before any training, and print the layers that it compares; see ``require_models``."""
    flags = f"--method {settings.method}" + "".join(f" --set {text}" for text in settings.set)
    say_layers(try_settings(settings, data, teachers, flags=flags))


def try_settings(
    settings: RunSettings, data: Data, teachers: Sequence[Teacher], *, flags: str
) -> list[tuple[str, str]]:
    """Try the method on an untrained student, and return the layers that it compares; see ``require_models``.

    Args:
        flags: flags that an error names.
    """
    batch, student = first_batch(data.val_loader), new_student(settings, data.task, torch.device("cpu"))
    combined = combine_teachers([teacher.model for teacher in teachers], settings)
    with naming_flag(flags), seeded(settings.seed), noting_label_options() as reads:
        given, epochs = settings.method_settings, settings.epochs
        layers = try_method(settings.method, student, combined, batch, given, epochs=epochs)
        if settings.freeze:
            require_reached(settings, student, combined, batch)
    if is_plugin(settings.method) and not reads:
        require_no_label_options(settings)
    return layers
