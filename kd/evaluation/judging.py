"""``kd.judge``: a verdict on predictions that come from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from kd.arms import CONTROL, DISTILLED, SMOOTHED
from kd.checks import require, require_finite_logits, require_labels
from kd.evaluation.comparison import Comparison, ModelPredictions
from kd.evaluation.comparison_slices import Slices, measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.quantities import BALANCED, choose_quantity, constant_value
from kd.evaluation.verdict import Judgement, Verdict
from kd.losses.logit_kind import are_probabilities, require_logits_kind, require_probabilities
from kd.models.inference import Predictions

Kind = Literal["logits", "probabilities", "classes"]
_LARGEST = torch.finfo(torch.float32).max  # of a logit; squares of larger ones overflow
_FLOOR = 1e-12  # smallest probability; its logarithm must be finite
_MOST_CLASSES = 100_000  # more are ids, not classes; predicted classes take a number for each item and class
_NEAR_CHANCE = 0.95  # share of the balanced error at chance level; an arm with more may have its rows in another order
_ENOUGH_ERRORS = 10  # independent students may predict the same classes if they make fewer errors


@dataclass(frozen=True)
class Judged:
    """A verdict on predictions, with its statistics.

    Attributes:
        comparison: the predictions.
    """

    comparison: Comparison

    @cached_property
    def verdicts(self) -> Verdicts:
        return Verdicts(self.comparison)

    @property
    def verdict(self) -> Verdict:
        """The verdict in a few words, such as "better than the labels alone"."""
        return self.judgement.verdict

    @property
    def sentence(self) -> str:
        """The verdict as a paragraph, with its interval and its conditions."""
        return self.verdicts.lines[-1]

    @property
    def judgement(self) -> Judgement:
        """The statistics that determine the verdict."""
        return self.verdicts.main

    @cached_property
    def slices(self) -> Slices:
        """Differences by class, with Holm's adjustment."""
        return measure_slices(self.comparison)


def judge(
    control: Iterable[Any],
    distilled: Iterable[Any],
    labels: Any,
    *,
    smoothed: Iterable[Any] | None = None,
    kind: Kind = "logits",
    decide: str = "auto",
    margin: float = 0.1,
    class_names: Sequence[str] = (),
) -> Judged:
    """Judge whether distillation helped, from the predictions of pairs of students on one test set.

    print(kd.judge(control, distilled, labels, kind="probabilities").sentence)

    Args:
        control, distilled: predictions of each student, as tensors, arrays or data frames: [N, K] logits or
            probabilities, or [N] numbers of predicted classes, N ≥ 1. Entry i of both is one pair, trained with the
            same seed; at least two pairs.
        labels: [N] true classes, integers from 0.
        smoothed: predictions of students with label smoothing and without a teacher, paired in the same way. Without
            them, the verdict is never "helps": softer targets alone may have the same effect.
        kind: what the predictions are.
        decide: see ``kd.evaluation.quantities.choose_quantity``.
        margin: equivalence margin in percentage points of the test items, in (0, 100].
        class_names: names of the classes in label order.

    Raises:
        ValueError: predictions that do not fit each other, the labels or their kind; a quantity that they do not give;
            two students of an arm with the same predictions: then the pairs are not independent; students with label
            smoothing that are those of another arm.
    """
    require(kind in get_args(Kind), "kind", kind, "logits, probabilities or classes")
    control, distilled, smoothed = list(control), list(distilled), list(() if smoothed is None else smoothed)
    _require_pairs(control, distilled, smoothed)
    require(0 < margin <= 100, "margin", margin, "above 0 and at most 100 percentage points of the test items")
    require(kind != "classes" or decide != "nll", "decide", decide, "another quantity for predicted classes")
    truth = _to_tensor("labels", labels)
    require(truth.numel() >= 1, "labels", "none", "the class of each test item")
    given = {CONTROL: control, DISTILLED: distilled, SMOOTHED: smoothed}
    arms, classes = _read_arms({arm: group for arm, group in given.items() if group}, truth, kind, len(class_names))
    digests = {arm: _require_different(arm, students, kind) for arm, students in arms.items()}
    if SMOOTHED in arms:
        _require_own_smoothing(arms[SMOOTHED], digests, kind)
    names = list(class_names) or [str(number) for number in range(classes)]
    named = "class_names (--class-names)"
    require(len(names) == classes, named, f"{len(names)} names", f"{classes}, one for each class")
    require(len(set(names)) == len(names), named, ", ".join(names[:20]), "different names")
    comparison = Comparison(
        teachers=[],
        students={arm: [students] for arm, students in arms.items()},
        seeds=[range(len(control))],
        margin=margin,
        temperature=1.0,
        noun="items",
        quantity=choose_quantity(decide, truth, names),
        classes=names,
        given="the conditions shared by all pairs",
        has_probabilities=kind != "classes",
        remarks=_describe_identical(digests[CONTROL], digests[DISTILLED]),
    )
    return Judged(replace(comparison, remarks=[*comparison.remarks, *_advise_order(comparison)]))


