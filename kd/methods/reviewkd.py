"""ReviewKD: the student's stages are fused from the deepest on, and what comes out held against the teacher's."""

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

WIDEST = 512  # maps between the fusions, the authors'


class Fusion(nn.Module):
    """A stage of the student and all deeper ones, weighed against each other at each pixel.

    Args:
        ours, middle, theirs: channels of the student's stage, between the fusions, and of the teacher's stage.
        deepest: there is nothing to fuse it with.
    """

    def __init__(self, ours: int, middle: int, theirs: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(ours, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.leave = nn.Sequential(nn.Conv2d(middle, theirs, 3, padding=1, bias=False), nn.BatchNorm2d(theirs))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What goes on to the next shallower stage, and what is held against the teacher's maps of this size."""
        fused = self.enter(maps)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, list(fused.shape[2:]))
            weights = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = weights[:, :1] * fused + weights[:, 1:] * deeper
        fused = F.interpolate(fused, list(size))
        return fused, self.leave(fused)


class ReviewKDLoss(nn.Module):
    """``weight · hcl_loss`` summed over stages, the student's fused from the deepest on.

    Args:
        channels: of the student and of the teacher, for each stage from the shallowest on.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float) -> None:
        super().__init__()
        middle, last = min(WIDEST, channels[-1][0]), len(channels) - 1
        with seeded(0):
            self.fusions = nn.ModuleList(
                Fusion(ours, middle, theirs, deepest=stage == last) for stage, (ours, theirs) in enumerate(channels)
            )
        self.weight = weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        fused: Tensor | None = None
        terms = []
        for fusion, student, teacher in reversed(list(zip(self.fusions, ours, theirs, strict=True))):
            fused, answer = fusion(student, fused, teacher.shape[2:])
            terms.append(hcl_loss(answer, teacher))
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
    """``CE + weight · Σ hcl_loss`` over all stages that both have, growing evenly in the first ``warmup`` of epochs."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    reviewed = ReviewKDLoss(count_channels(student, teacher, batch, pairs), weight).to(batch[0].device)
    return WarmupObjective(FeatureObjective(teacher, pairs, reviewed), warmup)
