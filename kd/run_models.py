"""The models of a run by the names that its settings give: teachers trained here or loaded, and the student."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from kd.architectures import build
from kd.checkpoint import load_weights
from kd.ensemble import Ensemble
from kd.run_data import Task
from kd.run_settings import RunSettings, TeacherChoice
from kd.teachers import load_teacher

TEACHERS_ANSWER = "probabilities"  # averaged; kd.ensemble says what it means


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


def new_teacher(settings: RunSettings, choice: TeacherChoice, task: Task) -> NamedTeacher:
    """A teacher by its name, with the weights of its file where it has one."""
    shape, classes = task.input_shape, len(task.classes)
    if choice.weights is None:
        return NamedTeacher(build(choice.spec, input_shape=shape, classes=classes, seed=settings.seed), False)
    order = settings.label_order or None
    model = load_teacher(
        choice.spec,
        choice.weights,
        input_shape=shape,
        classes=classes,
        label_order=order,
        class_names=task.classes if order else None,
    )
    return NamedTeacher(model, True)


def as_one(teachers: list[nn.Module], settings: RunSettings) -> nn.Module:
    """The one teacher there is; several answer with the mean of their probabilities at the temperature."""
    if len(teachers) == 1:
        return teachers[0]
    return Ensemble(teachers, how=TEACHERS_ANSWER, temperature=settings.temperature)


def saved_teacher(settings: RunSettings, task: Task) -> nn.Module:
    """The teacher that a run has saved, on the CPU.

    Raises:
        ValueError, OSError: as ``kd.checkpoint.load_weights`` has it.
    """
    model = as_one([new_teacher(settings, choice, task).model for choice in settings.teachers_chosen], settings)
    load_weights(model, settings.models_dir / "teacher_model.pth")
    return model


def untrained_pair(settings: RunSettings, task: Task) -> tuple[nn.Module, nn.Module]:
    """Student and teacher on the CPU, of which only the architecture counts."""
    teachers = [
        build(choice.spec, input_shape=task.input_shape, classes=len(task.classes), seed=settings.seed)
        for choice in settings.teachers_chosen
    ]
    return new_student(settings, task, torch.device("cpu")), as_one(teachers, settings)
