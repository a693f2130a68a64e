"""Teachers of ``kd compare``: each with its seed, its split of the data and the seeds of its pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from kd.checks import naming_flag
from kd.commands.compare.settings import CompareSettings
from kd.commands.data import Data, Task
from kd.commands.models import new_student
from kd.commands.recipe import add_label_options
from kd.commands.steps import TeacherWithData, make_objective, prepare_distillation_data
from kd.commands.teacher_inputs import data_for_teacher
from kd.data.datasets import DistillDataset
from kd.data.loaders import make_loader
from kd.devices import usable_cores
from kd.evaluation.comparison import ModelPredictions
from kd.storage.files import sha256
from kd.storage.weights import weights_bytes
from kd.training.students import DistillationData, predict_dataset
from kd.training.tracking import track_test
from kd.types import Objective


class Teacher(NamedTuple):
    """A trained teacher with its split of the data and the seeds of its pairs.

    Attributes:
        number: index from 0; teacher 0 is the teacher of ``kd run`` in the same folder.
        settings: the settings it was trained with, including its seed and its split.
        prepared: the model with its datasets.
        predictions: its logits on the validation and test images.
        objective: training objective of its distilled students.
        seeds: seeds of its pairs.
    """

    number: int
    settings: CompareSettings
    prepared: TeacherWithData
    predictions: ModelPredictions
    objective: Objective
    seeds: Sequence[int]

    @property
    def task(self) -> Task:
        return self.prepared.data.task

    @property
    def distill_data(self) -> DistillationData:
        return self.prepared.distill_data


def teacher_settings(settings: CompareSettings, number: int) -> CompareSettings:
    """Return the settings of the teacher with this number, with its seed and its split."""
    return dataclasses.replace(
        settings,
        seed=settings.seed + number % settings.teachers,
        random_state=settings.random_state + number % settings.split_count,
    )


def prepare_teacher(settings: CompareSettings, number: int, data: Data, device: torch.device) -> Teacher:
    """Train the teacher with this number on its split, or reuse a saved one; the teacher of ``kd run`` has number 0."""
    own_settings = teacher_settings(settings, number)
    shifted = _shift_test_images(settings, data) if settings.shifts else {}
    prepared = prepare_distillation_data(own_settings, device, number=number, data=data)
    distill_data, control_data = (d._replace(shifted=shifted) for d in (prepared.distill_data, prepared.control_data))
    prepared = prepared._replace(distill_data=distill_data, control_data=control_data)
    title = f"teacher-{number}" if number else "teacher"
    own = data_for_teacher(own_settings, prepared.data, prepared.model)
    on_validation, on_test = (
        predict_dataset(prepared.model, dataset, batch_size=settings.batch_size, title=f"{title}-{split}")
        for split, dataset in {"validation": own.val_set, "test": own.test_set}.items()
    )
    track_test(title, on_test)
    predictions = ModelPredictions(on_validation, on_test, sha256(weights_bytes(prepared.model)))
    return Teacher(
        number,
        own_settings,
        prepared,
        predictions,
        _make_distilled_objective(settings, prepared, device),
        list_seeds(settings, number),
    )


def _shift_test_images(settings: CompareSettings, data: Data) -> dict[str, Dataset[Any]]:
    """Return the changed test images by name."""
    from kd.data.shifts import shift_images  # imports torchvision, which takes a second

    with naming_flag("--shifts"):
        # Each process that trains students has a copy of every teacher's data, and so does this one.
        processes = 1 + (settings.processes or usable_cores())
        return shift_images(data.test_set, copies=settings.runs * processes)


def with_method(teacher: Teacher, settings: CompareSettings, device: torch.device) -> Teacher:
    """Return the teacher for the distilled students of another method: same model, logits and seeds."""
    own_settings, prepared = teacher_settings(settings, teacher.number), teacher.prepared
    data, has_ids = prepared.distill_data, settings.needs_ids
    training, validation = (_with_ids(dataset, has_ids) for dataset in (data.training, data.validation))
    prepared = prepared._replace(distill_data=data._replace(training=training, validation=validation))
    objective = _make_distilled_objective(settings, prepared, device)
    return teacher._replace(settings=own_settings, prepared=prepared, objective=objective)


def _with_ids(dataset: Dataset[Any], ids: bool) -> Dataset[Any]:
    """Return the dataset with or without the ids of its samples."""
    if not isinstance(dataset, DistillDataset) or dataset.ids == ids:
        return dataset
    return DistillDataset(dataset.dataset, dataset.logits, ids=ids)


def _make_distilled_objective(settings: CompareSettings, prepared: TeacherWithData, device: torch.device) -> Objective:
    """Return the training objective of this teacher's distilled students."""
    loader = make_loader(prepared.distill_data.training, batch_size=settings.batch_size)
    student = new_student(settings, prepared.data.task, device)
    objective = make_objective(settings, student, prepared.model, loader)
    return add_label_options(settings, prepared.data, objective, device)


def list_seeds(settings: CompareSettings, teacher: int) -> list[int]:
    """List the seeds of a teacher's pairs; no two teachers share a seed, so their students are independent."""
    first = settings.seed + teacher * settings.pairs
    return list(range(first, first + settings.pairs))
