"""SemCKD: which of the teacher's layers a layer of the student learns from is learned too, for each sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.losses import semckd_loss
from kd.losses.feature import same_size
from kd.methods.feature import FeatureObjective, count_channels
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective

WIDTH = 16  # of queries and keys: a quarter of the authors' batch of 64, as in their code


class SemCKDLoss(nn.Module):
    """``weight · semckd_loss`` of all pairs of a student's layer and a teacher's.

    A query for each of the student's layers and a key for each of the teacher's, of length 1, are made from the means
    of a sample's maps; their products, in a softmax over the teacher's layers, are its attention.

    The authors make both from the sample's similarities to all samples of its batch. Their networks then take batches
    of one size alone, and what they answer depends on the order in which a batch came. A sample's own means need
    neither.

    Args:
        channels: of the student and of the teacher, for each stage.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float) -> None:
        super().__init__()
        ours, theirs = zip(*channels, strict=True)
        with seeded(0):
            self.queries = nn.ModuleList(_embedding(maps) for maps in ours)
            self.keys = nn.ModuleList(_embedding(maps) for maps in theirs)
            self.projectors = nn.ModuleList(_projector(*pair) for pair in itertools.product(ours, theirs))
        self.weight = weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        pairs = [same_size(*pair) for pair in itertools.product(ours, theirs)]
        projected = [projector(student) for projector, (student, _) in zip(self.projectors, pairs, strict=True)]
        targets = [teacher for _, teacher in pairs]
        return self.weight * semckd_loss(projected, targets, self.attention(ours, theirs))

    def attention(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """[B, S, T]: how much each of the T layers of the teacher counts for each of the S of the student."""
        queries, keys = _embedded(self.queries, ours), _embedded(self.keys, theirs)
        return torch.bmm(queries, keys.transpose(1, 2)).softmax(dim=2)


def semckd(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · semckd_loss`` of all pairs of the stages that both have, from the last one back."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    attended = SemCKDLoss(count_channels(student, teacher, batch, pairs), weight).to(batch[0].device)
    return FeatureObjective(teacher, pairs, attended)


def _embedded(nets: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """[B, layers, WIDTH], each of length 1."""
    return torch.stack([F.normalize(net(own.mean(dim=(2, 3))), dim=1) for net, own in zip(nets, maps, strict=True)], 1)


def _embedding(maps: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(maps, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))


def _projector(ours: int, theirs: int) -> nn.Sequential:
    """Maps of the teacher's number, by convolutions 1 × 1, 3 × 3 and 1 × 1 on twice as many."""
    middle = 2 * theirs
    return nn.Sequential(
        nn.Conv2d(ours, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, theirs, 1, bias=False),
    )
