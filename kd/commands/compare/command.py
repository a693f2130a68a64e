"""The ``kd compare`` command: train pairs of control and distilled student and judge their differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from kd.arms import CONTROL, DISTILLED, LONGER, SMOOTHED
from kd.commands.compare.files import comparison_files
from kd.commands.compare.report import compare_part
from kd.commands.compare.results import Comparison, ModelPredictions
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.text import print_comparison
from kd.commands.data import Task
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings
from kd.commands.models import new_student
from kd.commands.program import typed_command
from kd.commands.publish import publish_with_report
from kd.commands.settings_file import to_toml
from kd.commands.steps import (
    TeacherWithData,
    make_objective,
    make_train,
    open_command,
    prepare_distillation_data,
    record_settings,
)
from kd.console import say
from kd.data.loaders import make_loader
from kd.evaluation.cost import Cost, measure_footprint, measure_saving, training_cost
from kd.evaluation.metrics import count_parameters
from kd.methods.objectives import smoothed, supervised
from kd.storage.files import publish, sha256
from kd.storage.weights import state_bytes, weights_bytes
from kd.training.students import DistillationData, Student, TrainedStudent, predict_dataset, train_students
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


class Arm(NamedTuple):
    """One way to train a student.

    Attributes:
        objective: None for distillation, whose objective depends on the teacher.
        epochs: training epochs of each student.
    """

    objective: Objective | None
    epochs: int


def run(settings: CompareSettings) -> None:
    """Train the teachers and all students, reusing saved ones; print the results, write the files and the report.

    Raises:
        ValueError: a setting is outside its range.
        OSError: a folder is not writable or in use by another run, or a worker process was killed.
        FloatingPointError: a loss is not finite.
    """
    with open_command(settings, *(settings.results_dir / folder for folder in ("metrics", "plots"))) as device:
        publish({settings.file: to_toml(settings, command=settings.command)})
        teachers = [
            _prepare_teacher(settings, number, device) for number in range(max(settings.teachers, settings.splits))
        ]
        cost = _measure_cost(settings, teachers[0], device)
        say_method(settings.method, format_method_settings(settings.method_settings))
        arms = _choose_arms(settings, cost)
        trained = _train_all(settings, teachers, dict(_make_students(teachers, arms, device)))
        comparison = _collect_predictions(settings, teachers, arms, trained)
        print_comparison(comparison, cost, limit=settings.limit)
        config, test = record_settings(settings, device), teachers[0].distill_data.test
        files = comparison_files(settings.results_dir, comparison, trained, cost, config, limit=settings.limit)
        report_part = compare_part(comparison, cost, config, test=test, command=typed_command(), limit=settings.limit)
        publish_with_report(files, report_part, results_dir=settings.results_dir, state_dir=settings.state_dir)


def _prepare_teacher(settings: CompareSettings, number: int, device: torch.device) -> Teacher:
    """Train the teacher with this number on its split, or reuse a saved one; the teacher of ``kd run`` has number 0."""
    teacher_settings = dataclasses.replace(
        settings,
        seed=settings.seed + number % settings.teachers,
        random_state=settings.random_state + number % settings.splits,
    )
    # The verdict needs a single test set, so data without a test split are split with the same seed for all teachers.
    prepared = prepare_distillation_data(teacher_settings, device, number=number, test_seed=settings.random_state)
    title = f"teacher-{number}" if number else "teacher"
    on_validation, on_test = (
        predict_dataset(prepared.model, dataset, batch_size=settings.batch_size, title=f"{title}-{split}")
        for split, dataset in {"validation": prepared.data.val_set, "test": prepared.data.test_set}.items()
    )
    predictions = ModelPredictions(on_validation, on_test, sha256(weights_bytes(prepared.model)))
    return Teacher(
        number,
        teacher_settings,
        prepared,
        predictions,
        _make_distilled_objective(settings, prepared, device),
        _list_seeds(settings, number),
    )


def _measure_cost(settings: CompareSettings, teacher: Teacher, device: torch.device) -> Cost:
    training = teacher.distill_data.training
    # The control's data, because each of its samples has a label.
    batch = next(iter(make_loader(teacher.prepared.control_data.training, batch_size=settings.batch_size)))
    student = new_student(settings, teacher.task, device)
    models = {"teacher": teacher.prepared.model, "student": student}
    images: int = len(training) // teacher.distill_data.views  # type: ignore[arg-type]  # torch leaves __len__ undeclared
    return Cost(
        training_cost(
            models["teacher"],
            student,
            batch,
            images=images,
            labelled=teacher.prepared.data.sizes["training"],
            epochs=settings.epochs,
            served=settings.pairs,
            views=teacher.distill_data.views,
            asked_at_each_step=settings.asked_at_each_step,
        ),
        {name: measure_footprint(model, batch[0][:1]) for name, model in models.items()},
        None
        if settings.asked_at_each_step or not count_parameters(models["teacher"])
        else measure_saving(models["teacher"], batch, images=images, students=settings.pairs, epochs=settings.epochs),
    )


def _make_distilled_objective(settings: CompareSettings, prepared: TeacherWithData, device: torch.device) -> Objective:
    """Return the training objective of this teacher's distilled students."""
    loader = make_loader(prepared.distill_data.training, batch_size=settings.batch_size)
    student = new_student(settings, prepared.data.task, device)
    return make_objective(settings, student, prepared.model, loader)


