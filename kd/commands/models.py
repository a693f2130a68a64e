"""The models of a run by the names that its settings give: teachers trained here or loaded, and the student."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import nn

from kd.commands.data import Data, Task
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import TeacherChoice
from kd.models.build import build
from kd.storage.weights import load_weights
from kd.teachers.ensemble import Ensemble
from kd.teachers.load import load_teacher
from kd.teachers.logit_files import read_logits
from kd.teachers.lookup import build_lookup

TEACHERS_ANSWER = "probabilities"  # averaged; kd.teachers.ensemble says what it means


class NamedTeacher(NamedTuple):
    """A teacher as it starts, on the CPU, and whether its weights are trained already."""

    model: nn.Module
    trained: bool


def new_student(settings: RunSettings, task: Task, device: torch.device) -> nn.Module:
    """A student as it starts: the same for the same seed."""
    names = {"mlp": f"mlp:{settings.student_width}", "cnn": "cnn:8"}
    spec = names.get(settings.student, settings.student)
    model = build(spec, input_shape=task.input_shape, classes=len(task.classes), seed=settings.seed)
    return model.to(device)


def new_teacher(settings: RunSettings, choice: TeacherChoice, data: Data) -> NamedTeacher:
    """A teacher by its name, with the weights or the answers of its file where it has one.

    Raises:
        ValueError, OSError, MissingExtraError: as ``kd.models.build.build``, ``kd.teachers.load.load_teacher`` and
            ``kd.teachers.logit_files.read_logits`` have it.
    """
    shape, names = data.task.input_shape, data.task.classes
    if choice.file is None:
        return NamedTeacher(build(choice.spec, input_shape=shape, classes=len(names), seed=settings.seed), False)
    order = settings.label_order or None
    if choice.is_answers:
        predictions = read_logits(
            choice.file,
            labels=data.all_labels(),
            classes=len(names),
            kind=choice.spec,
            label_order=order,
            class_names=names,
        )
        parts = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
        return NamedTeacher(build_lookup([(part, data.rows[n]) for n, part in parts.items()], predictions.logits), True)
    model = load_teacher(
        choice.spec,
        choice.file,
        input_shape=shape,
        classes=len(names),
        label_order=order,
        class_names=names if order else None,
    )
    return NamedTeacher(model, True)


def new_teachers(settings: RunSettings, data: Data) -> list[NamedTeacher]:
    """All teachers of the settings as they start, at least one."""
    chosen = enumerate(settings.teachers_chosen)
    return [new_teacher(with_seed_of(settings, number), choice, data) for number, choice in chosen]


def with_seed_of(settings: RunSettings, number: int) -> RunSettings:
    """The settings of the number-th of several teachers: with one seed, two of one name would be one teacher."""
    return dataclasses.replace(settings, seed=settings.seed + 1_000_003 * number) if number else settings


def combine_teachers(teachers: list[nn.Module], settings: RunSettings) -> nn.Module:
    """The one teacher there is; several answer with the mean of their probabilities at the method's temperature."""
    if len(teachers) == 1:
        return teachers[0]
    temperature = float(settings.method_settings.get("temperature", settings.temperature))
    return Ensemble(teachers, how=TEACHERS_ANSWER, temperature=temperature)


def saved_teacher(settings: RunSettings, data: Data) -> nn.Module:
    """The teacher that a run has saved, on the CPU.

    Raises:
        ValueError, OSError: as ``kd.storage.weights.load_weights`` has it.
    """
    model = combine_teachers([teacher.model for teacher in new_teachers(settings, data)], settings)
    load_weights(model, settings.models_dir / "teacher_model.pth")
    return model
