"""Factories of two-phase methods, for the table in ``kd.methods``: first the feature loss, then the labels.

Both phases belong to one training run with one decaying learning rate; an epoch separates them. The defaults follow
RepDistiller, which trains the first phase in 30 of 270 epochs. It omits the weight of ``fsp`` there; with Adam, which
normalises gradients, that makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses import ab_loss, fsp_loss
from kd.losses.feature import match_sizes
from kd.methods.feature import FeatureObjective, count_channels
from kd.methods.objectives import supervised_where_labelled
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective


def require_first_phase(alone: float) -> None:
    """Raise ``ValueError`` unless ``alone`` is a fraction of the epochs below 1."""
    require(0 <= alone < 1, "alone", alone, "in [0, 1), a fraction of the epochs", "0 uses all terms in all epochs")


def first_phase_epochs(alone: float, epochs: int) -> int:
    """Return the number of epochs of the first phase: the fraction rounded up, with at least one epoch left."""
    return min(math.ceil(alone * epochs), epochs - 1)


class TwoPhaseObjective(nn.Module):
    """Only the ``feature`` term in the first epochs, then only the ``hard`` term, without the teacher.

    Args:
        objective: the objective with both terms.
        alone: fraction of the epochs for the ``feature`` term, in [0, 1), rounded up, with at least one epoch left for
            the labels. With 0, or with a single epoch, both terms are used in all epochs.
    """

    def __init__(self, objective: FeatureObjective, alone: float) -> None:
        super().__init__()
        require_first_phase(alone)
        self.objective, self.alone = objective, alone
        self._active_terms = {"hard", "feature"}

    def first_phase(self, epochs: int) -> int:
        """Return the number of epochs without labels."""
        return first_phase_epochs(self.alone, epochs)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Select the terms of this epoch (the first is 0)."""
        first = self.first_phase(epochs)
        self._active_terms = {"hard", "feature"} if not first else {"feature"} if epoch < first else {"hard"}

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self._active_terms == {"hard"}:
            output, terms = supervised_where_labelled(model, batch)
            return output, {**terms, "feature": torch.zeros_like(terms["hard"])}
        output, terms = self.objective(model, batch)
        return output, {name: term if name in self._active_terms else 0 * term for name, term in terms.items()}


def fsp(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    alone: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """First ``weight · fsp_loss`` over the common stages, which must have the same numbers of channels; then CE.

    Raises:
        ValueError: also if there is only one common stage, or if the channels differ, because fsp has no projector.
    """
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    student_channels, teacher_channels = (
        list(channels) for channels in zip(*count_channels(student, teacher, batch, pairs), strict=True)
    )
    advice = (
        "name matching layers, for example: --teacher convnet:32,64,128 --student cnn:32 "
        "--set student_layers=layer1,layer2,layer3 --set teacher_layers=conv1,norm2,norm3"
    )
    require(len(pairs) > 1, "stages that fsp compares", len(pairs), "two or more", advice)
    allowed = f"the teacher's {teacher_channels} for fsp"
    require(student_channels == teacher_channels, "channels of the student's stages", student_channels, allowed, advice)

    def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        return weight * fsp_loss(student_maps, teacher_maps)

    return TwoPhaseObjective(FeatureObjective(teacher, pairs, loss), alone)


class ABLoss(nn.Module):
    """``weight · ab_loss`` summed over stages, each with half the weight of the next deeper stage.

    A connector for each stage (1 × 1 convolution, batch norm) projects the student's maps to the teacher's channels.

    Args:
        channels: numbers of channels (student, teacher) of each stage, shallowest first.
        weight: weight of the loss.
        margin: margin of ``ab_loss``, above 0.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float, margin: float) -> None:
        super().__init__()
        require(0 < margin < math.inf, "margin", margin, "a finite number above 0", "the authors use 1")
        with seeded(0):
            self.connectors = nn.ModuleList(
                nn.Sequential(nn.Conv2d(*pair, kernel_size=1, bias=False), nn.BatchNorm2d(pair[1])) for pair in channels
            )
        self.weight, self.margin = weight, margin

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), device=student_maps[0].device)
        for connector, *pair in zip(self.connectors, student_maps, teacher_maps, strict=True):
            student, teacher = match_sizes(*pair)
            total = total / 2 + ab_loss(connector(student), teacher, margin=self.margin)
        return self.weight * total


def ab(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    margin: float,
    alone: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """First ``weight · Σ ab_loss`` over the common stages, which are matched from the last one backwards; then CE."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    loss = ABLoss(count_channels(student, teacher, batch, pairs), weight, margin).to(batch[0].device)
    return TwoPhaseObjective(FeatureObjective(teacher, pairs, loss), alone)
