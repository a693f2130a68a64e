"""Students trained side by side from the kept logits of their teachers, and asked when they are done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.utils.data import DataLoader, Dataset

from kd.data.loaders import make_loader
from kd.data.views import one_view_each
from kd.models.inference import Predictions
from kd.training.history import History
from kd.training.pool import run_in_pool
from kd.training.run_steps import Train, predict_models
from kd.types import Objective


class DistillationData(NamedTuple):
    """What the students of one teacher have in common.

    Attributes:
        training, validation: items (input, label, teacher logits).
        test: items (input, label).
        batch_size: of the training; batches come in an order that is a function of the student's seed alone.
        views: of each sample, of which an epoch shows one (``kd.data.views``).
    """

    training: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    batch_size: int
    views: int = 1

    def training_loader(self) -> DataLoader[Any]:
        """One epoch of it in an order that ``kd.fit`` seeds."""
        if self.views == 1:
            return make_loader(self.training, batch_size=self.batch_size, shuffle=True)
        return one_view_each(self.training, self.views, batch_size=self.batch_size)


class Student(NamedTuple):
    """A student as it starts, and how it is trained.

    Attributes:
        model: its initial weights count; it is not changed.
        train: seed, epochs and optimizer are in it.
        epochs: for the progress bar.
        teacher: index of the ``DistillationData`` that it is trained on.
    """

    model: nn.Module
    objective: Objective
    train: Train
    epochs: int
    teacher: int = 0


class TrainedStudent(NamedTuple):
    """A student when it is done.

    Attributes:
        weights: its state dict.
        validation, test: its answers, in the order of the datasets; ``test`` is None where it was not asked.
    """

    weights: dict[str, Any]
    history: History
    validation: Predictions
    test: Predictions | None


def train_students(
    data: Sequence[DistillationData],
    students: Mapping[str, Student],
    *,
    tested: bool = True,
    processes: int | None = None,
) -> Iterator[tuple[str, TrainedStudent]]:
    """Train each student in a process of one thread, several at once; yields each by its name as it is done.

    In an open run (``kd.storage.run_folder``) what is finished is kept, and what was interrupted goes on from its
    snapshot.

    Args:
        tested: ask each for the test set, once, after its last epoch. Not while anything is still being chosen.
        processes: as ``kd.training.pool.run_in_pool`` has it.
    """
    work = _train_and_test if tested else _train_untested
    steps, named = _count_steps(data, students), {name: (name, student) for name, student in students.items()}
    return run_in_pool(work, data, named, steps=steps, title="students", processes=processes)


def try_students(
    data: Sequence[DistillationData], students: Mapping[str, Student], *, processes: int | None = None
) -> Iterator[tuple[str, TrainedStudent | FloatingPointError]]:
    """As ``train_students``, for settings that nobody has tried yet: no test image is asked, and a loss that is not
    finite is that student's outcome instead of the end of all."""
    steps, named = _count_steps(data, students), {name: (name, student) for name, student in students.items()}
    return run_in_pool(_try_training, data, named, steps=steps, title="students", processes=processes)


def train_student(data: DistillationData, name: str, student: Student, *, tested: bool = True) -> TrainedStudent:
    """Train one student in this process, with the threads it has, and ask it."""
    training = data.training_loader()
    validation = make_loader(data.validation, batch_size=data.batch_size)
    history = student.train(name, student.model, student.objective, training, validation)
    predictions = {
        part: predict_dataset(student.model, dataset, batch_size=data.batch_size, title=f"{name}-{part}")
        for part, dataset in {"validation": data.validation, "test": data.test}.items()
        if tested or part != "test"
    }
    return TrainedStudent(student.model.state_dict(), history, predictions["validation"], predictions.get("test"))


def predict_dataset(model: nn.Module, dataset: Dataset[Any], *, batch_size: int, title: str) -> Predictions:
    """A single model's answers to every item of the dataset, in its order."""
    return predict_models({"model": model}, make_loader(dataset, batch_size=batch_size), title=title)["model"]


def _count_steps(data: Sequence[DistillationData], students: Mapping[str, Student]) -> dict[str, int]:
    """Training steps of each student."""
    batches = [len(own.training_loader()) for own in data]
    return {name: student.epochs * batches[student.teacher] for name, student in students.items()}


def _train_and_test(data: Sequence[DistillationData], named: tuple[str, Student]) -> TrainedStudent:
    return train_student(data[named[1].teacher], *named)


def _train_untested(data: Sequence[DistillationData], named: tuple[str, Student]) -> TrainedStudent:
    return train_student(data[named[1].teacher], *named, tested=False)


def _try_training(data: Sequence[DistillationData], named: tuple[str, Student]) -> TrainedStudent | FloatingPointError:
    try:
        return _train_untested(data, named)
    except FloatingPointError as error:
        return error
