"""Several teachers as one: their answers averaged, so that one cache of logits serves."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require, require_every_label
from kd.losses.precision import wide

HOWS = ("probabilities", "logits")


def average_logits(
    logits: Sequence[Tensor],
    *,
    how: str = "probabilities",
    temperature: float | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """The logits [N, K] of several teachers on the same items as one teacher's, in float32 or better.

    ``probabilities``: the softened probabilities at the temperature T of the distillation are averaged,

        z = T · log Σₘ wₘ softmax(zₘ / T),   so that   softmax(z / T) = Σₘ wₘ softmax(zₘ / T)

    exactly at that T and at no other: logits for another temperature must be averaged anew. ``logits``:

        z = Σₘ wₘ zₘ,   so that   softmax(z / T) ∝ Πₘ softmax(zₘ / T)^wₘ

    at every T. There a teacher with logits of a larger scale counts for more, and one that is sure a class is wrong
    can veto it; a mean of probabilities leaves it to the weights.

    Args:
        logits: one tensor per teacher, all of one shape, finite, columns in the same order of classes.
        how: ``probabilities`` or ``logits``.
        temperature: T > 0; needed for probabilities, of no effect for logits.
        weights: wₘ ≥ 0, one per teacher, scaled to sum to 1; equal unless given.

    Raises:
        ValueError: any of these does not hold, except that logits are not looked through for what is not finite.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2, "an arithmetic or geometric mean of their
    individual predictive distributions"; the arithmetic one taken at T, as You et al. 2017, "Learning from multiple
    teacher networks", does.
    """
    shares = _shares(weights, len(logits))
    _check(how, temperature, [list(one.shape) for one in logits])
    precise = [wide(one) for one in logits]
    if how == "logits":
        return functools.reduce(operator.add, (w * z for w, z in zip(shares, precise, strict=True)))
    assert temperature is not None
    counted = [(math.log(w), z) for w, z in zip(shares, precise, strict=True) if w > 0]
    return temperature * torch.stack([w + F.log_softmax(z / temperature, dim=1) for w, z in counted]).logsumexp(dim=0)


def confidences(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """[M, N]: how much each of M teachers is to count for each of N items, the more the better it knows the label.

        wₘ = (1 − softmaxₘ(CEₘ)) / (M − 1)

    of the teachers' cross-entropies with the label. They add up to 1 for each item, and no teacher has more than
    1 / (M − 1): the better ones are not told apart by much, and the worst one is left out.

    Args:
        logits: one tensor [N, K] per teacher, at least two.
        labels: [N] int64, of every item.

    Source: Zhang, Chen, Wang 2022, "Confidence-aware multi-teacher knowledge distillation", arXiv:2201.00007,
    equations 2 and 3.
    """
    require(len(logits) >= 2, "the number of teachers", len(logits), "at least 2", "one has all the confidence")
    _check("logits", None, [list(one.shape) for one in logits])
    require_every_label(labels, len(logits[0]))
    precise = [wide(one.detach()) for one in logits]
    losses = torch.stack([F.cross_entropy(one, labels, reduction="none") for one in precise])
    return (1 - losses.softmax(dim=0)) / (len(logits) - 1)


class Ensemble(nn.Module):
    """Teachers that answer as one, as ``average_logits`` does: for ``kd.collect_logits``, ``kd.verify_logits``, …

    Args:
        teachers: at least one; same inputs, same classes in the same order.
        how, temperature, weights: as ``average_logits`` takes them.
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
        _shares(weights, len(teachers))  # a mistake is told now, not at the first batch
        _check(how, temperature, [])

    def forward(self, inputs: Tensor) -> Tensor:
        predictions = [teacher(inputs) for teacher in self.teachers]
        return average_logits(predictions, how=self.how, temperature=self.temperature, weights=self.weights)


def _shares(weights: Sequence[float] | None, teachers: int) -> list[float]:
    require(teachers >= 1, "the number of teachers", teachers, "at least 1")
    given = [1.0] * teachers if weights is None else list(weights)
    require(len(given) == teachers, "weights", given, f"one number for each of {teachers} teachers")
    total = sum(given)
    fits = min(given) >= 0 and 0 < total < math.inf
    require(fits, "weights", given, "finite numbers of at least 0, not all 0", "they are scaled to sum to 1")
    return [weight / total for weight in given]


def _check(how: str, temperature: float | None, shapes: Sequence[list[int]]) -> None:
    require(how in HOWS, "how", how, "'probabilities' or 'logits'")
    if how == "probabilities":
        positive = temperature is not None and 0 < temperature < math.inf
        advice = "the distillation's; an average of probabilities holds at one temperature only"
        require(positive, "temperature", temperature, "a finite number above 0", advice)
    alike = all(shape == shapes[0] and len(shape) == 2 for shape in shapes)
    require(
        alike, "logits of several teachers", shapes, "[items, classes] and of one shape", "same items, same classes"
    )
