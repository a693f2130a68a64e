"""FSP: how a network's maps flow from one stage to the next, held against the teacher's flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd.checks import require
from kd.feature_methods import FromFeatures, channels_of
from kd.features import matched_stages
from kd.losses import fsp_loss
from kd.types import Batch, Objective


def fsp(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · fsp_loss`` over all stages that both have, which must have as many channels, or the named layers.

    Raises:
        ValueError: also where there is one stage alone, or where the channels differ: no projector is between.
    """
    pairs = matched_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    ours, theirs = (list(channels) for channels in zip(*channels_of(student, teacher, batch, pairs), strict=True))
    advice = (
        "name layers that fit: --student cnn:32 --set student_layers=layer1,layer2,layer3 "
        "--set teacher_layers=conv1,norm2,norm3 do with the teacher of the pipeline"
    )
    require(len(pairs) > 1, "stages that fsp compares", len(pairs), "two or more", advice)
    require(ours == theirs, "channels of the student's stages", ours, f"the teacher's {theirs} for fsp", advice)

    def loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return weight * fsp_loss(ours, theirs)

    return FromFeatures(teacher, pairs, loss)
