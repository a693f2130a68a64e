"""Distances between a student's features and a teacher's embeddings, [B, D] each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_samples
from kd.losses.precision import scale_to_unit, widen
from kd.losses.relation import rkd_angle_loss, rkd_distance_loss

DISTANCES = ("cosine", "mse", "rkd")


def embedding_loss(student_features: Tensor, embeddings: Tensor, *, distance: str = "cosine") -> Tensor:
    """Mean distance of the student's features from the teacher's embeddings of the same samples. Zero at agreement.

    Computed in float32 or better, also inside autocast. No gradient reaches the teacher.

    Args:
        student_features: [B, D], after their projector if the widths of the models differ.
        embeddings: [B, D] of the teacher; for ``rkd`` of any width.
        distance: ``cosine``, the mean of 1 − cos, in [0, 2]; ``mse``, the mean of the squared differences over samples
            and dimensions; or ``rkd``, ``rkd_distance_loss + 2 · rkd_angle_loss``, which compares relations between the
            samples. Turning all embeddings changes only the first two, scaling them only ``mse``.

    Raises:
        ValueError: unknown distance, or the features are not [B, D] with equal B, and equal D except for ``rkd``.

    Source: Navaneet, Koohpayegani, Tejankar, Pirsiavash 2022, arXiv:2201.05131 (regression of normalised features,
    whose squared distance is 2 · (1 − cos)); for ``rkd`` Park et al. 2019, arXiv:1904.05068, with their ratio of
    weights for embeddings, 1 to 2.
    """
    require(distance in DISTANCES, "distance", distance, "cosine, mse or rkd")
    if distance == "rkd":
        angle = rkd_angle_loss(student_features, embeddings)
        return rkd_distance_loss(student_features, embeddings) + 2 * angle
    if student_features.shape != embeddings.shape or embeddings.ndim != 2:
        raise ValueError(
            "features and embeddings must have the same shape [B, D]; equal widths are obtained by a projector. "
            f"Got {list(student_features.shape)} and {list(embeddings.shape)} instead."
        )
    require_samples(len(embeddings))
    with torch.autocast(embeddings.device.type, enabled=False):
        student, teacher = widen(student_features), widen(embeddings.detach())
        if distance == "mse":
            return F.mse_loss(student, teacher)
        cosines = (scale_to_unit(student, dim=1) * scale_to_unit(teacher, dim=1)).sum(dim=1)
        return (1 - cosines).mean()
