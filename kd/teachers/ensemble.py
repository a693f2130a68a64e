"""Ensembles of teachers as a single model, whose averaged logits can be cached."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require, require_every_label
from kd.losses.precision import widen
from kd.models.inference import run_on_copy
from kd.models.outputs import require_logits_at_first

HOWS = ("probabilities", "logits")


def average_logits(
    logits: Sequence[Tensor],
    *,
    how: str = "probabilities",
    temperature: float | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Average the logits [N, K] of several teachers on the same samples, in float32 or higher precision.

    ``probabilities`` averages the softened probabilities at the distillation temperature T:

        z = T · log Σₘ wₘ softmax(zₘ / T),   so that   softmax(z / T) = Σₘ wₘ softmax(zₘ / T).

    This holds at that T only; a different temperature requires a different average. ``logits`` averages the logits:

        z = Σₘ wₘ zₘ,   so that   softmax(z / T) ∝ Πₘ softmax(zₘ / T)^wₘ

    at every T. A mean of logits gives more influence to teachers with larger logits, and a single teacher can rule
    out a class. In a mean of probabilities, the weights alone determine the influence.

    Args:
        logits: one tensor per teacher, equal in shape, finite, with the same class order.
        how: ``probabilities`` or ``logits``.
        temperature: T > 0; required for probabilities, ignored for logits.
        weights: wₘ ≥ 0, one per teacher, scaled to sum to 1; defaults to equal weights.

    Raises:
        ValueError: an argument violates these conditions. Logits are not checked for non-finite values.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2, "an arithmetic or geometric mean of their
    individual predictive distributions". The arithmetic mean at T is also used by You et al. 2017, "Learning from
    multiple teacher networks".
    """
    shares = _normalise_weights(weights, len(logits))
    _check_arguments(how, temperature, [list(z.shape) for z in logits])
    wide_logits = [widen(z) for z in logits]
    if how == "logits":
        return functools.reduce(operator.add, (w * z for w, z in zip(shares, wide_logits, strict=True)))
    assert temperature is not None
    terms = [(math.log(w), z) for w, z in zip(shares, wide_logits, strict=True) if w > 0]  # log 0 is undefined
    return temperature * torch.stack([w + F.log_softmax(z / temperature, dim=1) for w, z in terms]).logsumexp(dim=0)


def confidences(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return weights [M, N] of M teachers for N samples; a smaller cross-entropy gives a larger weight:

        wₘ = (1 − softmaxₘ(CEₘ)) / (M − 1)

    where CEₘ is the cross-entropy of teacher m with the label. Weights sum to 1 per sample and do not exceed
    1 / (M − 1). This mainly excludes the worst teacher and hardly distinguishes the better ones.

    Args:
        logits: one tensor [N, K] per teacher, at least two.
        labels: [N] int64, without missing labels.

    Source: Zhang, Chen, Wang 2022, "Confidence-aware multi-teacher knowledge distillation", arXiv:2201.00007,
    equations 2 and 3.
    """
    require(len(logits) >= 2, "the number of teachers", len(logits), "at least 2", "a single teacher has weight 1")
    _check_arguments("logits", None, [list(z.shape) for z in logits])
    require_every_label(labels, *logits[0].shape)
    wide_logits = [widen(z.detach()) for z in logits]
    losses = torch.stack([F.cross_entropy(z, labels, reduction="none") for z in wide_logits])
    return (1 - losses.softmax(dim=0)) / (len(logits) - 1)


class Ensemble(nn.Module):
    """Several teachers as one model that returns their ``average_logits``.

    Args:
        teachers: at least one; all with the same inputs and the same class order.
        how, temperature, weights: see ``average_logits``.

    Raises:
        ValueError: an argument is invalid, or the first outputs of a teacher are probabilities instead of logits.
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        *,
        how: str = "probabilities",
        temperature: float | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.how, self.temperature, self.weights = how, temperature, weights
        _normalise_weights(weights, len(teachers))  # fail now, not at the first batch
        _check_arguments(how, temperature, [])

    def forward(self, inputs: Tensor) -> Tensor:
        predictions = [run_on_copy(teacher, inputs) for teacher in self.teachers]
        for number, (teacher, logits) in enumerate(zip(self.teachers, predictions, strict=True), start=1):
            require_logits_at_first(f"outputs of teacher {number} of the ensemble", logits, teacher, inputs)
        return average_logits(predictions, how=self.how, temperature=self.temperature, weights=self.weights)


def _normalise_weights(weights: Sequence[float] | None, teachers: int) -> list[float]:
    require(teachers >= 1, "the number of teachers", teachers, "at least 1")
    values = [1.0] * teachers if weights is None else list(weights)
    require(len(values) == teachers, "weights", values, f"one number for each of {teachers} teachers")
    total = sum(values)
    valid = min(values) >= 0 and 0 < total < math.inf
    require(valid, "weights", values, "finite numbers of at least 0, not all 0", "they are scaled to sum to 1")
    return [weight / total for weight in values]


def _check_arguments(how: str, temperature: float | None, shapes: Sequence[list[int]]) -> None:
    require(how in HOWS, "how", how, "'probabilities' or 'logits'")
    if how == "probabilities":
        positive = temperature is not None and 0 < temperature < math.inf
        advice = "the distillation temperature; an average of probabilities holds at one temperature only"
        require(positive, "temperature", temperature, "a finite number above 0", advice)
    equal = all(shape == shapes[0] and len(shape) == 2 for shape in shapes)
    allowed = "[samples, classes] and equal in shape"
    require(equal, "logits of several teachers", shapes, allowed, "same samples, same classes")
