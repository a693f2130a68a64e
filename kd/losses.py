"""Losses as pure functions of tensors, one per paper. No config, no model, no device."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kd.checks import require


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """The soft-target loss ``T² · KL(p_teacher ‖ p_student)`` with both softened by the temperature T.

    Summed over the classes and averaged over the batch, in float32 or better. Zero if and only if the two
    distributions agree. The factor T² keeps the gradient's size when T is large. No gradient reaches the teacher.

    Args:
        student_logits: [B, K], before any softmax.
        teacher_logits: [B, K], likewise; the same classes in the same order.
        temperature: T > 0; 1 leaves the distributions as they are, larger values flatten them.

    Raises:
        ValueError: the shapes differ or are not [B, K], or the temperature is not positive and finite.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. They write a cross-entropy; the KL divergence
    differs from it by the teacher's entropy, a constant, so the gradient is the same and agreement reads 0.
    """
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "4 to 10 is usual")
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            "student_logits and teacher_logits must both be [batch, classes] and of one shape. "
            f"Got {list(student_logits.shape)} and {list(teacher_logits.shape)} instead."
        )
    log_student = F.log_softmax(_float(student_logits) / temperature, dim=1)
    log_teacher = F.log_softmax(_float(teacher_logits.detach()) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _float(logits: Tensor) -> Tensor:
    """Half precision is not enough for a log-softmax; double stays double, for tests against the written formula."""
    return logits if logits.dtype.itemsize >= 4 else logits.float()
