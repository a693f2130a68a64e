"""Students of ``kd sweep``: one for each point and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from kd.arms import CONTROL, DISTILLED
from kd.commands.data import Data, Task
from kd.commands.models import new_student, require_memory_for_students
from kd.commands.recipe import add_label_options, make_train
from kd.commands.sweep.points import Point, documented_point, format_value, settings_at
from kd.commands.sweep.results import Images
from kd.commands.sweep.settings import SweepSettings
from kd.data.loaders import first_batch, make_loader
from kd.evaluation.quantities import Quantity
from kd.methods import make
from kd.methods.objectives import supervised
from kd.storage.files import name_for_file
from kd.training.students import DistillationData, Student
from kd.types import Batch, Objective


class SweepContext(NamedTuple):
    """Inputs for training the students of any point, and their training times.

    Attributes:
        teacher: the teacher of all students.
        distill_data: training data with the teacher's logits, one entry per batch size.
        seconds: training time of each student by name; filled during the sweep.
    """

    settings: SweepSettings
    device: torch.device
    data: Data
    teacher: nn.Module
    distill_data: list[DistillationData]
    images: Images
    seconds: dict[str, float]

    @property
    def task(self) -> Task:
        return self.data.task

    @property
    def quantity(self) -> Quantity:
        """What decides, for the choice of the point and for the verdict."""
        return self.data.deciding_quantity()


def make_students(context: SweepContext, points: Iterable[Point], seeds: Sequence[int]) -> dict[str, Student]:
    """Make the students of some points; equal seed, width and batch size give equal initial weights and batches."""
    sizes, points = list_batch_sizes(context.settings), list(points)
    require_memory_for_students(context.settings, context.task, len(points) * len(seeds))
    example = first_batch(make_loader(context.distill_data[0].training, batch_size=context.settings.batch_size))
    students = {}
    for point in points:
        point_settings = settings_at(context.settings, point)
        for name, seed in zip(name_students(context.settings, point, seeds), seeds, strict=True):
            student_settings = dataclasses.replace(point_settings, seed=seed)
            model, train = new_student(student_settings, context.task, context.device), make_train(student_settings)
            objective = supervised if point.is_control else _make_objective(context, student_settings, model, example)
            objective = add_label_options(student_settings, context.data, objective, context.device)
            students[name] = Student(
                model, objective, train, student_settings.epochs, sizes.index(student_settings.batch_size)
            )
    return students


def _make_objective(context: SweepContext, settings: SweepSettings, student: nn.Module, example: Batch) -> Objective:
    """Return the objective of a student that is no control; at alpha = 1 it would be the control's, bit for bit."""
    return make(settings.method, student, context.teacher, example, settings.method_settings)


def name_students(settings: SweepSettings, point: Point, seeds: Sequence[int]) -> list[str]:
    """Name the students of a point; students that ``kd compare`` also trains get the same names and are reused."""
    reference = documented_point(settings)
    grid = {} if point.temperature is None else {"T": point.temperature, "alpha": point.alpha}
    values = {**grid, **dict(point.method or ()), **dict(point.others)}
    texts = [f"{name}={name_for_file(format_value(value))}" for name, value in values.items()]
    if point.is_control or not (grid or point.method):
        texts.insert(0, CONTROL if point.is_control else DISTILLED)
    arm_name = "-".join(texts)
    arm = {reference: DISTILLED, reference.control: CONTROL}.get(point, arm_name)
    return [f"{arm}-seed-{seed}" for seed in seeds]


def list_batch_sizes(settings: SweepSettings) -> list[int]:
    return list(
        dict.fromkeys((settings.batch_size, *(int(size or 0) for size in settings.varied.get("batch_size", ()))))
    )
