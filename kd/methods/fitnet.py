"""FitNet: the student's maps predict the teacher's through a trained regressor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd.losses import hint_loss
from kd.losses.feature import match_sizes
from kd.methods.feature import FeatureObjective, count_channels
from kd.methods.objectives import run_teacher
from kd.models.features import capture, match_stages
from kd.models.inference import evaluating
from kd.seeding import seeded
from kd.types import Batch, Objective


class FitNetLoss(nn.Module):
    """``weight · hint_loss`` after a regressor (1 × 1 convolution, batch norm, ReLU) of the student's maps.

    The usual weight of 100 belongs to this regressor, which bounds the size of the student's maps.

    Args:
        channels: numbers of channels, (student, teacher).
        relu: whether the regressor ends with a ReLU; not for a teacher's maps with negative values, which it could not
            match.
    """

    def __init__(self, channels: tuple[int, int], weight: float, *, relu: bool) -> None:
        super().__init__()
        with seeded(0):
            layers: list[nn.Module] = [nn.Conv2d(*channels, kernel_size=1), nn.BatchNorm2d(channels[1])]
        if relu:
            layers.append(nn.ReLU())
        self.projector = nn.Sequential(*layers)
        self.weight = weight

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        student, teacher = match_sizes(student_maps[0], teacher_maps[0])
        return self.weight * hint_loss(self.projector(student), teacher)


def fitnet(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · hint_loss`` with a regressor, at the middle one of the common stages or of the named layers."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    middle = pairs[len(pairs) // 2]
    (channels,) = count_channels(student, teacher, batch, [middle])
    with evaluating(teacher), capture(teacher, middle[1]) as features:
        run_teacher(teacher, batch[0])
    relu = bool((features[middle[1]] >= 0).all())
    return FeatureObjective(teacher, [middle], FitNetLoss(channels, weight, relu=relu).to(batch[0].device))
