"""Test samples on which the models of a run differ: kinds of errors, examples to show, confused pairs of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kd.arms import ARMS, CONTROL, DISTILLED, RUN_ARMS, STUDENTS, TEACHER

EXAMPLES = 6  # rows of prediction_examples
PLACES = 12  # examples in the report's gallery
CLASSES = 12  # maximum number of classes shown for an example


class Illustrations(NamedTuple):
    """The rows of ``prediction_examples``: test samples that show how the models differ.

    Attributes:
        indices: positions in the test set.
        captions: which models are wrong.
        probabilities: column title → [rows, K].
    """

    indices: list[int]
    labels: list[int]
    captions: list[str]
    probabilities: dict[str, Tensor]


class Example(NamedTuple):
    """A test sample on which the students' predictions differ.

    Attributes:
        item: index in the test set.
        kind: which students are wrong.
        classes: labels of the classes shown: all classes, or the likeliest CLASSES.
        probabilities: probabilities of these classes, by model; ``softened`` are the teacher's at the distillation
            temperature.
        likeliest: the two likeliest of all classes and their probabilities, by model.
    """

    item: int
    label: int
    kind: str
    classes: list[int]
    probabilities: dict[str, list[float]]
    likeliest: dict[str, list[tuple[int, float]]]


class Disagreements(NamedTuple):
    """The test samples on which control and distilled student predict different classes.

    Attributes:
        items: number of these samples.
        kinds: number of samples for each kind of error; the kinds are disjoint.
        examples: up to PLACES samples, from each kind in turn; samples on which the students' probabilities differ
            most come first.
    """

    items: int
    kinds: dict[str, int]
    examples: list[Example]


class Confusion(NamedTuple):
    """One confusion: images of class ``true`` classified as ``predicted`` by the control or the distilled student.

    Attributes:
        control, distilled: errors of this kind by each student.
        mended: errors of the control on which the distilled student is right.
        new: errors of the distilled student on which the control is right.
        teacher: mean softened teacher probability of ``predicted`` on all images for which
            either student makes this error.
    """

    true: int
    predicted: int
    control: int
    distilled: int
    mended: int
    new: int
    teacher: float

    @property
    def difference(self) -> int:
        """Errors of the distilled student minus the control's."""
        return self.distilled - self.control


