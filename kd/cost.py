"""What teaching costs in multiply-adds, and what the same amount pays for without a teacher."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from kd.metrics import multiply_adds, training_multiply_adds
from kd.objectives import supervised
from kd.types import Batch


class Cost(NamedTuple):
    """Multiply-adds of training; those of the optimizer, the loss and validation are not counted.

    Attributes:
        teacher: its whole training.
        cache: its answers to all training images, once.
        student: the whole training of one student, regular or distilled.
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


def cost(teacher: nn.Module, student: nn.Module, batch: Batch, *, images: int, epochs: int, served: int) -> Cost:
    """Count both trainings on one batch of the training images, and scale up.

    Args:
        images: training images of an epoch.
    """
    seen = epochs * images
    per_image = [training_multiply_adds(model, supervised, batch) / len(batch[0]) for model in (teacher, student)]
    training = [round(each * seen) for each in per_image]
    return Cost(training[0], images * multiply_adds(teacher, batch[0][:1]), training[1], epochs, served)
