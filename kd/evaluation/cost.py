"""What teaching costs, what the same amount pays for without a teacher, and what a model costs where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from kd.evaluation.latency import Latency, measure_latency
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds, training_multiply_adds
from kd.methods.objectives import supervised
from kd.storage.weights import weights_bytes
from kd.types import Batch


class TrainingCost(NamedTuple):
    """Multiply-adds of training; those of the optimizer, the loss and validation are not counted.

    Attributes:
        teacher: its whole training.
        cache: its answers to all training images, as often as it is asked for them.
        student: the whole training of one student, control or distilled.
        epochs: of each of these trainings.
        served: students that share the teacher and its answers, at least 1.
    """

    teacher: int
    cache: int
    student: int
    epochs: int
    served: int

    @property
    def distilled(self) -> float:
        """One distilled student and its share of the teacher."""
        return self.student + (self.teacher + self.cache) / self.served

    @property
    def longer_epochs(self) -> int:
        """Epochs on the labels alone that take as many multiply-adds as ``distilled``, to the nearest."""
        return round(self.epochs * self.distilled / self.student)

    @property
    def longer(self) -> float:
        """The training of a student for ``longer_epochs``."""
        return self.student * self.longer_epochs / self.epochs


def training_cost(
    teacher: nn.Module,
    student: nn.Module,
    batch: Batch,
    *,
    images: int,
    epochs: int,
    served: int,
    labelled: int | None = None,
    views: int = 1,
    asked_at_each_step: bool = False,
) -> TrainingCost:
    """Count both trainings on one batch of the training images, and scale up.

    Args:
        images: training images of an epoch.
        labelled: those that the teacher was trained with, where the student has unlabelled ones as well.
        views: of each image, that the teacher answers to once for all students.
        asked_at_each_step: it answers in each epoch of each student instead, because its answers cannot be kept.
    """
    seen = {teacher: epochs * (labelled or images), student: epochs * images}
    training = [
        round(training_multiply_adds(model, supervised, batch) / len(batch[0]) * items) for model, items in seen.items()
    ]
    asked = epochs * served if asked_at_each_step else views
    inference = asked * images * count_multiply_adds(teacher, batch[0][:1])
    return TrainingCost(training[0], inference, training[1], epochs, served)


class Footprint(NamedTuple):
    """What a model takes where it is used.

    Attributes:
        multiply_adds: for one input.
        bytes: of its weights file.
        latency: of one input's answer, with a single thread.
    """

    parameters: int
    multiply_adds: int
    bytes: int
    latency: Latency


def measure_footprint(model: nn.Module, example: Tensor) -> Footprint:
    """Count, and time on this machine.

    Args:
        example: [1, …], a batch of one.
    """
    return Footprint(
        count_parameters(model),
        count_multiply_adds(model, example),
        len(weights_bytes(model)),
        measure_latency(model, example),
    )


class Saved(NamedTuple):
    """The teacher's time that keeping its answers saves: without them each epoch of each student asks for all of them.

    Attributes:
        seconds: of one thread, which is what a student has, for the teacher's answers to all training images, once.
        passes: that would have been needed: students times epochs.
    """

    seconds: float
    passes: int

    @property
    def total(self) -> float:
        """Seconds saved: all passes but the one that is kept."""
        return self.seconds * (self.passes - 1)


def saved(teacher: nn.Module, batch: Batch, *, images: int, students: int, epochs: int) -> Saved:
    """Time the teacher on one batch, as the students see them, and scale up."""
    once = measure_latency(teacher, batch[0]).median
    return Saved(once * images / len(batch[0]), students * epochs)


class Cost(NamedTuple):
    """All of it. Only ``training`` comes out the same each time; the rest has times in it.

    Attributes:
        models: ``teacher`` and ``student``.
        saved: None where the teacher is asked at each step, or is only its answers.
    """

    training: TrainingCost
    models: Mapping[str, Footprint]
    saved: Saved | None
