"""Losses that compare relations between the samples of a batch. Features are [B, D]; D may differ between the models.

Computed in float32 or better, also inside autocast, because half-precision products overflow. No gradient reaches the
teacher. The losses raise ``ValueError`` unless both models have one row of features per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_samples
from kd.losses.precision import scale_to_unit, widen

Relation = Callable[[Tensor], Tensor]


def sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Similarity-preserving loss ``‖G_s − G_t‖² / B²``. Zero at agreement.

    G [B, B] contains the inner products of all pairs of samples, each row scaled to unit length.

    Source: Tung, Mori 2019, arXiv:1907.09682, equations 2 to 4.
    """
    student, teacher = _relate_both(student_features, teacher_features, similarities)
    return (student - teacher).square().mean()


def rkd_distance_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Relational distance loss: Huber loss of the Euclidean distances of all pairs of samples. Zero at agreement.

    Each model's distances are divided by their mean.

    Source: Park et al. 2019, arXiv:1904.05068, equations 5 to 7; averaged over B² pairs, including the diagonal.
    """
    return F.smooth_l1_loss(*_relate_both(student_features, teacher_features, relative_distances))


def rkd_angle_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Relational angle loss: Huber loss of the cosines of the angles of all triples of samples. Zero at agreement.

    Needs memory for B³ and B² · D numbers.

    Source: Park et al. 2019, arXiv:1904.05068, equations 8 and 9; averaged over B³ triples.
    """
    return F.smooth_l1_loss(*_relate_both(student_features, teacher_features, angle_cosines))


def pkt_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Probabilistic knowledge transfer: ``mean p · log(p / q)`` over B² pairs of samples. Zero at agreement.

    p and q are the teacher's and the student's ``neighbour_probabilities``, from the cosines of the features.

    Source: Passalis, Tefas 2018, arXiv:1803.10837, with the cosine kernel; 1e-7 is added to p and q inside the
    logarithm, as in the authors' code.
    """
    q, p = _relate_both(student_features, teacher_features, neighbour_probabilities)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def cc_loss(student_features: Tensor, teacher_features: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Correlation congruence ``‖K_s − K_t‖² / B²``. Zero at agreement.

    K [B, B] is the Gaussian kernel of all pairs of samples, rows scaled to unit length. It is computed by its series up
    to ``order``: for unit rows, exp(−γ‖x − y‖²) = e^−2γ · Σ (2γ · x·y)^p / p!.

    Args:
        gamma: γ > 0; for large values only close neighbours matter.
        order: order of the series, at least 1; 1 compares cosines, like the bilinear kernel.

    Source: Peng et al. 2019, arXiv:1904.01802, section 3, with their γ and order. The authors first embed both models'
    features by trained linear layers. Here there are none, because a trained embedding of the teacher can collapse:
    both models then agree on constant features. The code that RepDistiller has from the authors is another loss, the
    mean of |Δᵢ| · |Δᵢ₊₁| for the differences Δ of the two models. It has no kernel and depends on the order of the
    samples, and its weight of 0.02 does not apply here.
    """
    require(0 < gamma < math.inf, "gamma", gamma, "a finite number above 0", "the authors use 0.4")
    require(order >= 1, "order", order, "an integer of at least 1", "the authors use 2")
    student, teacher = _relate_both(
        student_features, teacher_features, partial(gaussian_kernels, gamma=gamma, order=order)
    )
    return (student - teacher).square().mean()


def similarities(features: Tensor) -> Tensor:
    """Return [B, B]: inner products of all pairs of rows, normalised to rows of unit length."""
    return scale_to_unit(features @ features.T, dim=1)


def relative_distances(features: Tensor) -> Tensor:
    """Return [B, B]: distances of all pairs, divided by the mean positive distance; 0 if all samples are equal."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    is_positive = distances > 0
    mean = distances.sum() / is_positive.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1)


def angle_cosines(features: Tensor) -> Tensor:
    """Return [B, B, B]: at (i, j, k) the cosine of the angle at i between j and k; 0 if i equals j or k."""
    directions = scale_to_unit(features.unsqueeze(0) - features.unsqueeze(1), dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def neighbour_probabilities(features: Tensor) -> Tensor:
    """Return [B, B]: cosines of all pairs, shifted to [0, 1], each row divided by its sum."""
    unit = scale_to_unit(features, dim=1, eps=1e-7)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def gaussian_kernels(features: Tensor, *, gamma: float, order: int) -> Tensor:
    """Return [B, B]: the Gaussian kernel of all pairs of unit rows, by its series up to ``order``."""
    unit = scale_to_unit(features, dim=1)
    cosines = unit @ unit.T
    terms = [(2 * gamma) ** power / math.factorial(power) * cosines**power for power in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


def _relate_both(student_features: Tensor, teacher_features: Tensor, relation: Relation) -> tuple[Tensor, Tensor]:
    """Return the relation matrices of the student's and of the teacher's samples."""
    if len(student_features) != len(teacher_features) or min(student_features.ndim, teacher_features.ndim) < 2:
        raise ValueError(
            "features must have shape [B, D] with equal B. "
            f"Got {list(student_features.shape)} and {list(teacher_features.shape)} instead."
        )
    require_samples(len(student_features))
    with torch.autocast(student_features.device.type, enabled=False):
        student, teacher = (
            relation(widen(rows)) for rows in (student_features.flatten(1), teacher_features.detach().flatten(1))
        )
    return student, teacher
