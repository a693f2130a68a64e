"""Losses of teacher logits refined by the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd.checks import require, require_every_label
from kd.losses.distributions import (
    decouple,
    divergences,
    prepare_logits,
    require_temperature,
    select_labels,
    soften_unmasked,
)


def rld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    confidence_temperature: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """Refined logit distillation: ``α · τ² · KL(b_p ‖ b_q) + β · T² · KL(p̂ ‖ q̂)``.

    b_q is the student's distribution of "the label" and "any other class", b_p the teacher's of "its likeliest class"
    and "any other class", both at the temperature τ. So a wrong teacher passes on its confidence, not its class. p̂ and
    q̂ are the distributions, at the temperature T, over the classes that the teacher ranks below the label; a sample
    with fewer than two of them has no second term. Zero at agreement if the teacher is right.

    Args:
        student_logits, teacher_logits: [B, K]. A teacher's logit of −∞ masks its class.
        labels: [B] int64.
        temperature: T, above 0.
        confidence_temperature: τ, above 0.
        alpha, beta: weights of the two terms, at least 0.

    Source: Sun et al. 2024, arXiv:2408.07703, section 3, and the authors' code, where classes that tie with the label
    are left out too. Rows without any class below the label are exactly 0.
    """
    require(alpha >= 0 and beta >= 0, "alpha and beta", (alpha, beta), "at least 0")
    require_temperature(temperature)
    require_temperature(confidence_temperature)
    student, teacher = prepare_logits(student_logits, teacher_logits)
    require_every_label(labels, *student.shape)
    sure_q, _ = decouple(student, labels, confidence_temperature)
    sure_p, _ = decouple(teacher, teacher.argmax(dim=1), confidence_temperature)
    confidence = divergences(sure_q, sure_p, "batchmean")
    is_left_out = teacher >= select_labels(teacher, labels).unsqueeze(1)
    log_q, log_p = soften_unmasked(student, teacher, is_left_out, temperature)
    has_classes = (~is_left_out & (teacher > -math.inf)).any(dim=1)
    below = torch.where(has_classes, divergences(log_q, log_p).sum(dim=1), 0).mean()
    return confidence_temperature**2 * alpha * confidence + temperature**2 * beta * below
