"""Train students in parallel from cached teacher logits, and collect their predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.utils.data import DataLoader, Dataset

from kd.data.loaders import BatchTransform, make_loader
from kd.data.views import one_view_each
from kd.models.inference import Predictions
from kd.training.history import History
from kd.training.pool import run_in_pool
from kd.training.run_steps import Train, predict_models
from kd.types import Objective


class DistillationData(NamedTuple):
    """Data shared by the students of one teacher.

    Attributes:
        training, validation: samples (input, label, teacher logits).
        test: samples (input, label).
        batch_size: training batch size; the order of batches depends only on the student's seed.
        views: number of augmented views per sample; an epoch uses one view of each sample (``kd.data.views``).
        shifted: the test samples changed in some ways, by name (``kd.data.shifts``).
        mix: mixes each training batch (``kd.data.mixing``).
    """

    training: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    batch_size: int
    views: int = 1
    shifted: Mapping[str, Dataset[Any]] = {}
    mix: BatchTransform | None = None

    def training_loader(self) -> DataLoader[Any]:
        """Return the training loader; ``kd.fit`` seeds its order."""
        if self.views == 1:
            return make_loader(self.training, batch_size=self.batch_size, shuffle=True, mix=self.mix)
        return one_view_each(self.training, self.views, batch_size=self.batch_size, mix=self.mix)


class Student(NamedTuple):
    """An untrained student and its training.

    Attributes:
        model: the network with its initial weights; not modified.
        train: the training function, with its own seed, epochs and optimizer.
        epochs: number of epochs, for the progress bar.
        teacher: index of the ``DistillationData`` to train on.
        step: name of its steps in an open run; "" for the student's own name.
    """

    model: nn.Module
    objective: Objective
    train: Train
    epochs: int
    teacher: int = 0
    step: str = ""


class TrainedStudent(NamedTuple):
    """A trained student.

    Attributes:
        weights: its state dict.
        validation, test: its predictions, in the order of the datasets; ``test`` is None if the test set was not used.
        shifted: its predictions for the changed test samples, by name.
    """

    weights: dict[str, Any]
    history: History
    validation: Predictions
    test: Predictions | None
    shifted: Mapping[str, Predictions] = {}


def train_students(
    data: Sequence[DistillationData],
    students: Mapping[str, Student],
    *,
    tested: bool = True,
    processes: int | None = None,
) -> Iterator[tuple[str, TrainedStudent]]:
    """Train the students in parallel single-threaded processes; yields (name, trained student) as each finishes.

    In an open run (``kd.storage.run_folder``) finished students are reused and interrupted ones resume from their
    snapshots.

    Args:
        tested: predict the test set once, after the last epoch. Use False while settings are still being selected.
        processes: see ``kd.training.pool.run_in_pool``.
    """
    work = _train_and_test if tested else _train_untested
    steps, items = _count_steps(data, students), {name: (name, student) for name, student in students.items()}
    return run_in_pool(work, data, items, steps=steps, title="students", processes=processes)


def try_students(
    data: Sequence[DistillationData], students: Mapping[str, Student], *, processes: int | None = None
) -> Iterator[tuple[str, TrainedStudent | FloatingPointError]]:
    """Train students with settings that may diverge: like ``train_students``, but without the test set.

    If a student's loss is not finite, its result is the FloatingPointError, and the other students continue.
    """
    steps, items = _count_steps(data, students), {name: (name, student) for name, student in students.items()}
    return run_in_pool(_try_training, data, items, steps=steps, title="students", processes=processes)


def train_student(data: DistillationData, name: str, student: Student, *, tested: bool = True) -> TrainedStudent:
    """Train one student in this process, with its number of threads, and predict the validation and test sets."""
    name = student.step or name
    training = data.training_loader()
    validation = make_loader(data.validation, batch_size=data.batch_size)
    history = student.train(name, student.model, student.objective, training, validation)
    splits = {"validation": data.validation, **({"test": data.test, **data.shifted} if tested else {})}
    predictions = {
        split: predict_dataset(student.model, dataset, batch_size=data.batch_size, title=f"{name}-{split}")
        for split, dataset in splits.items()
    }
    shifted = {split: predictions[split] for split in splits if split in data.shifted}
    return TrainedStudent(
        student.model.state_dict(), history, predictions["validation"], predictions.get("test"), shifted
    )


def predict_dataset(model: nn.Module, dataset: Dataset[Any], *, batch_size: int, title: str) -> Predictions:
    """Return one model's predictions for all samples of the dataset, in its order."""
    return predict_models({"model": model}, make_loader(dataset, batch_size=batch_size), title=title)["model"]


def _count_steps(data: Sequence[DistillationData], students: Mapping[str, Student]) -> dict[str, int]:
    """Return the number of training steps of each student."""
    batches = [len(teacher_data.training_loader()) for teacher_data in data]
    return {name: student.epochs * batches[student.teacher] for name, student in students.items()}


def _train_and_test(data: Sequence[DistillationData], item: tuple[str, Student]) -> TrainedStudent:
    return train_student(data[item[1].teacher], *item)


def _train_untested(data: Sequence[DistillationData], item: tuple[str, Student]) -> TrainedStudent:
    return train_student(data[item[1].teacher], *item, tested=False)


def _try_training(data: Sequence[DistillationData], item: tuple[str, Student]) -> TrainedStudent | FloatingPointError:
    try:
        return _train_untested(data, item)
    except FloatingPointError as error:
        return error
