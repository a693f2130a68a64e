"""Results of a run. Every number is computed here, once; files, printed text, plots and report only read them."""

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
    count_confusions,
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
from kd.evaluation.classwise import ClassScores, Majority, majority_of, score_classes
from kd.evaluation.fidelity import Fidelity, fidelity
from kd.evaluation.latency import Latency
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.two_models import Accuracy, McNemar, accuracy_of, mcnemar, proportion_interval
from kd.evaluation.unlike import Validation
from kd.training.history import History

DRAWS = 200  # of error_by_chance; enough for a mean accurate to 10 %, in 0.05 s


class Students(NamedTuple):
    """Paired errors of control and distilled student on the test images.

    Attributes:
        test: McNemar's test, with the control as first model.
        control_share: among the images with exactly one student wrong, the fraction on which it is the control, in
            [0, 1], with Wilson's 95 % interval; None if there are no such images.
    """

    test: McNemar
    both_wrong: int
    both_right: int
    exactly_one_wrong: int
    control_share: float | None
    control_share_low_95: float | None
    control_share_high_95: float | None


class ModelSize(NamedTuple):
    """Size and cost of a model.

    Attributes:
        multiply_adds: multiply-adds of one input.
        share_of_teacher: ratio to the teacher's multiply-adds; None for a teacher of precomputed outputs.
        bytes, sha256: size and hash of the weights file.
    """

    parameters: int
    multiply_adds: int
    share_of_teacher: float | None
    bytes: int
    sha256: str


class Timings(NamedTuple):
    """Measured times, which differ between two equal runs.

    Attributes:
        training_seconds: training time of each model trained in this run.
        latencies: inference latency of each model.
        processor: name of the processor.
    """

    training_seconds: Mapping[str, float]
    latencies: Mapping[str, Latency]
    processor: str


