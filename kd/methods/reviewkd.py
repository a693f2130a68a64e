"""ReviewKD: fuses the student's stages, deepest first, and compares the results with the teacher's maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.losses import hcl_loss
from kd.methods.feature import FeatureObjective, count_channels
from kd.methods.response import WarmupObjective
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective

WIDEST = 512  # maximum number of channels between the fusions, as in the authors' code


class Fusion(nn.Module):
    """Attention-weighted fusion of a stage of the student with the fused deeper stages, at each pixel.

    Args:
        inputs: channels of the student's stage.
        middle: channels between the fusions.
        outputs: channels of the teacher's stage.
        deepest: whether there is no deeper stage to fuse with.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.leave = nn.Sequential(nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the fused maps for the next shallower stage, and maps of this size to compare with the teacher's."""
        fused = self.enter(maps)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, list(fused.shape[2:]))
            weights = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = weights[:, :1] * fused + weights[:, 1:] * deeper
        fused = F.interpolate(fused, list(size))
        return fused, self.leave(fused)


class ReviewKDLoss(nn.Module):
    """``weight · hcl_loss`` summed over stages; the student's stages are fused, deepest first.

    The authors also use the pooled features as a fifth stage, and the teacher's maps before their last ReLU.

    Args:
        channels: numbers of channels (student, teacher) of each stage, shallowest first.
        weight: weight of the loss.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float) -> None:
        super().__init__()
        middle, last = min(WIDEST, channels[-1][0]), len(channels) - 1
        with seeded(0):
            self.fusions = nn.ModuleList(
                Fusion(inputs, middle, outputs, deepest=stage == last)
                for stage, (inputs, outputs) in enumerate(channels)
            )
        self.weight = weight

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        fused: Tensor | None = None
        terms = []
        for fusion, student, teacher in reversed(list(zip(self.fusions, student_maps, teacher_maps, strict=True))):
            fused, projected = fusion(student, fused, teacher.shape[2:])
            terms.append(hcl_loss(projected, teacher))
        return self.weight * torch.stack(terms).sum()


def reviewkd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    warmup: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · Σ hcl_loss`` over the common stages, warmed up over the fraction ``warmup`` of the epochs."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    loss = ReviewKDLoss(count_channels(student, teacher, batch, pairs), weight).to(batch[0].device)
    return WarmupObjective(FeatureObjective(teacher, pairs, loss), warmup)
