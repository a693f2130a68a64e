"""What a run has found: every number is computed here, once. Its files, text, plots and report only read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from kd.arms import CONTROL, DISTILLED, STUDENTS, TEACHER
from kd.commands.run.disagreements import (
    Confusion,
    Disagreements,
    Illustrations,
    confusions_changed,
    disagreement_masks,
    find_disagreements,
    illustrate,
)
from kd.evaluation.calibration import (
    Calibration,
    ChanceError,
    ReliabilityCurve,
    calibration,
    error_by_chance,
    reliability,
    reliability_curve,
)
from kd.evaluation.fidelity import Fidelity, fidelity
from kd.evaluation.latency import Latency
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.two_models import Accuracy, McNemar, accuracy_of, mcnemar, proportion_interval, verdict
from kd.training.history import History

DRAWS = 200  # of error_by_chance: its mean is then known to a tenth of itself, in a twentieth of a second


class Students(NamedTuple):
    """Control against distilled student, image by image.

    Attributes:
        test: McNemar's, the control first.
        control_share: of the images on which exactly one of the two errs, those on which it is the control, in [0, 1],
            and Wilson's 95 % interval; None where there is no such image.
    """

    test: McNemar
    both_wrong: int
    both_right: int
    exactly_one_wrong: int
    control_share: float | None
    control_share_low_95: float | None
    control_share_high_95: float | None


class ClassAccuracy(NamedTuple):
    """One model on the test images of one class; None where there are none."""

    images: int
    correct: int
    accuracy: float | None


class ModelSize(NamedTuple):
    """What a model takes.

    Attributes:
        multiply_adds: for one input.
        share_of_teacher: of the teacher's multiply-adds; None where these are not known.
        bytes, sha256: of its weights file.
    """

    parameters: int
    multiply_adds: int
    share_of_teacher: float | None
    bytes: int
    sha256: str


class Timings(NamedTuple):
    """What was measured with a clock, which is different each time the same run is done.

    Attributes:
        training_seconds: of each model that was trained in this run.
        latencies: of each model.
        processor: where.
    """

    training_seconds: Mapping[str, float]
    latencies: Mapping[str, Latency]
    processor: str


@dataclass(frozen=True)
class Run:
    """What was trained and predicted, and every number that follows from it. The mappings' keys are the models' names.

    Attributes:
        histories: the curves of each model that was trained in this run; a teacher may come trained.
        logits: each model's answers to the test set, [N, K].
        labels: the test set's labels, [N] int64.
        test: the test set; row i of logits and labels belongs to ``test[i]``.
        config: the settings it was run with.
        temperature: T > 0 of the distillation.
        toy: a stamp for every file if the run is too small to conclude anything from, else None.
        classes: their names in label order, where they have other names than their numbers.
    """

    histories: Mapping[str, History]
    logits: Mapping[str, Tensor]
    labels: Tensor
    test: Dataset[Any]
    config: Mapping[str, Any]
    temperature: float
    toy: str | None = None
    classes: Sequence[str] = ()

    @property
    def noun(self) -> str:
        """What the items are called."""
        return "images" if is_image(self.test[0][0]) else "items"

    @property
    def plain(self) -> bool:
        """Whether the distilled student learned by plain distillation, from answers softened as they are shown."""
        return bool(self.config.get("METHOD", "kd") == "kd")

    @property
    def panels(self) -> dict[str, str]:
        """The quantities whose curves are worth drawing, and what each is."""
        return {
            "ce": "Cross-entropy with the labels, nats",
            "acc": "Accuracy, %",
            "soft": "Soft term: (1 − α) · T² · KL, nats" if self.plain else "Soft term of the method",
        }

    @property
    def notes(self) -> list[str]:
        """What a reader of these numbers must know, in plain sentences."""
        return sorted({note for history in self.histories.values() for note in history.notes})

    def named(self, label: int) -> str:
        """The class of this label as a person knows it."""
        return self.classes[label] if self.classes else str(label)

    @cached_property
    def predictions(self) -> dict[str, Tensor]:
        """[N] labels."""
        return {name: logits.argmax(dim=1) for name, logits in self.logits.items()}

    @cached_property
    def wrong(self) -> dict[str, Tensor]:
        """[N] bool: the test images that each model gets wrong."""
        return {name: predicted != self.labels for name, predicted in self.predictions.items()}

    @cached_property
    def accuracies(self) -> dict[str, Accuracy]:
        return {name: accuracy_of(int(wrong.sum()), len(self.labels)) for name, wrong in self.wrong.items()}

    @cached_property
    def students(self) -> Students:
        control, distilled = (self.wrong[name] for name in STUDENTS)
        test = mcnemar(control, distilled)
        single = test.only_first_wrong + test.only_second_wrong
        share = test.only_first_wrong / single if single else None
        low, high = proportion_interval(test.only_first_wrong, single) if single else (None, None)
        both_wrong, both_right = int((control & distilled).sum()), int((~control & ~distilled).sum())
        return Students(test, both_wrong, both_right, single, share, low, high)

    @cached_property
    def verdict(self) -> str:
        """One sentence on these two students."""
        control, distilled = (self.accuracies[name].errors for name in STUDENTS)
        return verdict(control, distilled, self.students.test, noun=self.noun)

    @cached_property
    def confusion_matrices(self) -> dict[str, Tensor]:
        """[K, K] counts: row = true class, column = predicted class."""
        return {name: confusion_matrix(logits, self.labels) for name, logits in self.logits.items()}

    @cached_property
    def per_class(self) -> dict[str, list[ClassAccuracy]]:
        """By model and label."""
        return {
            name: [_class_accuracy(int(row.sum()), int(row[label])) for label, row in enumerate(matrix)]
            for name, matrix in self.confusion_matrices.items()
        }

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        return {name: calibration(logits, self.labels) for name, logits in self.logits.items()}

    @cached_property
    def chances(self) -> dict[str, ChanceError]:
        """The ECE that each model would have by chance, were its confidences true."""
        return {name: error_by_chance(logits, draws=DRAWS) for name, logits in self.logits.items()}

    @cached_property
    def reliabilities(self) -> dict[str, ReliabilityCurve]:
        return {name: reliability_curve(reliability(logits, self.labels)) for name, logits in self.logits.items()}

    @cached_property
    def fidelities(self) -> dict[str, Fidelity]:
        """How closely each student matches the teacher."""
        return {
            name: fidelity(self.logits[name], self.logits[TEACHER], self.labels, temperature=self.temperature)
            for name in STUDENTS
        }

    @cached_property
    def confusion_change(self) -> Tensor:
        """[K, K]: errors of the distilled student minus the control's, by true and predicted class."""
        return (self.confusion_matrices[DISTILLED] - self.confusion_matrices[CONTROL]).fill_diagonal_(0)

    @property
    def fewer_confusions(self) -> int:
        """Errors that the distilled student makes less often than the control, counted by pair of classes."""
        return -int(self.confusion_change.clamp(max=0).sum())

    @property
    def more_confusions(self) -> int:
        """Those that it makes more often."""
        return int(self.confusion_change.clamp(min=0).sum())

    @cached_property
    def confusions(self) -> list[Confusion]:
        """Where ``confusion_change`` is not 0, the largest differences first."""
        return confusions_changed(
            self.confusion_change,
            self.predictions,
            self.logits[TEACHER],
            self.labels,
            temperature=self.temperature,
        )

    @cached_property
    def disagreements(self) -> Disagreements:
        masks = disagreement_masks(self.wrong, self.predictions)
        return find_disagreements(masks, self.logits, self.labels, temperature=self.temperature)

    @cached_property
    def illustrations(self) -> Illustrations:
        """The rows of ``prediction_examples.png``."""
        return illustrate(self.wrong, self.logits, self.labels, temperature=self.temperature)


def _class_accuracy(images: int, correct: int) -> ClassAccuracy:
    return ClassAccuracy(images, correct, correct / images if images else None)


def model_sizes(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelSize]:
    """By model.

    Args:
        entries: each model's entry in ``manifest.json``, by its name.
    """
    work = entries[TEACHER]["multiply_adds"]
    return {
        name: ModelSize(
            entry["parameters"],
            entry["multiply_adds"],
            entry["multiply_adds"] / work if work else None,
            entry["bytes"],
            entry["sha256"],
        )
        for name, entry in entries.items()
    }


def is_image(example: Tensor) -> bool:
    """Whether it can be shown as a picture: [C, H, W]."""
    return example.ndim == 3
