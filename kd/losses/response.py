"""Losses of the student's and the teacher's logits [B, K] and, if a method needs them, labels [B].

The losses are averaged over the batch and computed in float32 or better. No gradient reaches the teacher. All raise
``ValueError`` unless both logits are [B, K] and all settings are in range. In the formulas p is the teacher's
distribution and q the student's, softened by the temperature T if the loss has one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_every_label, require_samples
from kd.losses.distributions import (
    clear_masked,
    cross_entropies,
    decouple,
    divergences,
    prepare_logits,
    require_temperature,
    select_labels,
    soften,
)
from kd.losses.precision import widen


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Soft-target loss ``T² · KL(p ‖ q)``, with both distributions softened by the temperature T.

    Summed over the classes and averaged over the batch, in float32 or better. Zero if and only if the two
    distributions agree. The factor T² keeps the gradient's scale at large T. No gradient reaches the teacher. Much
    published code also divides by the number of classes, which makes the loss K times smaller.

    Args:
        student_logits: [B, K], before any softmax.
        teacher_logits: [B, K], before any softmax; the same classes in the same order.
        temperature: T > 0; T = 1 does not change the distributions, and larger values flatten them. If it is a scalar
            tensor, the gradient flows through both distributions and T², and its value is not checked (no GPU sync).

    Raises:
        ValueError: the shapes differ or are not [B, K], or the temperature is not positive and finite.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. The paper uses the cross-entropy, which differs
    from the KL divergence by the teacher's entropy. The gradient is the same, and the divergence is 0 at agreement.
    """
    log_q, log_p = soften(student_logits, teacher_logits, temperature)
    return temperature**2 * divergences(log_q, log_p, "batchmean")


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Soft-label cross-entropy ``−T² · Σ p log q``, as in Hinton et al. 2015.

    Equals ``kd_loss`` plus T² times the teacher's entropy, which is the minimum.
    """
    log_q, log_p = soften(student_logits, teacher_logits, temperature)
    return temperature**2 * cross_entropies(log_q, log_p).mean()


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Decoupled distillation: ``T² · (α · KL(b_p ‖ b_q) + β · KL(p̂ ‖ q̂))``. Zero at agreement.

    b is the binary distribution of "label" and "any other class"; p̂ and q̂ are the distributions over the other
    classes only. In ``kd_loss``, α = 1 and β = 1 − p_label, which is small if the teacher is confident; here β is free.

    Args:
        labels: [B] int64.
        alpha, beta: weights of the two terms, at least 0.

    Raises:
        ValueError: also for two classes, where p̂ and q̂ are constant.

    Source: Zhao et al. 2022, arXiv:2203.08679, section 3. Computed with differences of log-sum-exps, which are equal to
    the authors' logarithm of a softmax but stay finite.
    """
    require(alpha >= 0 and beta >= 0, "alpha and beta", (alpha, beta), "at least 0")
    student, teacher = prepare_logits(student_logits, teacher_logits)
    require(student.shape[1] > 2, "the number of classes for DKD", student.shape[1], "at least 3", "kd works with 2")
    require_temperature(temperature)
    require_every_label(labels, *student.shape)
    (binary_q, others_q), (binary_p, others_p) = (
        decouple(logits, labels, temperature) for logits in (student, teacher)
    )
    target, other = divergences(binary_q, binary_p, "batchmean"), divergences(others_q, others_p, "batchmean")
    return temperature**2 * (alpha * target + beta * other)


def nkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, gamma: float
) -> Tensor:
    """Normalised distillation: ``−p_label · log q_label − γ · T² · Σ p̂ log q̂``; the first term at T = 1.

    p̂ and q̂ are the distributions over the classes other than the label. Both terms are cross-entropies, so the loss at
    agreement is not 0.

    Args:
        labels: [B] int64.
        gamma: weight of the other classes, at least 0.

    Source: Yang et al. 2023, arXiv:2303.13005, section 3; T² as in the authors' code. In the copy of it in
    SDD-CVPR2024 the mask of the label's class is empty, so the second term is the whole ``soft_cross_entropy``.
    """
    require(gamma >= 0, "gamma", gamma, "at least 0", "the authors use 1.5")
    require_temperature(temperature)
    student, teacher = prepare_logits(student_logits, teacher_logits)
    require_every_label(labels, *student.shape)
    log_q, p = clear_masked(F.log_softmax(student, dim=1), teacher), teacher.softmax(dim=1)
    target = -(select_labels(p, labels) * select_labels(log_q, labels)).mean()
    (_, others_q), (_, others_p) = (decouple(logits, labels, temperature) for logits in (student, teacher))
    return target + gamma * temperature**2 * cross_entropies(others_q, others_p).mean()


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, beta: float, gamma: float
) -> Tensor:
    """Correlation loss ``T² · (β · mean(1 − ρ_row) + γ · mean(1 − ρ_column))`` of the probabilities.

    ρ is Pearson's correlation between student and teacher. A row is a sample's distribution over the classes; a column
    contains a class's probabilities over the batch. But for ε, the loss is zero if all rows and columns of the student
    equal the teacher's up to a positive factor and an additive constant. It depends on the batch size: with one sample
    columns cannot be correlated, and only the row term has a gradient.

    ρ is 0, without a gradient, for a row or column that is constant, as all are if the student's head starts at zero.
    The gradient of one that is nearly constant grows as 1 / its standard deviation, as for any correlation.

    Args:
        beta, gamma: weights of the two terms, at least 0.

    Source: Huang et al. 2022, arXiv:2205.10536, section 3. As in the authors' code, ε = 1e-8 is added to the product of
    the two lengths in ρ, so columns of negligible probabilities have little weight; T² as in later copies. The authors
    give both terms the weight 2, with T = 1 for ImageNet and T = 4 for CIFAR-100.
    """
    require(beta >= 0 and gamma >= 0, "beta and gamma", (beta, gamma), "at least 0")
    log_q, log_p = soften(student_logits, teacher_logits, temperature)
    q, p = log_q.exp(), log_p.exp()
    rows, columns = (1 - _correlations(q, p, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * rows + gamma * columns)


def standardised(logits: Tensor) -> Tensor:
    """Scale the logits of each row to mean 0 and standard deviation 1, in float32 or better.

    This acts like a separate temperature for each sample. With few classes little information remains; with two only
    the sign would, so K > 2 is required. A teacher's masked classes (−∞) stay masked and
    do not count.

    Source: Sun et al. 2024, arXiv:2403.01427, algorithm 1: unbiased standard deviation plus 1e-7. Rows of equal logits,
    as from a head that starts at zero, are not divided by 1e-7, which would multiply their gradient by 10⁷. The
    gradient of nearly equal logits still grows as 1 / standard deviation.
    """
    require(
        logits.ndim == 2 and logits.shape[1] > 2,
        "logits to standardise",
        list(logits.shape),
        "of shape [B, K] with K > 2",
    )
    require_samples(len(logits))
    rows = widen(logits)
    if not rows.requires_grad:
        return _standardise_unmasked(rows)
    centred, std = rows - rows.mean(dim=1, keepdim=True), rows.std(dim=1, keepdim=True)
    return centred / torch.where(std > 0, std + 1e-7, 1)


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, *, gamma: float, weighted: bool = False) -> Tensor:
    """Transformed teacher matching ``KL(p^γ ‖ q)``, with p^γ normalised and the student at T = 1.

    γ acts as a temperature of 1 / γ on the teacher only, so there is no factor T². Zero if the student at T = 1 equals
    the teacher at T = 1 / γ.

    Args:
        gamma: in (0, 1]; 1 is ``kd_loss`` at T = 1.
        weighted: WTTM: weight each sample by ``Σ p^γ``, which grows with the teacher's uncertainty from 1 to K^(1 − γ).

    Source: Zheng, Yang 2024, arXiv:2402.11148; the weight is not normalised, as in the authors' code.
    """
    require(0 < gamma <= 1, "gamma", gamma, "in (0, 1]", "the authors use 0.1")
    student, teacher = prepare_logits(student_logits, teacher_logits)
    log_power = gamma * F.log_softmax(teacher, dim=1)
    log_total = log_power.logsumexp(dim=1, keepdim=True)
    losses = divergences(F.log_softmax(student, dim=1), log_power - log_total).sum(dim=1)
    return (log_total.squeeze(1).exp() * losses if weighted else losses).mean()


