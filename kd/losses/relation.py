"""Losses of how the samples of a batch lie to each other, on features [B, D]; D may differ between the models.

In float32 or better, also inside autocast, whose half-precision products overflow here; none lets a gradient reach the
teacher. They raise ``ValueError`` for features that are not one row per sample on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require
from kd.losses.precision import wide

Relation = Callable[[Tensor], Tensor]


def sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """``‖G_s − G_t‖² / B²``, G the products of all pairs of samples, each row scaled to length 1. Zero at agreement.

    Source: Tung, Mori 2019, arXiv:1907.09682, equations 2 to 4.
    """
    ours, theirs = _both(student_features, teacher_features, similarities)
    return (ours - theirs).square().mean()


def rkd_distance_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Huber loss of all pairs' Euclidean distances, each model's divided by their mean. Zero at agreement.

    Source: Park et al. 2019, arXiv:1904.05068, equations 5 to 7; averaged over B² pairs, the diagonal among them.
    """
    return F.smooth_l1_loss(*_both(student_features, teacher_features, relative_distances))


def rkd_angle_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles of all triples. Zero at agreement. It takes B³ and B² · D numbers.

    Source: Park et al. 2019, arXiv:1904.05068, equations 8 and 9; averaged over B³ triples.
    """
    return F.smooth_l1_loss(*_both(student_features, teacher_features, angles))


def pkt_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """``mean p · log(p / q)`` over B² pairs: who is near whom, as probabilities by cosine. Zero at agreement.

    Source: Passalis, Tefas 2018, arXiv:1803.10837, with the cosine kernel; 1e-7 in both as in the authors' code.
    """
    q, p = _both(student_features, teacher_features, neighbours)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def cc_loss(student_features: Tensor, teacher_features: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """``‖K_s − K_t‖² / B²``, K the Gaussian kernel of all pairs of samples, rows scaled to length 1. Zero at agreement.

    The kernel is its series up to ``order``: with rows of length 1, exp(−γ‖x − y‖²) = e^−2γ · Σ (2γ · x·y)^p / p!.

    Args:
        gamma: γ > 0; large ones look at near neighbours alone.
        order: of the series, at least 1; 1 compares cosines, as the bilinear kernel does.

    Source: Peng et al. 2019, arXiv:1904.01802, section 3, with their γ and order. They embed both models' features by
    linear layers first; here there are none, because an embedding of the teacher's that is trained too can make both
    agree by saying nothing.
    """
    require(0 < gamma < math.inf, "gamma", gamma, "a finite number above 0", "the authors take 0.4")
    require(order >= 1, "order", order, "a whole number of at least 1", "the authors take 2")
    ours, theirs = _both(student_features, teacher_features, partial(kernels, gamma=gamma, order=order))
    return (ours - theirs).square().mean()


def similarities(features: Tensor) -> Tensor:
    """[B, B]: products of all pairs, each row of length 1."""
    return F.normalize(features @ features.T, dim=1)


def relative_distances(features: Tensor) -> Tensor:
    """[B, B]: distances of all pairs, divided by the mean of those above 0; all 0 where no two samples differ."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances > 0
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def angles(features: Tensor) -> Tensor:
    """[B, B, B]: at (i, j, k) the cosine of the angle at i between j and k; 0 where two are the same."""
    directions = F.normalize(features.unsqueeze(0) - features.unsqueeze(1), dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def neighbours(features: Tensor) -> Tensor:
    """[B, B]: cosines of all pairs, shifted to [0, 1], each row divided by its sum."""
    unit = F.normalize(features, dim=1, eps=1e-7)
    near = (unit @ unit.T + 1) / 2
    return near / near.sum(dim=1, keepdim=True)


def kernels(features: Tensor, *, gamma: float, order: int) -> Tensor:
    """[B, B]: the Gaussian kernel of all pairs of rows, each of length 1, by its series up to ``order``."""
    unit = F.normalize(features, dim=1)
    cosines = unit @ unit.T
    terms = [(2 * gamma) ** power / math.factorial(power) * cosines**power for power in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


def _both(student_features: Tensor, teacher_features: Tensor, relation: Relation) -> tuple[Tensor, Tensor]:
    """The relation among the student's samples and among the teacher's."""
    if len(student_features) != len(teacher_features) or min(student_features.ndim, teacher_features.ndim) < 2:
        raise ValueError(
            "features must be [B, D] with one B. "
            f"Got {list(student_features.shape)} and {list(teacher_features.shape)} instead."
        )
    with torch.autocast(student_features.device.type, enabled=False):
        ours, theirs = (
            relation(wide(rows)) for rows in (student_features.flatten(1), teacher_features.detach().flatten(1))
        )
    return ours, theirs