def _require_pairs(control: Sequence[Any], distilled: Sequence[Any], smoothed: Sequence[Any]) -> None:
    require(len(control) >= 2, "control", f"{len(control)} students", "at least 2", "one pair has no spread")
    for name, students in (("distilled", distilled), ("smoothed", smoothed)):
        fits = len(students) == len(control) or (name == "smoothed" and not len(students))
        require(fits, name, f"{len(students)} students", f"{len(control)}, one for each control")


def _read_arms(
    given: Mapping[str, Sequence[Any]], labels: Tensor, kind: Kind, named: int
) -> tuple[dict[str, list[ModelPredictions]], int]:
    """Return the students of each arm, and the number of classes."""
    values = {arm: [_to_tensor(f"{arm}[{i}]", v) for i, v in enumerate(group)] for arm, group in given.items()}
    classes = _count_classes(values, labels, kind, named)
    arms = {
        arm: [_to_predictions(f"{arm}[{i}]", tensor, labels, kind, classes) for i, tensor in enumerate(group)]
        for arm, group in values.items()
    }
    return arms, classes


def _to_tensor(name: str, values: Any) -> Tensor:
    """Return values as a tensor on the CPU, without a graph, in the order of their rows, whatever their index.

    Unsigned integers, for which torch has no maximum, become int64.
    """
    require(not np.ma.is_masked(values), name, "a masked array", "an array without masked values", "leave them out")
    try:
        if hasattr(values, "__array__") and not isinstance(values, Tensor):
            array = np.asarray(values)
            values = array.astype(array.dtype.newbyteorder("="), order="C")  # a copy that torch can read
        tensor = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError) as error:
        kind = type(values).__name__
        raise ValueError(
            f"{name} must be an array of numbers. Got other values ({kind}: {error}). Number the classes from 0."
        ) from error
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def _require_logits(name: str, values: Tensor) -> None:
    is_index = len(values) > 2 and bool((values[:, 0].diff() == 1).all())
    advice = "leave out the index of the table"
    require(not is_index, name, "a first column that counts the rows", "a score for each class", advice)
    found, advice = "rows that are non-negative and sum to 1: probabilities", "pass kind='probabilities' (--kind)"
    require(not are_probabilities(values), name, found, "logits, scores before the softmax", advice)
    require_logits_kind(name, values)


def _require_different(arm: str, students: Sequence[ModelPredictions], kind: Kind) -> list[str]:
    """Return a digest of each student's predictions; students of one arm must differ.

    Raises:
        ValueError: two students have the same predictions. Predicted classes may be equal if they are constant or
            nearly all right.
    """
    digests = [hashlib.sha256(student.test.logits.numpy().tobytes()).hexdigest() for student in students]
    for number, (digest, student) in enumerate(zip(digests, students, strict=True)):
        first = digests.index(digest)
        if first < number and (kind != "classes" or _must_differ(student.test)):
            raise ValueError(
                f"{arm}[{number}] must be the predictions of another student. Got the same as {arm}[{first}]: a copy "
                "of one student adds no evidence. Pass each student once; if training does not depend on the seed, "
                "repeat it on resampled training data."
            )
    return digests


