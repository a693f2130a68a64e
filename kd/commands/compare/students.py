"""Students of ``kd compare``: one for each arm, teacher and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch

from kd.arms import CONTROL, DISTILLED, LONGER, SMOOTHED
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.teachers import Teacher
from kd.commands.models import new_student
from kd.commands.paired_settings import count_pilots
from kd.commands.recipe import add_label_options, make_train
from kd.console import say
from kd.evaluation.cost import Cost
from kd.evaluation.quantities import Quantity, item_losses
from kd.methods.objectives import smoothed, supervised
from kd.training.students import DistillationData, Student, train_students
from kd.types import Objective


class Arm(NamedTuple):
    """One way to train a student.

    Attributes:
        objective: without class weights and label smoothing of the recipe; None for distillation, whose objective
            depends on the teacher.
        epochs: training epochs of each student.
    """

    objective: Objective | None
    epochs: int


def choose_arms(settings: CompareSettings, cost: Cost, smoothing: float) -> dict[str, Arm]:
    arms = {CONTROL: Arm(supervised, settings.epochs), DISTILLED: Arm(None, settings.epochs)}
    if smoothing:
        arms[SMOOTHED] = Arm(smoothed(smoothing=smoothing), settings.epochs)
    # A loaded teacher has no training cost, so there is no longer control.
    if settings.longer and cost.training.longer_epochs > settings.epochs:
        arms[LONGER] = Arm(supervised, cost.training.longer_epochs)
    return arms


def choose_smoothing(
    settings: CompareSettings, teachers: Sequence[Teacher], quantity: Quantity, device: torch.device
) -> float:
    """Return the strength of label smoothing: the setting, or the best of its ``strengths`` on the validation images.

    ``count_pilots`` students are trained for each strength, with seeds that no pair has; their mean decides. The test
    images are not used.
    """
    if settings.smoothing is not None:
        return settings.smoothing
    first = teachers[-1].seeds[-1] + 1
    seeds = range(first, first + count_pilots(quantity))
    names = {
        strength: [f"pilot-smoothing-{strength}" + (f"-seed-{seed}" if seed > first else "") for seed in seeds]
        for strength in settings.strengths
    }
    students = {
        name: _make_pilot(teachers[0], seed, strength, device)
        for strength, of_strength in names.items()
        for name, seed in zip(of_strength, seeds, strict=True)
    }
    data = [teachers[0].prepared.control_data]
    trained = dict(train_students(data, students, tested=False, processes=settings.processes))
    losses = {
        strength: fmean(float(item_losses(quantity, *trained[name].validation).sum()) for name in of_strength)
        for strength, of_strength in names.items()
    }
    rounded = [round(loss, 9) for loss in losses.values()]
    best = list(losses)[rounded.index(min(rounded))]  # the weakest of those equal but for rounding
    equal = rounded.count(min(rounded))
    choice = f"the weakest of the {equal} best" if equal > 1 else "the best"
    values = ", ".join(f"{strength:g}: {loss:{quantity.spec}}" for strength, loss in losses.items())
    name, noun = quantity.name.removeprefix("test "), teachers[0].task.noun
    means = f", means of {len(seeds)} pilots" if len(seeds) > 1 else ""
    say(f"label smoothing {best:g} is {choice} on the validation {noun} ({name}{means}: {values})")
    return best


def _make_pilot(teacher: Teacher, seed: int, strength: float, device: torch.device) -> Student:
    settings = dataclasses.replace(teacher.settings, seed=seed)
    objective = add_label_options(settings, teacher.prepared.data, smoothed(smoothing=strength), device)
    return Student(new_student(settings, teacher.task, device), objective, make_train(settings), settings.epochs)


def make_students(
    methods: Mapping[str, Sequence[Teacher]], arms: Mapping[str, Arm], device: torch.device
) -> Iterator[tuple[str, Student]]:
    """Yield name and student for every teacher, seed and arm; equal seeds give equal initial weights and batches.

    Args:
        methods: the teachers for each method; only the distilled students differ by method.
    """
    for index, (method, teachers) in enumerate(methods.items()):
        own_arms = arms if not index else {DISTILLED: arms[DISTILLED]}
        for teacher in teachers:
            for seed in teacher.seeds:
                for name, arm in own_arms.items():
                    # Index into the list of ``list_data``.
                    data_index = (len(methods) if arm.objective else index) * len(teachers) + teacher.number
                    student = _make_student(teacher, seed, name, arm, data_index, device)
                    yield name_student(name, teacher, seed, method if len(methods) > 1 else ""), student


def _make_student(teacher: Teacher, seed: int, name: str, arm: Arm, data_index: int, device: torch.device) -> Student:
    settings = dataclasses.replace(teacher.settings, seed=seed, epochs=arm.epochs)
    model, train = new_student(settings, teacher.task, device), make_train(settings)
    # The step has the name of a student of one method alone, so that either command reuses the other's.
    step = name_student(name, teacher, seed)
    objective = teacher.objective
    if arm.objective is not None:
        objective = add_label_options(teacher.settings, teacher.prepared.data, arm.objective, device)
    return Student(model, objective, train, arm.epochs, data_index, step)


def list_data(methods: Mapping[str, Sequence[Teacher]]) -> list[DistillationData]:
    """List the data of all students: the distillation data of each method's teachers, then the controls' data."""
    distilled = [teacher.distill_data for teachers in methods.values() for teacher in teachers]
    return distilled + [teacher.prepared.control_data for teacher in next(iter(methods.values()))]


def name_student(arm: str, teacher: Teacher, seed: int, method: str = "") -> str:
    """Return the name of a student; distilled students of several methods are named by their method."""
    by_method = f"{arm}-{method}" if method and arm == DISTILLED else arm
    return f"{by_method}-seed-{seed}" + (f"-teacher-{teacher.number}" if teacher.number else "")
