"""Losses of logits [B, K]: student's, teacher's, and labels [B] where a method needs them.

All are averaged over the batch and computed in float32 or better; none lets a gradient reach the teacher. They raise
``ValueError`` for logits that are not both [B, K], and for settings outside their range. Written from the papers: p is
the teacher's distribution and q the student's, at temperature T where one is given.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_every_label
from kd.losses.precision import wide


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float | Tensor) -> Tensor:
    """The soft-target loss ``T² · KL(p ‖ q)`` with both softened by the temperature T.

    Summed over the classes and averaged over the batch, in float32 or better. Zero if and only if the two
    distributions agree. The factor T² keeps the gradient's size when T is large. No gradient reaches the teacher.

    Args:
        student_logits: [B, K], before any softmax.
        teacher_logits: [B, K], likewise; the same classes in the same order.
        temperature: T > 0; 1 leaves the distributions as they are, larger values flatten them. A scalar tensor may have
            a gradient, through both distributions and T²; its value is not checked, which would wait for a GPU.

    Raises:
        ValueError: the shapes differ or are not [B, K], or the temperature is not positive and finite.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. They write a cross-entropy; the KL divergence
    differs from it by the teacher's entropy, a constant, so the gradient is the same and agreement reads 0.
    """
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """``−T² · Σ p log q``, as Hinton et al. write it: ``kd_loss`` plus T² times the teacher's entropy, its minimum."""
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * _cross_entropies(log_q, log_p).mean()


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Decoupled distillation: ``T² · (α · KL(b_p ‖ b_q) + β · KL(p̂ ‖ q̂))``. Zero at agreement.

    b are the two probabilities of "the label" and "any other class"; p̂ and q̂ the distributions over the other classes
    alone. Plain distillation is α = 1 and β = 1 − p_label, small where the teacher is sure: the paper frees the second
    term of that weight.

    Args:
        labels: [B] int64.
        alpha, beta: weights of the two terms, at least 0.

    Raises:
        ValueError: also for two classes, of which only one is "other".

    Source: Zhao et al. 2022, arXiv:2203.08679, section 3. In place of the authors' logarithm of a softmax, everything
    is a difference of log-sum-exps, which is the same number and stays finite.
    """
    require(alpha >= 0 and beta >= 0, "alpha and beta", (alpha, beta), "at least 0")
    student, teacher = _pair(student_logits, teacher_logits)
    require(student.shape[1] > 2, "the number of classes for DKD", student.shape[1], "at least 3", "kd works with 2")
    (binary_q, others_q), (binary_p, others_p) = (
        _decoupled(logits / _checked(temperature), labels) for logits in (student, teacher)
    )
    target = F.kl_div(binary_q, binary_p, reduction="batchmean", log_target=True)
    other = F.kl_div(others_q, others_p, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * target + beta * other)


def nkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, gamma: float
) -> Tensor:
    """Normalised distillation: ``−p_label · log q_label − γ · T² · Σ p̂ log q̂``; the first term at T = 1.

    p̂ and q̂ are the distributions over the classes other than the label. Both terms are cross-entropies, so agreement
    reads not 0 but their entropies.

    Args:
        labels: [B] int64.
        gamma: weight of the other classes, at least 0.

    Source: Yang et al. 2023, arXiv:2303.13005, section 3; T² as in the authors' code.
    """
    require(gamma >= 0, "gamma", gamma, "at least 0", "the authors take 1.5")
    student, teacher = _pair(student_logits, teacher_logits)
    require_every_label(labels, len(student))
    log_q, p = F.log_softmax(student, dim=1), teacher.softmax(dim=1)
    target = -(_at(p, labels) * _at(log_q, labels)).mean()
    (_, others_q), (_, others_p) = (_decoupled(logits / _checked(temperature), labels) for logits in (student, teacher))
    return target + gamma * temperature**2 * _cross_entropies(others_q, others_p).mean()


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, beta: float, gamma: float
) -> Tensor:
    """``T² · (β · (1 − ρ of each row) + γ · (1 − ρ of each column))``: correlations of the probabilities, averaged.

    A row is a sample's distribution over the classes, a column a class's over the samples of the batch. Zero where both
    agree up to a positive factor and a constant. A batch of one sample has no columns to correlate and only the rows'
    term teaches; another batch size makes another loss.

    Args:
        beta, gamma: weights of the two terms, at least 0.

    Source: Huang et al. 2022, arXiv:2205.10536, section 3; T² as in later copies of the authors' code.
    """
    require(beta >= 0 and gamma >= 0, "beta and gamma", (beta, gamma), "at least 0")
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    q, p = log_q.exp(), log_p.exp()
    rows, columns = (1 - _correlations(q, p, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * rows + gamma * columns)


def standardised(logits: Tensor) -> Tensor:
    """Each row's logits with mean 0 and standard deviation 1: what a temperature of its own would do to each sample.

    In float32 or better. Two classes leave nothing but the sign; few leave little.

    Source: Sun et al. 2024, arXiv:2403.01427, algorithm 1: the unbiased deviation, and 1e-7 added to it.
    """
    require(logits.ndim == 2 and logits.shape[1] > 2, "logits to standardise", list(logits.shape), "[B, K] with K > 2")
    rows = wide(logits)
    return (rows - rows.mean(dim=1, keepdim=True)) / (rows.std(dim=1, keepdim=True) + 1e-7)


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, *, gamma: float, weighted: bool = False) -> Tensor:
    """``KL(p^γ ‖ q)``: the teacher's probabilities raised to γ and normalised, the student as it is.

    γ is a temperature of 1 / γ for the teacher alone, so there is no T², and the loss is zero where the student at
    T = 1 is what the teacher is at T = 1 / γ.

    Args:
        gamma: in (0, 1]; 1 is ``kd_loss`` at T = 1.
        weighted: WTTM: each sample counts as much as its teacher is unsure, by ``Σ p^γ``, from 1 to K^(1 − γ).

    Source: Zheng, Yang 2024, arXiv:2402.11148; the weight is not normalised, as in the authors' code.
    """
    require(0 < gamma <= 1, "gamma", gamma, "in (0, 1]", "the authors take 0.1")
    student, teacher = _pair(student_logits, teacher_logits)
    log_power = gamma * F.log_softmax(teacher, dim=1)
    log_total = log_power.logsumexp(dim=1, keepdim=True)
    divergence = F.kl_div(F.log_softmax(student, dim=1), log_power - log_total, reduction="none", log_target=True)
    each = divergence.sum(dim=1)
    return (log_total.squeeze(1).exp() * each if weighted else each).mean()


def wsld_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """``T² · (1 − exp(−CE_student / CE_teacher)) · (−Σ p log q)``: soft labels count less where the student is ahead.

    The cross-entropies with the labels are taken at T = 1, and no gradient goes through the weight. The rest is a
    cross-entropy, so agreement reads not 0.

    Args:
        labels: [B] int64.

    Source: Zhou et al. 2021, arXiv:2102.00650; 1e-7 is added to the teacher's cross-entropy, as in the authors' code.
    """
    log_q, log_p = _softened(student_logits, teacher_logits, temperature)
    student, teacher = _pair(student_logits.detach(), teacher_logits)
    require_every_label(labels, len(student))
    ahead = F.cross_entropy(student, labels, reduction="none") / (
        F.cross_entropy(teacher, labels, reduction="none") + 1e-7
    )
    return temperature**2 * (-torch.expm1(-ahead) * _cross_entropies(log_q, log_p)).mean()


def ofa_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """``−Σ ((p + y)^γ − y) log q`` at T = 1, y one-hot: the surer the teacher, the more is asked of the label.

    γ = 1 leaves the soft cross-entropy with the teacher; a larger γ raises the label's weight, the more the larger p,
    and lowers that of the other classes. It is no divergence, and agreement reads not 0.

    Args:
        labels: [B] int64.
        gamma: above 0; the authors take 1 to 1.5.

    Source: Hao et al. 2023, arXiv:2310.19444, the modulated target of its section 3; with a log-softmax, where the
    authors' code has the logarithm of a softmax.
    """
    require(0 < gamma < math.inf, "gamma", gamma, "a finite number above 0", "the authors take 1 to 1.5")
    student, teacher = _pair(student_logits, teacher_logits)
    require_every_label(labels, len(student))
    one_hot = F.one_hot(labels, student.shape[1])
    weights = (teacher.softmax(dim=1) + one_hot) ** gamma - one_hot
    return -(weights * F.log_softmax(student, dim=1)).sum(dim=1).mean()


def virtual_logits(labels: Tensor, student_logits: Tensor, *, correct: float) -> Tensor:
    """Logits of a teacher who knows the labels and nothing else: ``correct`` for each, the rest shared evenly.

    Softened, they are the softened probabilities: the published code softens the probabilities themselves once more,
    which makes them uniform.

    Args:
        labels: [B] int64.
        student_logits: [B, K], for the number of classes and the precision.
        correct: probability in (1 / K, 1).

    Source: Yuan et al. 2020, arXiv:1909.11723, section 4.
    """
    classes = student_logits.shape[1]
    require(1 / classes < correct < 1, "correct", correct, f"in (1/{classes}, 1)", "the authors take 0.99")
    require_every_label(labels, len(student_logits))
    others = torch.full_like(wide(student_logits.detach()), math.log((1 - correct) / (classes - 1)))
    return others.scatter(1, labels.unsqueeze(1), math.log(correct))


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """log q and log p at the temperature."""
    if not isinstance(temperature, Tensor):
        _checked(temperature)
    student, teacher = _pair(student_logits, teacher_logits)
    return F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)


def _pair(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or better, the teacher's without a gradient."""
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            "student_logits and teacher_logits must both be [batch, classes] and of one shape. "
            f"Got {list(student_logits.shape)} and {list(teacher_logits.shape)} instead."
        )
    return wide(student_logits), wide(teacher_logits.detach())


def _checked(temperature: float) -> float:
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "4 to 10 is usual")
    return temperature


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of "the label" and "any other" [B, 2], and those among the others [B, K − 1]."""
    require_every_label(labels, len(logits))
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, columns + (columns >= labels.unsqueeze(1)))
    of_others = others.logsumexp(dim=1)
    binary = torch.stack([_at(logits, labels), of_others], dim=1) - logits.logsumexp(dim=1, keepdim=True)
    return binary, others - of_others.unsqueeze(1)


def _cross_entropies(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``−Σ p log q`` of each row."""
    return -(log_p.exp() * log_q).sum(dim=1)


def _correlations(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Pearson's ρ along a dimension; 0 where one of both does not vary."""
    one, other = (values - values.mean(dim=dim, keepdim=True) for values in (first, second))
    return F.cosine_similarity(one, other, dim=dim, eps=1e-8)


def _at(values: Tensor, labels: Tensor) -> Tensor:
    """The value [B] of each row at its label."""
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)