def wsld_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Weighted soft-label loss ``T² · (1 − exp(−CE_student / CE_teacher)) · (−Σ p log q)``.

    The weight is lower for samples on which the student has a lower cross-entropy than the teacher. The cross-entropies
    with the labels are taken at T = 1, and no gradient flows through the weight. Not 0 at agreement.

    Args:
        labels: [B] int64.

    Source: Zhou et al. 2021, arXiv:2102.00650; 1e-7 is added to the teacher's cross-entropy, as in the authors' code.
    """
    log_q, log_p = soften(student_logits, teacher_logits, temperature)
    student, teacher = prepare_logits(student_logits.detach(), teacher_logits)
    require_every_label(labels, *student.shape)
    ratio = F.cross_entropy(student, labels, reduction="none") / (
        F.cross_entropy(teacher, labels, reduction="none") + 1e-7
    )
    return temperature**2 * (-torch.expm1(-ratio) * cross_entropies(log_q, log_p)).mean()


def ofa_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """One-for-all loss ``−Σ ((p + y)^γ − y) log q`` at T = 1, with one-hot labels y.

    γ = 1 is the soft cross-entropy with the teacher. A larger γ raises the label's weight, more so if the teacher's
    probability of the label is high, and lowers the weights of the other classes. The loss is not 0 at agreement.

    Args:
        labels: [B] int64.
        gamma: above 0; the authors use 1 to 1.5.

    Source: Hao et al. 2023, arXiv:2310.19444, the modulated target of section 3; with a log-softmax instead of the
    logarithm of a softmax in the authors' code.
    """
    require(0 < gamma < math.inf, "gamma", gamma, "a finite number above 0", "the authors use 1 to 1.5")
    student, teacher = prepare_logits(student_logits, teacher_logits)
    require_every_label(labels, *student.shape)
    one_hot = F.one_hot(labels, student.shape[1])
    weights = (teacher.softmax(dim=1) + one_hot) ** gamma - one_hot
    return -(weights * clear_masked(F.log_softmax(student, dim=1), teacher)).sum(dim=1).mean()


def virtual_logits(labels: Tensor, student_logits: Tensor, *, correct: float) -> Tensor:
    """Return logits [B, K] of a virtual teacher: probability ``correct`` for the label, the rest shared evenly.

    Args:
        labels: [B] int64.
        student_logits: [B, K], used for the number of classes, device and precision only.
        correct: probability in (1 / K, 1).

    Source: Yuan et al. 2020, arXiv:1909.11723, section 4. With these logits ``kd_loss`` softens both distributions, as
    in the paper. The published regulariser is another one: it softens the probabilities p as if they were logits, which
    makes them nearly uniform, and not the student; it has no T² and is divided by K (and multiplied by 1 to 100). It
    equals ``kd_loss(student_logits, p / T, temperature=1) / K``, nearly label smoothing.
    """
    classes = student_logits.shape[1]
    require(1 / classes < correct < 1, "correct", correct, f"in (1/{classes}, 1)", "the authors use 0.99")
    require_every_label(labels, *student_logits.shape)
    others = torch.full_like(widen(student_logits.detach()), math.log((1 - correct) / (classes - 1)))
    return others.scatter(1, labels.unsqueeze(1), math.log(correct))


def _standardise_unmasked(rows: Tensor) -> Tensor:
    """Return standardised logits [B, K] with −∞ for the masked classes, which do not count."""
    is_masked, classes = rows == -math.inf, rows.shape[1]
    kept = (~is_masked).sum(dim=1, keepdim=True).to(rows.dtype)
    mean = rows.masked_fill(is_masked, 0).sum(dim=1, keepdim=True) / kept
    rows = torch.where(is_masked, mean, rows)
    std = rows.std(dim=1, keepdim=True) * ((classes - 1) / (kept - 1).clamp(min=1)).sqrt()
    return ((rows - mean) / torch.where(std > 0, std + 1e-7, 1)).masked_fill(is_masked, -math.inf)


def _correlations(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Return Pearson's ρ of probabilities along a dimension; 0, without a gradient, if an input is constant there."""
    means = [values.mean(dim=dim, keepdim=True) for values in (first, second)]
    centred = [first - means[0], second - means[1]]
    lengths = [torch.linalg.vector_norm(values, dim=dim) for values in centred]
    # NaN, as of a row that masks all classes, counts as varying and stays NaN.
    rounding = 8 * torch.finfo(first.dtype).eps * math.sqrt(first.shape[dim])
    varies = [~(length <= rounding * mean.squeeze(dim)) for length, mean in zip(lengths, means, strict=True)]
    correlations: Tensor = (centred[0] * centred[1]).sum(dim=dim) / (lengths[0] * lengths[1] + 1e-8)
    return torch.where(varies[0] & varies[1], correlations, 0)
