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
    """Outputs for a batch: probabilities [N, K], and score [N] and moments [N, 2] of ``kd.evaluation.unlike``.

    There is no score if logits are not known, and no moments if inputs are tokens.
    """

    probabilities: Tensor
    scores: Tensor | None
    moments: Tensor | None = None


@dataclass(frozen=True)
class Classifier:
    """A trained model, ready for raw inputs.

    Attributes:
        run: maps raw inputs [N, …] of the form to outputs.
        classes: names in label order.
        unlike: limits for inputs unlike the training data; None if they were not measured.
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
        score: maximum logit; None if it is not known.
        unlike: whether the input is unlike the training data (``kd.evaluation.unlike``); None if that is not known.
        reason: why there is no prediction; "" if there is one.
    """

    name: str
    labels: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    score: float | None = None
    unlike: bool | None = None
    reason: str = ""


def predict_items(classifier: Classifier, items: Iterable[Item], *, top: int) -> Iterator[Answer]:
    """Yield the prediction of each item, in order; only one batch of inputs is in memory.

    Args:
        top: number of classes in a prediction, at least 1; all classes if there are fewer.
    """
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, BATCH)):
        usable = [item.values for item in batch if item.values is not None]
        answers = iter(_answer(classifier, torch.stack(usable), top) if usable else [])
        for name, values, reason in batch:
            yield Answer(name, reason=reason) if values is None else next(answers)._replace(name=name)


def _answer(classifier: Classifier, inputs: Tensor, top: int) -> list[Answer]:
    try:
        probabilities, scores, moments = classifier.run(inputs)
    except (IndexError, RuntimeError) as error:  # such as a token that the model does not have, in one of the inputs
        if len(inputs) > 1:
            return [answer for row in inputs for answer in _answer(classifier, row[None], top)]
        return [Answer("", reason=f"the model failed on it ({str(error).splitlines()[0]})")]
    # stable: of equal probabilities, the first class is the prediction, as in a run
    ranked, labels = (values[:, :top].tolist() for values in probabilities.sort(dim=1, descending=True, stable=True))
    unknown: list[None] = [None] * len(inputs)
    flags: list[bool] | list[None] = unknown
    if classifier.unlike is not None and scores is not None:
        flags = classifier.unlike.flag(scores, moments).tolist()
    rows = zip(labels, ranked, unknown if scores is None else scores.tolist(), flags, strict=True)
    return [_make_answer(*row) for row in rows]


def _make_answer(labels: list[int], probabilities: list[float], score: float | None, unlike: bool | None) -> Answer:
    if not math.isfinite(sum(probabilities)):
        return Answer("", reason="the model's output is not finite")
    return Answer("", tuple(labels), tuple(probabilities), score, unlike)