def _choose_arms(settings: CompareSettings, cost: Cost) -> dict[str, Arm]:
    arms = {CONTROL: Arm(supervised, settings.epochs), DISTILLED: Arm(None, settings.epochs)}
    if settings.smoothing:
        arms[SMOOTHED] = Arm(smoothed(smoothing=settings.smoothing), settings.epochs)
    # A loaded teacher has no training cost, so there is no longer control.
    if settings.longer and cost.training.longer_epochs > settings.epochs:
        arms[LONGER] = Arm(supervised, cost.training.longer_epochs)
    return arms


def _list_seeds(settings: CompareSettings, teacher: int) -> list[int]:
    """List the seeds of a teacher's pairs; no two teachers share a seed, so their students are independent."""
    first = settings.seed + teacher * settings.pairs
    return list(range(first, first + settings.pairs))


def _name_student(arm: str, teacher: Teacher, seed: int) -> str:
    return f"{arm}-seed-{seed}" + (f"-teacher-{teacher.number}" if teacher.number else "")


def _make_students(
    teachers: Sequence[Teacher], arms: Mapping[str, Arm], device: torch.device
) -> Iterator[tuple[str, Student]]:
    """Yield name and student for every teacher, seed and arm; equal seeds give equal initial weights and batches."""
    for teacher in teachers:
        for seed in teacher.seeds:
            for name, arm in arms.items():
                student_settings = dataclasses.replace(teacher.settings, seed=seed, epochs=arm.epochs)
                model, train = new_student(student_settings, teacher.task, device), make_train(student_settings)
                # Index into the list of _train_all: first the distillation data of all teachers, then the control data.
                data_index = teacher.number if arm.objective is None else len(teachers) + teacher.number
                student = Student(model, arm.objective or teacher.objective, train, arm.epochs, data_index)
                yield _name_student(name, teacher, seed), student


def _train_all(
    settings: CompareSettings, teachers: Sequence[Teacher], students: Mapping[str, Student]
) -> dict[str, TrainedStudent]:
    finished: dict[str, TrainedStudent] = {}
    distill_data = [teacher.distill_data for teacher in teachers] + [
        teacher.prepared.control_data for teacher in teachers
    ]
    for name, student in train_students(distill_data, students, processes=settings.processes):
        finished[name] = student
        seconds, accuracy = student.history.seconds, student.history["val_acc"][-1]
        say(f"{len(finished):>3}/{len(students)}  {name}: validation accuracy {accuracy:.2%}, {seconds:.0f} s")
    return {name: finished[name] for name in students}  # ordered by seed; training finishes in any order


def _collect_predictions(
    settings: CompareSettings,
    teachers: Sequence[Teacher],
    arms: Mapping[str, Arm],
    trained_students: Mapping[str, TrainedStudent],
) -> Comparison:
    def collect(arm: str, teacher: Teacher) -> list[ModelPredictions]:
        return [_to_predictions(trained_students[_name_student(arm, teacher, seed)]) for seed in teacher.seeds]

    return Comparison(
        teachers=[teacher.predictions for teacher in teachers],
        students={arm: [collect(arm, teacher) for teacher in teachers] for arm in arms},
        seeds=[teacher.seeds for teacher in teachers],
        margin=settings.margin,
        temperature=settings.temperature,
        noun=teachers[0].task.noun,
    )


def _to_predictions(student: TrainedStudent) -> ModelPredictions:
    assert student.test is not None
    return ModelPredictions(student.validation, student.test, sha256(state_bytes(student.weights)))
