"""Methods whose authors first bring the student's maps into shape, and only then let it learn from the labels.

For the table in ``kd.methods``. Both stages are one training here, told apart by its epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses import ab_loss, fsp_loss
from kd.losses.feature import same_size
from kd.methods.feature import FeatureObjective, count_channels
from kd.methods.objectives import supervised_where_labelled
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective


def require_first_phase(alone: float) -> None:
    """Raise ``ValueError`` for what is no share of the epochs that leaves some."""
    require(0 <= alone < 1, "alone", alone, "in [0, 1), a share of the epochs", "0 has all terms all along")


def first_phase_epochs(alone: float, epochs: int) -> int:
    """How many of the epochs this share is: rounded up, but one is left at least."""
    return min(math.ceil(alone * epochs), epochs - 1)


class TwoPhaseObjective(nn.Module):
    """The ``feature`` term alone in the first epochs, and after them the ``hard`` one alone, without the teacher.

    Args:
        alone: share of the epochs for the features, in [0, 1): rounded up, but one epoch at least is for the labels. 0
            has both terms all along, and so has a training of one epoch.
    """

    def __init__(self, objective: FeatureObjective, alone: float) -> None:
        super().__init__()
        require_first_phase(alone)
        self.objective, self.alone = objective, alone
        self._wanted = {"hard", "feature"}

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Take the terms of this epoch, counted from 0."""
        first = first_phase_epochs(self.alone, epochs)
        self._wanted = {"hard", "feature"} if not first else {"feature"} if epoch < first else {"hard"}

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self._wanted == {"hard"}:
            output, terms = supervised_where_labelled(model, batch)
            return output, {**terms, "feature": torch.zeros_like(terms["hard"])}
        output, terms = self.objective(model, batch)
        return output, {name: term if name in self._wanted else 0 * term for name, term in terms.items()}


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
    """``weight · fsp_loss`` over all stages that both have, which must have as many channels; then CE.

    Raises:
        ValueError: also where there is one stage alone, or where the channels differ: no projector is between.
    """
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    ours, theirs = (list(channels) for channels in zip(*count_channels(student, teacher, batch, pairs), strict=True))
    advice = (
        "name layers that fit: --student cnn:32 --set student_layers=layer1,layer2,layer3 "
        "--set teacher_layers=conv1,norm2,norm3 do with the teacher of the pipeline"
    )
    require(len(pairs) > 1, "stages that fsp compares", len(pairs), "two or more", advice)
    require(ours == theirs, "channels of the student's stages", ours, f"the teacher's {theirs} for fsp", advice)

    def loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return weight * fsp_loss(ours, theirs)

    return TwoPhaseObjective(FeatureObjective(teacher, pairs, loss), alone)


class ABLoss(nn.Module):
    """``weight · ab_loss`` summed over stages, each half as much as the next deeper one.

    The student's maps come to the teacher's number by a 1 × 1 convolution and a batch norm for each stage.

    Args:
        channels: of the student and of the teacher, for each stage from the shallowest on.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float, margin: float) -> None:
        super().__init__()
        require(0 < margin < math.inf, "margin", margin, "a finite number above 0", "the authors take 1")
        with seeded(0):
            self.connectors = nn.ModuleList(
                nn.Sequential(nn.Conv2d(*pair, kernel_size=1, bias=False), nn.BatchNorm2d(pair[1])) for pair in channels
            )
        self.weight, self.margin = weight, margin

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), device=ours[0].device)
        for connector, *pair in zip(self.connectors, ours, theirs, strict=True):
            student, teacher = same_size(*pair)
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
    """``weight · Σ ab_loss`` over all stages that both have, from the last one back; then CE."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    bounded = ABLoss(count_channels(student, teacher, batch, pairs), weight, margin).to(batch[0].device)
    return TwoPhaseObjective(FeatureObjective(teacher, pairs, bounded), alone)
