"""Predictions of a trained model for single inputs: the most probable classes, and whether an input looks unlike the
training data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kd.deploy.inputs import Item
from kd.deploy.rows import InputForm
from kd.evaluation.unlike import Unlike

BATCH = 128  # inputs at once; the batch size of a run's evaluation by default, so that both round alike


class Outputs(NamedTuple):
    """Outputs for a batch: probabilities [N, K], and the score [N] of ``kd.evaluation.unlike`` if logits are known."""

    probabilities: Tensor
    scores: Tensor | None


@dataclass(frozen=True)
class Classifier:
    """A trained model, ready for raw inputs.

    Attributes:
        run: maps raw inputs [N, …] of the form to outputs.
        classes: names in label order.
        unlike: threshold of the score; None if it was not measured.
    """

    run: Callable[[Tensor], Outputs]
    form: InputForm
    classes: tuple[str, ...]
    unlike: Unlike | None = None


class Answer(NamedTuple):
    """The prediction for an input.

    Attributes:
        name: of the input.
        labels: the most probable classes as numbers from 0, most probable first; empty if there is no prediction.
        probabilities: of these classes.
        score: see ``kd.evaluation.unlike``; None if there is no prediction.
        unlike: whether the score is below the threshold; None if that is not known.
        reason: why there is no prediction; "" if there is one.
    """

    name: str
    labels: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    score: float | None = None
    unlike: bool | None = None
    reason: str = ""


def predict_items(classifier: Classifier, items: Iterable[Item], *, top: int) -> Iterator[Answer]:
    """Yield an answer for each item, in their order; only one batch of inputs is in memory.

    Args:
        top: number of classes in an answer, at least 1; all of them if there are fewer.
    """
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, BATCH)):
        usable = [item.values for item in batch if item.values is not None]
        answers = iter(_answer(classifier, torch.stack(usable), top) if usable else [])
        for name, values, reason in batch:
            yield Answer(name, reason=reason) if values is None else next(answers)._replace(name=name)


def _answer(classifier: Classifier, inputs: Tensor, top: int) -> list[Answer]:
    try:
        probabilities, scores = classifier.run(inputs)
    except (IndexError, RuntimeError) as error:  # such as a token that the model does not have, in one of the inputs
        if len(inputs) > 1:
            return [answer for row in inputs for answer in _answer(classifier, row[None], top)]
        return [Answer("", reason=f"the model failed on it ({str(error).splitlines()[0]})")]
    # stable: of equal probabilities, the first class is the prediction, as in a run
    ranked, labels = (values[:, :top].tolist() for values in probabilities.sort(dim=1, descending=True, stable=True))
    score_of = [None] * len(inputs) if scores is None else scores.tolist()
    return [_make_answer(classifier, *row) for row in zip(labels, ranked, score_of, strict=True)]


def _make_answer(classifier: Classifier, labels: list[int], probabilities: list[float], score: float | None) -> Answer:
    if not math.isfinite(sum(probabilities)):
        return Answer("", reason="the model's output is not finite")
    threshold = classifier.unlike
    unlike = None if score is None or threshold is None else threshold.contains(score)
    return Answer("", tuple(labels), tuple(probabilities), score, unlike)