@dataclass(frozen=True)
class Run:
    """Training curves and test predictions of a run, and numbers derived from them. Mappings are keyed by model name.

    Attributes:
        histories: training curves of each model trained in this run; none for a loaded teacher.
        logits: logits [N, K] of each model on the test set.
        labels: labels [N] int64 of the test set.
        test: the test set; row i of logits and labels belongs to ``test[i]``.
        config: settings of the run.
        temperature: T > 0 of the distillation.
        toy: stamp on every file of a quick run, which is too small to conclude anything from; else None.
        classes: class names in label order; empty if the classes are only numbered.
        validation_size: number of validation samples; None if it is not known.
        ids: name of each test sample, such as its file; empty if they have none.
        validation: validation split; None if it is not known.
    """

    histories: Mapping[str, History]
    logits: Mapping[str, Tensor]
    labels: Tensor
    test: Dataset[Any]
    config: Mapping[str, Any]
    temperature: float
    toy: str | None = None
    classes: Sequence[str] = ()
    validation_size: int | None = None
    ids: Sequence[str] = ()
    validation: Validation | None = None

    @property
    def noun(self) -> str:
        """Word for the samples in printed text."""
        return "images" if is_image(self.test[0][0]) else "items"

    @property
    def is_plain_kd(self) -> bool:
        """Whether the method is ``kd``, so that training used the softened probabilities of the report."""
        return bool(self.config.get("METHOD", "kd") == "kd")

    @property
    def _soft_title(self) -> str:
        if not self.is_plain_kd:
            return "Soft term of the method"
        divergence = dict(text.split("=", 1) for text in self.config.get("SET", ())).get("divergence", "forward")
        return f"Soft term: (1 − α) · T² · {'KL' if divergence == 'forward' else divergence}, nats"

    @property
    def panels(self) -> dict[str, str]:
        """Titles of the training curves to draw, by quantity."""
        return {"ce": "Cross-entropy with the labels, nats", "acc": "Accuracy, %", "soft": self._soft_title}

    @property
    def notes(self) -> list[str]:
        """Remarks from training that affect how the numbers are read, without duplicates."""
        return sorted({note for history in self.histories.values() for note in history.notes})

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return self.classes[label] if self.classes else str(label)

    @cached_property
    def predictions(self) -> dict[str, Tensor]:
        """Predicted labels [N]."""
        return {name: logits.argmax(dim=1) for name, logits in self.logits.items()}

    @cached_property
    def wrong(self) -> dict[str, Tensor]:
        """Masks [N] bool of the test images that each model classifies wrongly."""
        return {name: predicted != self.labels for name, predicted in self.predictions.items()}

    @cached_property
    def accuracies(self) -> dict[str, Accuracy]:
        return {name: accuracy_of(int(wrong.sum()), len(self.labels)) for name, wrong in self.wrong.items()}

    @cached_property
    def students(self) -> Students:
        control, distilled = (self.wrong[name] for name in STUDENTS)
        test = mcnemar(control, distilled)
        discordant = test.only_first_wrong + test.only_second_wrong
        share = test.only_first_wrong / discordant if discordant else None
        low, high = proportion_interval(test.only_first_wrong, discordant) if discordant else (None, None)
        both_wrong, both_right = int((control & distilled).sum()), int((~control & ~distilled).sum())
        return Students(test, both_wrong, both_right, discordant, share, low, high)

    @cached_property
    def majority(self) -> Majority:
        """The constant prediction with the fewest errors."""
        return majority_of(self.labels)

    @cached_property
    def confusion_matrices(self) -> dict[str, Tensor]:
        """Counts [K, K]: row = true class, column = predicted class."""
        return {name: confusion_matrix(logits, self.labels) for name, logits in self.logits.items()}

    @cached_property
    def class_scores(self) -> dict[str, ClassScores]:
        """Recall of each class, balanced accuracy and macro-F1 of each model."""
        return {name: score_classes(matrix) for name, matrix in self.confusion_matrices.items()}

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        return {name: calibration(logits, self.labels) for name, logits in self.logits.items()}

    @cached_property
    def chances(self) -> dict[str, ChanceError]:
        """ECE that each model would have by chance if it were perfectly calibrated."""
        return {name: error_by_chance(logits, draws=DRAWS) for name, logits in self.logits.items()}

    @cached_property
    def reliabilities(self) -> dict[str, ReliabilityCurve]:
        return {name: reliability_curve(reliability(logits, self.labels)) for name, logits in self.logits.items()}

    @cached_property
    def fidelities(self) -> dict[str, Fidelity]:
        """Agreement of each student with the teacher."""
        return {
            name: fidelity(self.logits[name], self.logits[TEACHER], self.labels, temperature=self.temperature)
            for name in STUDENTS
        }

    @cached_property
    def confusion_change(self) -> Tensor:
        """Errors [K, K] of the distilled student minus the control's, by true and predicted class."""
        return (self.confusion_matrices[DISTILLED] - self.confusion_matrices[CONTROL]).fill_diagonal_(0)

    @property
    def fewer_confusions(self) -> int:
        """Total decrease in errors from control to distilled student, over the pairs of classes with a decrease."""
        return -int(self.confusion_change.clamp(max=0).sum())

    @property
    def more_confusions(self) -> int:
        """Total increase in errors from control to distilled student, over the pairs of classes with an increase."""
        return int(self.confusion_change.clamp(min=0).sum())

    @cached_property
    def confusions(self) -> list[Confusion]:
        """Pairs of classes whose ``confusion_change`` is not 0, largest differences first."""
        return count_confusions(
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


def model_sizes(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelSize]:
    """Return the size and cost of each model, by name.

    Args:
        entries: entry of each model in ``manifest.json``, by model name.
    """
    teachers = entries[TEACHER]["multiply_adds"]
    return {
        name: ModelSize(
            share_of_teacher=entry["multiply_adds"] / teachers if teachers else None,
            **{key: entry[key] for key in ("parameters", "multiply_adds", "bytes", "sha256")},
        )
        for name, entry in entries.items()
    }


def is_image(example: Tensor) -> bool:
    """Return whether an input can be shown as an image: [C, H, W]."""
    return example.ndim == 3
