"""Where the models of a run differ: kinds of errors, the items worth showing, confused pairs of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kd.arms import ARMS, CONTROL, DISTILLED, OF_A_RUN, STUDENTS, TEACHER

EXAMPLES = 6  # rows of prediction_examples
PLACES = 12  # items in the report's gallery
CLASSES = 12  # shown of one of them; of more, those that a model finds likely


class Illustrations(NamedTuple):
    """The rows of ``prediction_examples``: test items that teach.

    Attributes:
        captions: who errs.
        probabilities: title of a column → [rows, K].
    """

    indices: list[int]
    labels: list[int]
    captions: list[str]
    probabilities: dict[str, Tensor]


class Example(NamedTuple):
    """A test item on which the students' predictions differ.

    Attributes:
        item: its place in the test set.
        kind: who errs.
        classes: labels of those that are shown: all where they are few.
        probabilities: of these classes, by model; ``softened`` is the teacher at the temperature of the distillation.
        likeliest: by model, the two likeliest classes of all and their probabilities.
    """

    item: int
    label: int
    kind: str
    classes: list[int]
    probabilities: dict[str, list[float]]
    likeliest: dict[str, list[tuple[int, float]]]


class Disagreements(NamedTuple):
    """The test items on which control and distilled student predict different classes.

    Attributes:
        kinds: who errs → the number of items; no item counts twice.
        examples: up to PLACES of them: the kinds in turn, and of each those on which the students' probabilities are
            farthest apart.
    """

    items: int
    kinds: dict[str, int]
    examples: list[Example]


class Confusion(NamedTuple):
    """One way to err: images of class ``true`` taken for ``predicted``, by control and distilled student.

    ``mended`` of the control's the distilled student has right; ``new`` of the distilled student's the control has.
    ``teacher`` is the mean probability that the softened teacher gives to ``predicted`` on all images concerned.
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
    """Up to EXAMPLES test images that teach, as (index, what it shows): the kinds take turns, clearest cases first.

    A kind is who errs. Within it the images on which the two students' probabilities are farthest apart come first;
    among those where they agree, the ones on which the teacher is least sure.
    """
    teacher, control, distilled = (wrong[name] for name in OF_A_RUN)
    kinds = {
        "only the control errs": ~teacher & control & ~distilled,
        "only the distilled student errs": ~teacher & ~control & distilled,
        "both students err": ~teacher & control & distilled,
        "the teacher errs": teacher,
    }
    probabilities = {name: values.softmax(dim=1) for name, values in logits.items()}
    distance = (probabilities[CONTROL] - probabilities[DISTILLED]).abs().sum(dim=1)
    clarity = distance - 0.01 * probabilities[TEACHER].amax(dim=1)
    return in_turns(kinds, clarity, places=EXAMPLES)


def in_turns(kinds: Mapping[str, Tensor], clarity: Tensor, *, places: int) -> list[tuple[int, str]]:
    """(index, kind) of so many members at most: the kinds take turns, each with its clearest member left; by kind.

    Args:
        kinds: name → [N] bool, its members.
        clarity: [N], higher is clearer.
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
    """The images of ``choose_examples`` with every model's probabilities, the teacher's also as they were softened."""
    chosen = choose_examples(wrong, logits)
    rows = torch.tensor([index for index, _ in chosen], dtype=torch.long)
    columns = {
        ARMS[TEACHER].label: logits[TEACHER][rows].softmax(dim=1),
        f"{ARMS[TEACHER].label}, softened (T = {temperature:g})": (logits[TEACHER][rows] / temperature).softmax(dim=1),
        **{ARMS[name].label: logits[name][rows].softmax(dim=1) for name in STUDENTS},
    }
    return Illustrations(rows.tolist(), labels[rows].tolist(), [caption for _, caption in chosen], columns)


def disagreement_masks(wrong: Mapping[str, Tensor], predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[N] masks of the test images on which the students' predictions differ, by who errs. No image is in two."""
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
    """Count the items of ``disagreement_masks`` and choose those to show.

    Args:
        temperature: T > 0 of the distillation.
    """
    kinds = {kind: int(member.sum()) for kind, member in masks.items()}
    control, distilled = (logits[name].softmax(dim=1) for name in STUDENTS)
    chosen = in_turns(masks, (control - distilled).abs().sum(dim=1), places=PLACES)
    examples = [_example(index, kind, logits, labels, temperature) for index, kind in chosen]
    return Disagreements(sum(kinds.values()), kinds, examples)


def _example(index: int, kind: str, logits: Mapping[str, Tensor], labels: Tensor, temperature: float) -> Example:
    own = {name: values[index].double() for name, values in logits.items()}
    rows = {
        TEACHER: own[TEACHER].softmax(dim=0),
        "softened": (own[TEACHER] / temperature).softmax(dim=0),
        **{name: own[name].softmax(dim=0) for name in STUDENTS},
    }
    label = int(labels[index])
    classes = classes_shown(rows, label)
    shown = {name: values[classes].tolist() for name, values in rows.items()}
    return Example(index, label, kind, classes, shown, {name: _two_likeliest(row) for name, row in rows.items()})


def _two_likeliest(probabilities: Tensor) -> list[tuple[int, float]]:
    values, classes = probabilities.sort(descending=True, stable=True)
    return list(zip(classes[:2].tolist(), values[:2].tolist(), strict=True))


def classes_shown(rows: Mapping[str, Tensor], label: int) -> list[int]:
    """All classes where there are few; else the true one and those to which a model gives most, CLASSES together.

    Args:
        rows: probabilities [K] by model.
    """
    highest = torch.stack([*rows.values()]).amax(dim=0)
    if len(highest) <= CLASSES:
        return list(range(len(highest)))
    highest[label] = 2.0  # above any probability
    return sorted(highest.topk(CLASSES).indices.tolist())


def confusions_changed(
    change: Tensor, predictions: Mapping[str, Tensor], teacher_logits: Tensor, labels: Tensor, *, temperature: float
) -> list[Confusion]:
    """Every pair of classes that one student confuses more often than the other, the largest differences first.

    Args:
        change: [K, K], errors of the distilled student minus the control's by true and predicted class.
        temperature: T > 0 of the distillation.
    """
    found = [
        confusion(true, predicted, predictions, teacher_logits, labels, temperature=temperature)
        for true, predicted in change.nonzero().tolist()
    ]
    return sorted(found, key=lambda c: (-abs(c.difference), c.true, c.predicted))


def confusion(
    true: int,
    predicted: int,
    predictions: Mapping[str, Tensor],
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
) -> Confusion:
    """Count one pair of classes that at least one student confuses."""
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