def _require_own_smoothing(students: Sequence[ModelPredictions], digests: dict[str, list[str]], kind: Kind) -> None:
    """Refuse students with label smoothing that are those of another arm: they would give no second contrast.

    Raises:
        ValueError: one of them has the predictions of a control or distilled student, see ``_require_different``.
    """
    for number, (digest, student) in enumerate(zip(digests[SMOOTHED], students, strict=True)):
        arm = next((arm for arm in (CONTROL, DISTILLED) if digest in digests[arm]), None)
        if arm and (kind != "classes" or _must_differ(student.test)):
            raise ValueError(
                f"{SMOOTHED}[{number}] must be the predictions of a student with label smoothing. Got the same as "
                f"{arm}[{digests[arm].index(digest)}]. Without such students, omit them: the verdict then makes no "
                "claim about the teacher."
            )


def _must_differ(predictions: Predictions) -> bool:
    """Return whether independent students cannot predict these classes by chance."""
    return int(predictions.wrong.sum()) >= _ENOUGH_ERRORS and len(set(predictions.logits.argmax(dim=1).tolist())) > 1


def _describe_identical(control: Sequence[str], distilled: Sequence[str]) -> list[str]:
    """Return a sentence on pairs with the same predictions, if there are any."""
    equal = sum(first == second for first, second in zip(control, distilled, strict=True))
    if not equal:
        return []
    if equal == len(control):
        return ["Every distilled student has the same predictions as its control."]
    return [f"In {equal} of {len(control)} pairs the distilled student has the same predictions as its control."]


def _advise_order(comparison: Comparison) -> list[str]:
    """Return advice if an arm is at chance level, as with rows in another order than the labels."""
    chance, verdicts = constant_value(BALANCED, comparison.labels), Verdicts(comparison)
    if not any(0 < _NEAR_CHANCE * chance <= fmean(verdicts.values(arm, BALANCED)) for arm in comparison.students):
        return []
    return [
        "Check that the predictions have the same order of items and the same numbers of classes as the labels: an arm "
        "is at chance level."
    ]


def _count_classes(arms: dict[str, list[Tensor]], labels: Tensor, kind: Kind, named: int) -> int:
    if kind != "classes":
        shape = list(arms[CONTROL][0].shape)
        advice = "pass a list of such arrays, one per student, or kind='classes' for predicted classes"
        require(len(shape) == 2 and shape[1] >= 2, "control[0]", shape, "of shape [N, K] with K ≥ 2", advice)
        return shape[1]
    filled = [values for group in arms.values() for values in group if values.numel()]
    largest = max(int(values.max()) for values in (*filled, labels))
    advice = "number the classes from 0, in labels and predictions alike"
    require(largest < _MOST_CLASSES, "the largest class", f"{largest:,}", f"below {_MOST_CLASSES:,}", advice)
    return max(largest + 1, named)


def _to_predictions(name: str, tensor: Tensor, labels: Tensor, kind: Kind, classes: int) -> ModelPredictions:
    """Return predictions as logits; predicted classes become rows of 0 with a 1."""
    if kind == "classes":
        require(list(tensor.shape) == list(labels.shape), name, list(tensor.shape), f"of shape {list(labels.shape)}")
        require(not tensor.is_floating_point(), name, tensor.dtype, "integers", "the numbers of the predicted classes")
        require(int(tensor.min()) >= 0, name, int(tensor.min()), "classes from 0")
        logits = torch.nn.functional.one_hot(tensor.long(), classes).float()
    else:
        shape = [len(labels), classes]
        require(list(tensor.shape) == shape, name, list(tensor.shape), f"of shape {shape}, as the other predictions")
        logits = tensor.double()
        require_finite_logits(name, logits, "Leave out what failed, in both arms.")
        is_small = bool((logits.abs() <= _LARGEST).all())
        require(is_small, name, "larger values", f"at most {_LARGEST:g} in size", "did the training diverge?")
        if kind == "probabilities":
            require_probabilities(name, logits)
            logits = logits.clamp(min=_FLOOR).log()
        else:
            _require_logits(name, logits)
    require_labels(labels, logits)
    predictions = Predictions(logits, labels.long())
    # The test items stand in for validation; nothing is fitted on them.
    return ModelPredictions(predictions, predictions)
