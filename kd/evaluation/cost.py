"""Computational costs: of distillation, of training without a teacher at the same cost, and of inference."""

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
    """Multiply-adds of training, without the optimizer, the loss and validation.

    Attributes:
        teacher: training of the teacher.
        cache: inference of the teacher on training images.
        student: training of one student, control or distilled.
        epochs: number of epochs of a student.
        served: number of students sharing the teacher and its logits, at least 1.
    """

    teacher: int
    cache: int
    student: int
    epochs: int
    served: int

    @property
    def distilled(self) -> float:
        """Multiply-adds of one distilled student, including its share of the teacher."""
        return self.student + (self.teacher + self.cache) / self.served

    @property
    def longer_epochs(self) -> int:
        """Number of epochs on labels alone that cost the same as ``distilled``, rounded."""
        return round(self.epochs * self.distilled / self.student)

    @property
    def longer(self) -> float:
        """Multiply-adds of training a student for ``longer_epochs``."""
        return self.longer_at(self.longer_epochs)

    def longer_at(self, epochs: int) -> float:
        """Multiply-adds of training a student for this number of epochs."""
        return self.student * epochs / self.epochs


def training_cost(
    teacher: nn.Module,
    student: nn.Module,
    batch: Batch,
    *,
    images: int,
    epochs: int,
    served: int,
    labelled: int | None = None,
    teacher_epochs: int | None = None,
    views: int = 1,
    asked_at_each_step: bool = False,
) -> TrainingCost:
    """Count the multiply-adds of one training batch for teacher and student, and extrapolate to a whole run.

    Args:
        images: number of training images per epoch of a student.
        served: number of students that share the teacher.
        epochs: epochs of a student; with early stopping the most, so that the cost is an upper bound.
        labelled: number of labelled training images, the only ones the teacher is trained on; None if all are labelled.
        teacher_epochs: epochs of the teacher; None for those of a student.
        views: number of augmented views per image whose logits are cached.
        asked_at_each_step: True if the teacher runs at every training step because its logits cannot be cached.
    """
    samples_seen = {teacher: (teacher_epochs or epochs) * (labelled or images), student: epochs * images}
    training = [
        round(training_multiply_adds(model, supervised, batch) / len(batch[0]) * samples)
        for model, samples in samples_seen.items()
    ]
    passes = epochs * served if asked_at_each_step else views
    inference = passes * images * count_multiply_adds(teacher, batch[0][:1])
    return TrainingCost(training[0], inference, training[1], epochs, served)


class Footprint(NamedTuple):
    """Inference cost of a model.

    Attributes:
        multiply_adds: per input.
        bytes: size of the weights file.
        latency: of a batch of one on a single thread.
    """

    parameters: int
    multiply_adds: int
    bytes: int
    latency: Latency


def measure_footprint(model: nn.Module, example: Tensor) -> Footprint:
    """Measure the inference cost of a model; latency depends on the machine.

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
    """Inference time saved by caching the logits of the teacher, compared with a pass per epoch and student.

    Attributes:
        seconds: for one pass of the teacher over all training images, on a single thread like the training of students.
        passes: number of passes without a cache: students × epochs.
    """

    seconds: float
    passes: int

    @property
    def total(self) -> float:
        """Seconds saved: all passes except the first, which fills the cache."""
        return self.seconds * (self.passes - 1)


def measure_saving(teacher: nn.Module, batch: Batch, *, images: int, students: int, epochs: int) -> Saved:
    """Time the teacher on one training batch of the students, and extrapolate to all passes."""
    seconds = measure_latency(teacher, batch[0]).median
    return Saved(seconds * images / len(batch[0]), students * epochs)


class Cost(NamedTuple):
    """All costs of a comparison. Only ``training`` is reproducible; the rest contains measured times.

    Attributes:
        models: keyed by ``teacher`` and ``student``.
        saved: None if the teacher runs at every step or consists of cached logits only.
    """

    training: TrainingCost
    models: Mapping[str, Footprint]
    saved: Saved | None

    @property
    def kind(self) -> tuple[TrainingCost, bool]:
        """What can differ between methods with the same models and data: equal kinds are reported once."""
        return self.training, self.saved is None

    def served_by(self, students: int) -> Cost:
        """Return the cost with the time saved for this number of distilled students, if fewer were trained."""
        if self.saved is None:
            return self
        return self._replace(saved=self.saved._replace(passes=students * self.training.epochs))
