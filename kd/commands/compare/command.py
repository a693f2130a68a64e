"""``kd compare``: did distillation help? Paired seeds from one teacher's logits, further controls, one verdict."""

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
    """A teacher with its split, and what its students have in common.

    Attributes:
        number: 0 is that of ``kd run`` in the same folder.
        settings: those that it was trained with, its own seed and split among them.
        answers: its own.
        objective: of its distilled students.
        seeds: of its pairs.
    """

    number: int
    settings: CompareSettings
    taught: TeacherWithData
    predictions: ModelPredictions
    objective: Objective
    seeds: Sequence[int]

    @property
    def task(self) -> Task:
        return self.taught.data.task

    @property
    def distill_data(self) -> DistillationData:
        return self.taught.distill_data


class Arm(NamedTuple):
    """One way to train a student.

    Attributes:
        objective: None is the distilled one of each teacher.
    """

    objective: Objective | None
    epochs: int


def run(settings: CompareSettings) -> None:
    """Train the pairs and the further controls, or take up what is kept of them; print and save what they say.

    Raises:
        ValueError: a setting is outside its range.
        OSError: a folder cannot be written to or is in use by another run; a process was killed.
        FloatingPointError: a loss is not finite.
    """
    with open_command(settings, *(settings.results_dir / part for part in ("metrics", "plots"))) as device:
        publish({settings.file: to_toml(settings, command=settings.command)})
        teachers = [_teacher(settings, number, device) for number in range(max(settings.teachers, settings.splits))]
        spent = _cost(settings, teachers[0], device)
        say_method(settings.method, format_method_settings(settings.method_settings))
        arms = _arms(settings, spent)
        trained = _train(settings, teachers, dict(_students(teachers, arms, device)))
        comparison = _comparison(settings, teachers, arms, trained)
        print_comparison(comparison, spent, limit=settings.limit)
        config, test = record_settings(settings, device), teachers[0].distill_data.test
        files = comparison_files(settings.results_dir, comparison, trained, spent, config, limit=settings.limit)
        part = compare_part(comparison, spent, config, test=test, command=typed_command(), limit=settings.limit)
        publish_with_report(files, part, results_dir=settings.results_dir, state_dir=settings.state_dir)


def _teacher(settings: CompareSettings, number: int, device: torch.device) -> Teacher:
    """Train the number-th teacher on its split, or take up the kept one; that of ``kd run`` in this folder, too."""
    own = dataclasses.replace(
        settings,
        seed=settings.seed + number % settings.teachers,
        random_state=settings.random_state + number % settings.splits,
    )
    # Data without a test part of their own give the same one to every split: one verdict, on one test set.
    taught = prepare_distillation_data(own, device, number=number, test_seed=settings.random_state)
    title = f"teacher-{number}" if number else "teacher"
    on_validation, on_test = (
        predict_dataset(taught.model, dataset, batch_size=settings.batch_size, title=f"{title}-{part}")
        for part, dataset in {"validation": taught.data.val_set, "test": taught.data.test_set}.items()
    )
    predictions = ModelPredictions(on_validation, on_test, sha256(weights_bytes(taught.model)))
    return Teacher(number, own, taught, predictions, _distilled(settings, taught, device), _seeds(settings, number))


def _cost(settings: CompareSettings, teacher: Teacher, device: torch.device) -> Cost:
    training = teacher.distill_data.training
    batch = next(
        iter(make_loader(teacher.taught.control_data.training, batch_size=settings.batch_size))
    )  # all with labels
    student = new_student(settings, teacher.task, device)
    models = {"teacher": teacher.taught.model, "student": student}
    images: int = len(training) // teacher.distill_data.views  # type: ignore[arg-type]  # torch leaves __len__ undeclared
    return Cost(
        training_cost(
            models["teacher"],
            student,
            batch,
            images=images,
            labelled=teacher.taught.data.sizes["training"],
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


def _distilled(settings: CompareSettings, taught: TeacherWithData, device: torch.device) -> Objective:
    """What the distilled students of this teacher are trained towards."""
    loader = make_loader(taught.distill_data.training, batch_size=settings.batch_size)
    student = new_student(settings, taught.data.task, device)
    return make_objective(settings, student, taught.model, loader)


def _arms(settings: CompareSettings, spent: Cost) -> dict[str, Arm]:
    arms = {CONTROL: Arm(supervised, settings.epochs), DISTILLED: Arm(None, settings.epochs)}
    if settings.smoothing:
        arms[SMOOTHED] = Arm(smoothed(smoothing=settings.smoothing), settings.epochs)
    if settings.longer and spent.training.longer_epochs > settings.epochs:  # a teacher from a file costs nothing here
        arms[LONGER] = Arm(supervised, spent.training.longer_epochs)
    return arms


def _seeds(settings: CompareSettings, teacher: int) -> list[int]:
    """Seeds of this teacher's pairs: no two teachers share one, so that their students do not either."""
    first = settings.seed + teacher * settings.pairs
    return list(range(first, first + settings.pairs))


def _name(arm: str, teacher: Teacher, seed: int) -> str:
    return f"{arm}-seed-{seed}" + (f"-teacher-{teacher.number}" if teacher.number else "")


def _students(
    teachers: Sequence[Teacher], arms: Mapping[str, Arm], device: torch.device
) -> Iterator[tuple[str, Student]]:
    """All of one seed start from the same weights and see the same batches."""
    for teacher in teachers:
        for seed in teacher.seeds:
            for name, arm in arms.items():
                own = dataclasses.replace(teacher.settings, seed=seed, epochs=arm.epochs)
                model, train = new_student(own, teacher.task, device), make_train(own)
                # First the data of all teachers with their logits, then, for the controls, without unlabelled items.
                index = teacher.number if arm.objective is None else len(teachers) + teacher.number
                student = Student(model, arm.objective or teacher.objective, train, arm.epochs, index)
                yield _name(name, teacher, seed), student


def _train(
    settings: CompareSettings, teachers: Sequence[Teacher], students: Mapping[str, Student]
) -> dict[str, TrainedStudent]:
    trained: dict[str, TrainedStudent] = {}
    distill_data = [teacher.distill_data for teacher in teachers] + [
        teacher.taught.control_data for teacher in teachers
    ]
    for name, student in train_students(distill_data, students, processes=settings.processes):
        trained[name] = student
        seconds, accuracy = student.history.seconds, student.history["val_acc"][-1]
        say(f"{len(trained):>3}/{len(students)}  {name}: validation accuracy {accuracy:.2%}, {seconds:.0f} s")
    return {name: trained[name] for name in students}  # in the order of seeds, not that in which they were done


def _comparison(
    settings: CompareSettings,
    teachers: Sequence[Teacher],
    arms: Mapping[str, Arm],
    trained: Mapping[str, TrainedStudent],
) -> Comparison:
    def group(arm: str, teacher: Teacher) -> list[ModelPredictions]:
        return [_predictions(trained[_name(arm, teacher, seed)]) for seed in teacher.seeds]

    return Comparison(
        teachers=[teacher.predictions for teacher in teachers],
        students={arm: [group(arm, teacher) for teacher in teachers] for arm in arms},
        seeds=[teacher.seeds for teacher in teachers],
        margin=settings.margin,
        temperature=settings.temperature,
        noun=teachers[0].task.noun,
    )


def _predictions(student: TrainedStudent) -> ModelPredictions:
    assert student.test is not None
    return ModelPredictions(student.validation, student.test, sha256(state_bytes(student.weights)))
