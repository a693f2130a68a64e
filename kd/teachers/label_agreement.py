"""Whether answers can belong to these labels: better than chance, and with their classes in the data's order.

What nobody can recompute, because its teacher is elsewhere, can still be held against the labels.
"""

from __future__ import annotations

from typing import NamedTuple

from kd.checks import require_labels, require_logits
from kd.console import say
from kd.evaluation.metrics import confusion_matrix
from kd.models.inference import Predictions

NOT_VERIFIED = (
    "There is no teacher to ask, so this is all that can be verified: that rows of one class are not exchanged among "
    "themselves, and that all come from one teacher, cannot"
)


class Agreement(NamedTuple):
    """Answers held against labels.

    Attributes:
        accuracy: share of items whose largest logit is the label's, in [0, 1].
        chance: what it would be on average, were the same answers given to the items in random order.
        spread: its standard deviation then.
        best: what it would be with the classes in another order: the one that fits each half of the items best, judged
            by the other half. Of few items some order fits all by chance.
        columns: the order that fits all items best: class k is answered for by column ``columns[k]``.
    """

    accuracy: float
    chance: float
    spread: float
    best: float
    columns: list[int]

    @property
    def at_chance(self) -> bool:
        """Not more than three standard deviations above what random order gives, and not all right."""
        return self.accuracy < 1 and self.accuracy <= self.chance + 3 * self.spread + 1e-9  # rounding


def measure_agreement(predictions: Predictions) -> Agreement:
    """Accuracy, and what it would be for answers in random order or with classes in another one.

    Raises:
        ValueError: the logits are not [N, K] and finite, or a label is none of their columns.

    Source of the spread: Fleiss, Cohen, Everitt 1969, "Large sample standard errors of kappa and weighted kappa", the
    variance of the observed agreement where there is none but by chance.
    """
    from scipy.optimize import linear_sum_assignment  # here: only own data needs it

    require_logits("teacher logits", predictions.logits)
    require_labels(predictions.labels, predictions.logits)
    by_class = predictions.labels.argsort(stable=True)  # so that each half has half of each class
    halves = [
        confusion_matrix(predictions.logits[rows], predictions.labels[rows]).double()
        for rows in (by_class[::2], by_class[1::2])
    ]
    counts = halves[0] + halves[1]
    n = float(counts.sum())
    true, answered = counts.sum(dim=1) / n, counts.sum(dim=0) / n
    chance = float(true @ answered)
    variance = (chance + chance**2 - float((true * answered * (true + answered)).sum())) / n
    orders = [linear_sum_assignment(matrix.numpy(), maximize=True) for matrix in (counts, *halves)]
    best = float(halves[1][orders[1]].sum() + halves[0][orders[2]].sum()) / n
    columns = orders[0][1].tolist()
    return Agreement(float(counts.trace()) / n, chance, max(variance, 0.0) ** 0.5, best, columns)


def explain_doubt(found: Agreement) -> str | None:
    """Why these answers are probably not what they are taken for, and what to do; None where nothing speaks for it."""
    # It has to fit well: halfway from chance to 1.
    halfway = (1 + found.chance) / 2
    if found.best > halfway and found.best > found.accuracy + 0.1:
        moved = [f"{column} for class {k}" for k, column in enumerate(found.columns) if column != k]
        return (
            f"its classes are probably in another order than the data's: taking output {', '.join(moved[:3])}"
            f"{' and so on' * (len(moved) > 3)} would make it {found.best:.1%}. Give label_order, the names of the "
            "classes in the teacher's order"
        )
    if found.at_chance:
        return (
            f"that is chance level ({found.chance:.1%} ± {found.spread:.1%}). Are rows or classes in another order, or "
            "are the inputs normalised otherwise than the teacher's training data?"
        )
    return None


def verify_without_teacher(predictions: Predictions, *, name: str) -> Agreement:
    """Hold logits that came without their teacher against the labels; say what was found, and what cannot be verified.

    Args:
        name: what is verified, for messages.

    Raises:
        ValueError: the logits are not [N, K] and finite, fit no better than chance, or only with other classes' labels.
    """
    found = measure_agreement(predictions)
    right = f"{name}: {found.accuracy:.1%} right on {len(predictions.labels):,} items"
    if reason := explain_doubt(found):
        raise ValueError(f"{right}, and {reason.removesuffix('.')}.")
    say(f"{right}, measured now; in random order it would be {found.chance:.1%}. {NOT_VERIFIED}.")
    return found
