"""Losses of logits for regions of an image."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_every_label, require_samples
from kd.losses.distributions import divergences
from kd.losses.precision import widen


def sdd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Scale-decoupled loss: weighted ``T² · KL(teacher ‖ student)``, averaged over all regions.

    A region has weight 2 if the teacher is right about the region and wrong about the whole image, or vice versa;
    otherwise weight 1. Zero at agreement. With one region it equals ``kd_loss``.

    Args:
        student_logits, teacher_logits: [B, N, K] for N regions; the first region is the whole image.
        labels: [B] int64.
        temperature: T > 0.

    Source: Wei, Luo, Luo 2024, arXiv:2403.13512, equations 7 to 9 with β = 2, as in the authors' code. The authors'
    code replaces a NaN divergence by 0, which hides errors; this function returns NaN.
    """
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "the authors use 4")
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 3:
        raise ValueError(
            "logits of regions must both be [B, N, K], of the same shape. "
            f"Got {list(student_logits.shape)} and {list(teacher_logits.shape)} instead."
        )
    require_samples(student_logits.shape[0])
    require_every_label(labels, student_logits.shape[0], student_logits.shape[2])
    student, teacher = widen(student_logits), widen(teacher_logits.detach())
    log_q, log_p = F.log_softmax(student / temperature, dim=2), F.log_softmax(teacher / temperature, dim=2)
    losses = divergences(log_q, log_p).sum(dim=2)
    is_correct = teacher.argmax(dim=2) == labels.unsqueeze(1)
    weights = 1 + (is_correct != is_correct[:, :1]).to(losses.dtype)
    return temperature**2 * (weights * losses).mean()
