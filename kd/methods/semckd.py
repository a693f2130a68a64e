"""SemCKD: a learned attention assigns the teacher's layers to each layer of the student, for each sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.losses import semckd_loss
from kd.losses.feature import match_sizes
from kd.methods.feature import FeatureObjective, count_channels
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective

WIDTH = 16  # size of queries and keys; a quarter of the authors' batch size of 64, as in their code


class SemCKDLoss(nn.Module):
    """``weight · semckd_loss`` of all pairs of a student's layer and a teacher's layer.

    Each student layer has a query and each teacher layer has a key: unit vectors computed from the mean of each map of
    a sample. Attention is the softmax of their inner products over the teacher's layers.

    The authors compute queries and keys from a sample's similarities to all samples of its batch. Their method
    therefore requires a fixed batch size and depends on the order of the samples; the means of the maps avoid both.

    Args:
        channels: numbers of channels (student, teacher) of each stage.
        weight: weight of the loss.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float) -> None:
        super().__init__()
        student, teacher = zip(*channels, strict=True)
        with seeded(0):
            self.queries = nn.ModuleList(_make_embedding(maps) for maps in student)
            self.keys = nn.ModuleList(_make_embedding(maps) for maps in teacher)
            self.projectors = nn.ModuleList(_make_projector(*pair) for pair in itertools.product(student, teacher))
        self.weight = weight

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        pairs = [match_sizes(*pair) for pair in itertools.product(student_maps, teacher_maps)]
        projected = [projector(student) for projector, (student, _) in zip(self.projectors, pairs, strict=True)]
        targets = [teacher for _, teacher in pairs]
        return self.weight * semckd_loss(projected, targets, self.attention(student_maps, teacher_maps))

    def attention(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return attention [B, S, T]: weights of the teacher's T layers for each of the student's S layers."""
        queries, keys = _embed(self.queries, student_maps), _embed(self.keys, teacher_maps)
        return torch.bmm(queries, keys.transpose(1, 2)).softmax(dim=2)


def semckd(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · semckd_loss`` of all pairs of the common stages."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    loss = SemCKDLoss(count_channels(student, teacher, batch, pairs), weight).to(batch[0].device)
    return FeatureObjective(teacher, pairs, loss)


def _embed(nets: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """Return embeddings [B, layers, WIDTH] of unit length, one network per layer."""
    rows = [F.normalize(net(values.mean(dim=(2, 3))), dim=1) for net, values in zip(nets, maps, strict=True)]
    return torch.stack(rows, 1)


def _make_embedding(maps: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(maps, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))


def _make_projector(inputs: int, outputs: int) -> nn.Sequential:
    """Build 1 × 1, 3 × 3 and 1 × 1 convolutions to ``outputs`` channels, with twice as many in between."""
    middle = 2 * outputs
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, 1, bias=False),
    )
