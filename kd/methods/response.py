"""Factories of the methods that learn from logits or labels alone, for the table in ``kd.methods``.

A factory makes an objective for a student, a teacher and one batch; these need nothing of the three. Each objective has
a ``hard`` term, the cross-entropy with the labels, and a ``soft`` one, the method's own, both weighted.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kd.checks import require
from kd.losses import (
    dist_loss,
    dkd_loss,
    kd_loss,
    nkd_loss,
    soft_cross_entropy,
    standardised,
    ttm_loss,
    virtual_logits,
    wsld_loss,
)
from kd.methods.objectives import (
    WrappedObjective,
    distilled,
    require_teacher_logits,
    smoothed,
    supervised,
    supervised_where_labelled,
)
from kd.types import Batch, Objective

# (student logits, batch of input, label, teacher logits) → the method's own loss, weighted.
Soft = Callable[[Tensor, Batch], Tensor]


def kd(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, alpha: float) -> Objective:
    """``alpha · CE + (1 − alpha) · T² · KL``: ``kd.distilled``."""
    return distilled(temperature=temperature, alpha=alpha)


def soft_labels(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, alpha: float) -> Objective:
    """``alpha · CE + (1 − alpha) · T² · soft-label CE``: the gradient of ``kd``, with another number for the loss."""
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the teacher gets 1 - alpha")

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return (1 - alpha) * soft_cross_entropy(logits, batch[2], temperature=temperature)

    return _with_labels(soft, weight=alpha)


def dkd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    warmup: float,
) -> Objective:
    """``CE + dkd_loss``, the latter growing evenly from nothing in the first ``warmup`` of the epochs."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return dkd_loss(logits, batch[2], batch[1], temperature=temperature, alpha=alpha, beta=beta)

    return WarmupObjective(_with_labels(soft), warmup)


def nkd(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, gamma: float) -> Objective:
    """``CE + nkd_loss``."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return nkd_loss(logits, batch[2], batch[1], temperature=temperature, gamma=gamma)

    return _with_labels(soft)


def dist(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, beta: float, gamma: float
) -> Objective:
    """``CE + dist_loss``."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return dist_loss(logits, batch[2], temperature=temperature, beta=beta, gamma=gamma)

    return _with_labels(soft)


def lskd(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, hard: float, soft: float
) -> Objective:
    """``hard · CE + soft · T² · KL`` of standardised logits; the labels are compared with the logits as they are."""
    weight = soft

    def softened(logits: Tensor, batch: Batch) -> Tensor:
        return weight * kd_loss(standardised(logits), standardised(batch[2]), temperature=temperature)

    return _with_labels(softened, weight=hard)


def lskd_dkd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    temperature: float,
    hard: float,
    alpha: float,
    beta: float,
    warmup: float,
) -> Objective:
    """``hard · CE + dkd_loss`` of standardised logits, the latter warmed up as in ``dkd``."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        own, other = standardised(logits), standardised(batch[2])
        return dkd_loss(own, other, batch[1], temperature=temperature, alpha=alpha, beta=beta)

    return WarmupObjective(_with_labels(soft, weight=hard), warmup)


def ttm(student: nn.Module, teacher: nn.Module, batch: Batch, *, gamma: float, soft: float) -> Objective:
    """``CE + soft · ttm_loss``."""
    return _with_labels(_transformed(gamma, soft, weighted=False))


def wttm(student: nn.Module, teacher: nn.Module, batch: Batch, *, gamma: float, soft: float) -> Objective:
    """``CE + soft · ttm_loss`` with each sample weighted by how unsure the teacher is of it."""
    return _with_labels(_transformed(gamma, soft, weighted=True))


def wsld(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, soft: float) -> Objective:
    """``CE + soft · wsld_loss``."""
    weight = soft

    def weighted(logits: Tensor, batch: Batch) -> Tensor:
        return weight * wsld_loss(logits, batch[2], batch[1], temperature=temperature)

    return _with_labels(weighted)


def label_smoothing(student: nn.Module, teacher: nn.Module, batch: Batch, *, smoothing: float) -> Objective:
    """Cross-entropy with smoothed labels, a control without a teacher: ``kd.methods.objectives.smoothed``."""
    return smoothed(smoothing=smoothing)


def teacher_free(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, correct: float, temperature: float, alpha: float
) -> Objective:
    """``kd`` from a virtual teacher who knows the labels and nothing else: a control. The true teacher is not asked."""
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the virtual teacher gets the rest")

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, terms = supervised(model, batch)
        virtual = virtual_logits(batch[1], output, correct=correct)
        soft = kd_loss(output, virtual, temperature=temperature)
        return output, {"hard": alpha * terms["hard"], "soft": (1 - alpha) * soft}

    return objective


class WarmupObjective(WrappedObjective):
    """An objective all of whose terms but the ``hard`` one grow evenly from nothing to their full weight.

    Args:
        share: of the epochs in which they grow, in [0, 1]; 0 gives them their full weight at once.
    """

    def __init__(self, objective: Objective, share: float) -> None:
        super().__init__(objective)
        require(0 <= share <= 1, "warmup", share, "in [0, 1], a share of the epochs")
        self.share = share
        self._weight = 1.0

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Take the weight of this epoch, counted from 0."""
        super().set_epoch(epoch, epochs)
        self._weight = min(1.0, (epoch + 1) / (self.share * epochs)) if self.share else 1.0

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, terms = self.objective(model, batch)
        return output, {name: term if name == "hard" else self._weight * term for name, term in terms.items()}


def _with_labels(soft: Soft, *, weight: float = 1.0) -> Objective:
    """``weight`` · cross-entropy with the labels, and the method's own loss."""

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        output, terms = supervised_where_labelled(model, batch)
        return output, {"hard": weight * terms["hard"], "soft": soft(output, batch)}

    return objective


def _transformed(gamma: float, weight: float, *, weighted: bool) -> Soft:
    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return weight * ttm_loss(logits, batch[2], gamma=gamma, weighted=weighted)

    return soft