def choose_examples(wrong: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> list[tuple[int, str]]:
    """Choose up to EXAMPLES test images, as (index, kind), from each kind in turn, clearest cases first.

    A kind states which models are wrong. Within a kind, images on which the students' probabilities differ most come
    first; the teacher's uncertainty breaks ties.
    """
    teacher, control, distilled = (wrong[name] for name in RUN_ARMS)
    kinds = {
        "only the control errs": ~teacher & control & ~distilled,
        "only the distilled student errs": ~teacher & ~control & distilled,
        "both students err": ~teacher & control & distilled,
        "the teacher errs": teacher,
    }
    probabilities = {name: values.softmax(dim=1) for name, values in logits.items()}
    distance = (probabilities[CONTROL] - probabilities[DISTILLED]).abs().sum(dim=1)
    clarity = distance - 0.01 * probabilities[TEACHER].amax(dim=1)
    return take_turns(kinds, clarity, places=EXAMPLES)


def take_turns(kinds: Mapping[str, Tensor], clarity: Tensor, *, places: int) -> list[tuple[int, str]]:
    """Choose up to ``places`` members, as (index, kind), from each kind in turn, clearest first; sort them by kind.

    Args:
        kinds: members of each kind, [N] bool.
        clarity: [N]; higher is clearer.
    """
    ranked = {
        kind: sorted(member.nonzero().flatten().tolist(), key=lambda i: -float(clarity[i]))
        for kind, member in kinds.items()
    }
    turns = [(rank, kind) for rank in range(places) for kind in kinds if rank < len(ranked[kind])]
    chosen = [(ranked[kind][rank], kind) for rank, kind in turns[:places]]
    order = list(kinds)
    return sorted(chosen, key=lambda example: order.index(example[1]))


def illustrate(
    wrong: Mapping[str, Tensor], logits: Mapping[str, Tensor], labels: Tensor, *, temperature: float
) -> Illustrations:
    """Return the images of ``choose_examples`` with all models' probabilities, and the teacher's softened by T."""
    examples = choose_examples(wrong, logits)
    rows = torch.tensor([index for index, _ in examples], dtype=torch.long)
    columns = {
        ARMS[TEACHER].label: logits[TEACHER][rows].softmax(dim=1),
        f"{ARMS[TEACHER].label}, softened (T = {temperature:g})": (logits[TEACHER][rows] / temperature).softmax(dim=1),
        **{ARMS[name].label: logits[name][rows].softmax(dim=1) for name in STUDENTS},
    }
    return Illustrations(rows.tolist(), labels[rows].tolist(), [caption for _, caption in examples], columns)


def disagreement_masks(wrong: Mapping[str, Tensor], predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return disjoint masks [N] of the test images on which the students' predictions differ, by kind of error."""
    control, distilled = (wrong[name] for name in STUDENTS)
    differ = predictions[CONTROL] != predictions[DISTILLED]
    return {
        "only the control errs": differ & control & ~distilled,
        "only the distilled student errs": differ & ~control & distilled,
        "both err, differently": differ & control & distilled,
    }


def find_disagreements(
    masks: Mapping[str, Tensor], logits: Mapping[str, Tensor], labels: Tensor, *, temperature: float
) -> Disagreements:
    """Count the samples of ``disagreement_masks`` and choose examples.

    Args:
        temperature: T > 0 of the distillation.
    """
    kinds = {kind: int(member.sum()) for kind, member in masks.items()}
    control, distilled = (logits[name].softmax(dim=1) for name in STUDENTS)
    chosen = take_turns(masks, (control - distilled).abs().sum(dim=1), places=PLACES)
    examples = [_make_example(index, kind, logits, labels, temperature) for index, kind in chosen]
    return Disagreements(sum(kinds.values()), kinds, examples)


def _make_example(index: int, kind: str, logits: Mapping[str, Tensor], labels: Tensor, temperature: float) -> Example:
    logits_of = {name: values[index].double() for name, values in logits.items()}
    rows = {
        TEACHER: logits_of[TEACHER].softmax(dim=0),
        "softened": (logits_of[TEACHER] / temperature).softmax(dim=0),
        **{name: logits_of[name].softmax(dim=0) for name in STUDENTS},
    }
    label = int(labels[index])
    classes = choose_classes(rows, label)
    probabilities = {name: row[classes].tolist() for name, row in rows.items()}
    likeliest = {name: _find_two_likeliest(row) for name, row in rows.items()}
    return Example(index, label, kind, classes, probabilities, likeliest)


def _find_two_likeliest(probabilities: Tensor) -> list[tuple[int, float]]:
    values, classes = probabilities.sort(descending=True, stable=True)
    return list(zip(classes[:2].tolist(), values[:2].tolist(), strict=True))


def choose_classes(rows: Mapping[str, Tensor], label: int) -> list[int]:
    """Return all labels if there are at most CLASSES; else the true label and the most probable others.

    Args:
        rows: probabilities [K] by model; a class is ranked by its highest probability.
    """
    highest = torch.stack([*rows.values()]).amax(dim=0)
    if len(highest) <= CLASSES:
        return list(range(len(highest)))
    highest[label] = 2.0  # above any probability
    return sorted(highest.topk(CLASSES).indices.tolist())


def count_confusions(
    change: Tensor, predictions: Mapping[str, Tensor], teacher_logits: Tensor, labels: Tensor, *, temperature: float
) -> list[Confusion]:
    """Return the pairs of classes on which the students' error counts differ, largest differences first.

    Args:
        change: [K, K], errors of the distilled student minus the control's, by true and predicted class.
        temperature: T > 0 of the distillation.
    """
    confusions = [
        count_confusion(true, predicted, predictions, teacher_logits, labels, temperature=temperature)
        for true, predicted in change.nonzero().tolist()
    ]
    return sorted(confusions, key=lambda c: (-abs(c.difference), c.true, c.predicted))


def count_confusion(
    true: int,
    predicted: int,
    predictions: Mapping[str, Tensor],
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
) -> Confusion:
    """Count both students' errors on a pair of classes that at least one student confuses."""
    of_class = labels == true
    control, distilled = (of_class & (predictions[name] == predicted) for name in STUDENTS)
    softened = (teacher_logits[control | distilled].double() / temperature).softmax(dim=1)[:, predicted]
    return Confusion(
        true,
        predicted,
        int(control.sum()),
        int(distilled.sum()),
        int((control & (predictions[DISTILLED] == labels)).sum()),
        int((distilled & (predictions[CONTROL] == labels)).sum()),
        float(softened.mean()),
    )
