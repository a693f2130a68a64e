"""Factories of the methods that use only logits or labels, for the table in ``kd.methods``.

A factory builds an objective from a student, a teacher and an example batch; these factories ignore all three. Each
objective has two weighted terms: ``hard``, the cross-entropy with the labels, and ``soft``, the method's loss.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kd.checks import require
from kd.losses import (
    dist_loss,
    divergence_loss,
    dkd_loss,
    kd_loss,
    nkd_loss,
    rld_loss,
    soft_cross_entropy,
    standardised,
    ttm_loss,
    virtual_logits,
    wsld_loss,
)
from kd.losses.divergence import parse_divergence
from kd.methods.objectives import (
    WrappedObjective,
    distilled,
    require_teacher_logits,
    smoothed,
    supervised,
    supervised_where_labelled,
)
from kd.types import Batch, Objective

# (student logits, batch of input, label, teacher logits) → the method's weighted loss.
Soft = Callable[[Tensor, Batch], Tensor]


def kd(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, alpha: float, divergence: str
) -> Objective:
    """``alpha · CE + (1 − alpha) · T² · KL``, which is ``kd.distilled``, or with another divergence than KL."""
    objective = distilled(temperature=temperature, alpha=alpha)  # also checks the settings
    if divergence == "forward":
        return objective
    parse_divergence(divergence)

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return (1 - alpha) * divergence_loss(logits, batch[2], temperature=temperature, divergence=divergence)

    return _add_label_loss(soft, weight=alpha)


def soft_labels(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, alpha: float) -> Objective:
    """``alpha · CE + (1 − alpha) · T² · soft-label CE``: same gradient as ``kd``, different value of the loss."""
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the teacher gets 1 - alpha")

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return (1 - alpha) * soft_cross_entropy(logits, batch[2], temperature=temperature)

    return _add_label_loss(soft, weight=alpha)


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
    """``CE + dkd_loss``, with a linear warm-up of the latter over the fraction ``warmup`` of the epochs."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return dkd_loss(logits, batch[2], batch[1], temperature=temperature, alpha=alpha, beta=beta)

    return WarmupObjective(_add_label_loss(soft), warmup)


def nkd(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, gamma: float) -> Objective:
    """``CE + nkd_loss``."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return nkd_loss(logits, batch[2], batch[1], temperature=temperature, gamma=gamma)

    return _add_label_loss(soft)


def rld(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    temperature: float,
    confidence_temperature: float,
    alpha: float,
    beta: float,
    warmup: float,
) -> Objective:
    """``CE + rld_loss``, with the warm-up of ``dkd``."""
    settings = {"confidence_temperature": confidence_temperature, "alpha": alpha, "beta": beta}

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return rld_loss(logits, batch[2], batch[1], temperature=temperature, **settings)

    return WarmupObjective(_add_label_loss(soft), warmup)


def dist(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, beta: float, gamma: float
) -> Objective:
    """``CE + dist_loss``."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return dist_loss(logits, batch[2], temperature=temperature, beta=beta, gamma=gamma)

    return _add_label_loss(soft)


def lskd(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, hard: float, soft: float
) -> Objective:
    """``hard · CE + soft · T² · KL``; only the logits in KL are standardised."""
    weight = soft

    def softened(logits: Tensor, batch: Batch) -> Tensor:
        return weight * kd_loss(standardised(logits), standardised(batch[2]), temperature=temperature)

    return _add_label_loss(softened, weight=hard)


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
    """``hard · CE + dkd_loss`` of standardised logits, with the warm-up of ``dkd``."""

    def soft(logits: Tensor, batch: Batch) -> Tensor:
        student_logits, teacher_logits = standardised(logits), standardised(batch[2])
        return dkd_loss(student_logits, teacher_logits, batch[1], temperature=temperature, alpha=alpha, beta=beta)

    return WarmupObjective(_add_label_loss(soft, weight=hard), warmup)


def ttm(student: nn.Module, teacher: nn.Module, batch: Batch, *, gamma: float, soft: float) -> Objective:
    """``CE + soft · ttm_loss``."""
    return _add_label_loss(_make_ttm_term(gamma, soft, weighted=False))


def wttm(student: nn.Module, teacher: nn.Module, batch: Batch, *, gamma: float, soft: float) -> Objective:
    """``CE + soft · ttm_loss``, with each sample weighted by the teacher's uncertainty."""
    return _add_label_loss(_make_ttm_term(gamma, soft, weighted=True))


def wsld(student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float, soft: float) -> Objective:
    """``CE + soft · wsld_loss``."""
    weight = soft

    def weighted(logits: Tensor, batch: Batch) -> Tensor:
        return weight * wsld_loss(logits, batch[2], batch[1], temperature=temperature)

    return _add_label_loss(weighted)


def label_smoothing(student: nn.Module, teacher: nn.Module, batch: Batch, *, smoothing: float) -> Objective:
    """Cross-entropy with smoothed labels, a control without a teacher: ``kd.methods.objectives.smoothed``."""
    return smoothed(smoothing=smoothing)


def teacher_free(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, correct: float, temperature: float, alpha: float
) -> Objective:
    """``kd`` from a virtual teacher that is derived from the labels: a control. The real teacher is not used."""
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the virtual teacher gets the rest")

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, terms = supervised(model, batch)
        virtual = virtual_logits(batch[1], output, correct=correct)
        soft = kd_loss(output, virtual, temperature=temperature)
        return output, {"hard": alpha * terms["hard"], "soft": (1 - alpha) * soft}

    return objective


class WarmupObjective(WrappedObjective):
    """An objective with a linear warm-up of all its terms except ``hard``.

    Args:
        objective: the wrapped objective.
        share: fraction of the epochs for the warm-up, in [0, 1]; 0 disables it.
    """

    def __init__(self, objective: Objective, share: float) -> None:
        super().__init__(objective)
        require(0 <= share <= 1, "warmup", share, "in [0, 1], a fraction of the epochs")
        self.share = share
        self._weight = 1.0

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weight of this epoch (the first is 0)."""
        super().set_epoch(epoch, epochs)
        self._weight = min(1.0, (epoch + 1) / (self.share * epochs)) if self.share else 1.0

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, terms = self.objective(model, batch)
        return output, {name: term if name == "hard" else self._weight * term for name, term in terms.items()}


def _add_label_loss(soft: Soft, *, weight: float = 1.0) -> Objective:
    """Return the objective with the terms ``weight`` · cross-entropy with the labels and ``soft``."""

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        output, terms = supervised_where_labelled(model, batch)
        return output, {"hard": weight * terms["hard"], "soft": soft(output, batch)}

    return objective


def _make_ttm_term(gamma: float, weight: float, *, weighted: bool) -> Soft:
    def soft(logits: Tensor, batch: Batch) -> Tensor:
        return weight * ttm_loss(logits, batch[2], gamma=gamma, weighted=weighted)

    return soft
