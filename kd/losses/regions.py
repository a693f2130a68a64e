"""A loss of logits that belong to regions of the picture."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_every_label
from kd.losses.precision import wide


def sdd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """``T² · KL(teacher ‖ student)`` averaged over all regions; twice as much where a region tells another story.

    A region counts double where the teacher is right about it and wrong about the whole picture, or the other way
    round: there the whole hides something. Zero at agreement. With one region it is ``kd_loss``.

    Args:
        student_logits, teacher_logits: [B, N, K] of N regions, of which the first is the whole picture.
        labels: [B] int64.
        temperature: T > 0.

    Source: Wei, Luo, Luo 2024, arXiv:2403.13512, equations 7 to 9 with β = 2, as in the authors' code. That one turns
    a divergence that is not a number into 0, which hides that something has gone wrong; this one does not.
    """
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "the authors take 4")
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 3:
        raise ValueError(
            "logits of regions must both be [B, N, K] of one shape. "
            f"Got {list(student_logits.shape)} and {list(teacher_logits.shape)} instead."
        )
    require_every_label(labels, len(student_logits))
    ours, theirs = wide(student_logits), wide(teacher_logits.detach())
    log_q, log_p = F.log_softmax(ours / temperature, dim=2), F.log_softmax(theirs / temperature, dim=2)
    divergences = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=2)
    right = theirs.argmax(dim=2) == labels.unsqueeze(1)
    weights = 1 + (right != right[:, :1]).to(divergences.dtype)
    return temperature**2 * (weights * divergences).mean()
