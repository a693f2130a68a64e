"""Agreement of logits and labels: detects logits at chance level and a wrong class order.

This is the only check for precomputed logits whose teacher is not available.
"""

from __future__ import annotations

from typing import NamedTuple

from kd.checks import require_labels, require_logits
from kd.console import say
from kd.evaluation.metrics import confusion_matrix
from kd.models.inference import Predictions

NOT_VERIFIED = (
    "Without the teacher, nothing else can be verified: rows swapped within a class, or rows from several teachers, "
    "would go unnoticed"
)


class Agreement(NamedTuple):
    """Agreement of logits with labels.

    Attributes:
        accuracy: fraction of samples whose largest logit is the label, in [0, 1].
        chance: expected accuracy if the predictions are randomly permuted among the samples.
        spread: standard deviation of the accuracy under permutation.
        best: cross-validated accuracy of the best class order: fitted on each half of the samples, evaluated on the
            other, because some order fits few samples by chance.
        columns: the class order that fits all samples best: class k is column ``columns[k]``.
    """

    accuracy: float
    chance: float
    spread: float
    best: float
    columns: list[int]

    @property
    def at_chance(self) -> bool:
        """Whether the accuracy is below 1 and at most three standard deviations above chance."""
        return self.accuracy < 1 and self.accuracy <= self.chance + 3 * self.spread + 1e-9  # tolerance for rounding


def measure_agreement(predictions: Predictions) -> Agreement:
    """Compare the accuracy with chance level and with the accuracy under the best class order.

    Raises:
        ValueError: the logits are not [N, K] and finite, or a label is not one of their columns.

    Source of the spread: Fleiss, Cohen, Everitt 1969, "Large sample standard errors of kappa and weighted kappa", the
    variance of the observed agreement under chance agreement.
    """
    from scipy.optimize import linear_sum_assignment  # imported late: needed for users' own teachers only

    require_logits("teacher logits", predictions.logits)
    require_labels(predictions.labels, predictions.logits)
    by_class = predictions.labels.argsort(stable=True)  # each half gets half of each class
    halves = [
        confusion_matrix(predictions.logits[rows], predictions.labels[rows]).double()
        for rows in (by_class[::2], by_class[1::2])
    ]
    counts = halves[0] + halves[1]
    n = float(counts.sum())
    true, predicted = counts.sum(dim=1) / n, counts.sum(dim=0) / n
    chance = float(true @ predicted)
    variance = (chance + chance**2 - float((true * predicted * (true + predicted)).sum())) / n
    orders = [linear_sum_assignment(matrix.numpy(), maximize=True) for matrix in (counts, *halves)]
    best = float(halves[1][orders[1]].sum() + halves[0][orders[2]].sum()) / n
    columns = orders[0][1].tolist()
    return Agreement(float(counts.trace()) / n, chance, max(variance, 0.0) ** 0.5, best, columns)


def explain_doubt(agreement: Agreement) -> str | None:
    """Return why the logits probably do not match the data, with a remedy; None if they look right."""
    # A different class order is suggested only if it fits well: at least halfway between chance and 1.
    halfway = (1 + agreement.chance) / 2
    if agreement.best > halfway and agreement.best > agreement.accuracy + 0.1:
        moved = [f"{column} for class {k}" for k, column in enumerate(agreement.columns) if column != k]
        return (
            f"its class order probably differs from the data's: taking output {', '.join(moved[:3])}"
            f"{' and so on' * (len(moved) > 3)} would give {agreement.best:.1%}. Pass label_order "
            "(--label-order), the class names in the order of the teacher"
        )
    if agreement.at_chance:
        return (
            f"that is chance level ({agreement.chance:.1%} ± {agreement.spread:.1%}). Check the order of rows and "
            "classes, and that inputs are normalised like the training data of the teacher"
        )
    return None


def verify_without_teacher(predictions: Predictions, *, name: str) -> Agreement:
    """Check precomputed logits against the labels, and print their accuracy and the limits of this check.

    Args:
        name: name of the logits in messages.

    Raises:
        ValueError: the logits are not [N, K] and finite, are at chance level, or fit only in a different class order.
    """
    agreement = measure_agreement(predictions)
    accuracy = f"{name}: accuracy {agreement.accuracy:.1%} on {len(predictions.labels):,} samples"
    if reason := explain_doubt(agreement):
        raise ValueError(f"{accuracy}; {reason.removesuffix('.')}.")
    say(f"{accuracy} (chance {agreement.chance:.1%}). {NOT_VERIFIED}.")
    return agreement
