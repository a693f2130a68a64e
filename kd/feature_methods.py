"""Factories of the methods that learn from the teacher's features, for the table in ``kd.methods``.

The teacher is asked at each step, in eval mode and without a gradient. Each objective has a ``hard`` term, the
cross-entropy with the labels, and a ``feature`` one, the method's own, weighted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kd.features import capture, matched_stages, penultimate, shapes
from kd.losses.maps import at_loss, hint_loss, same_size
from kd.losses.relations import pkt_loss, rkd_angle_loss, rkd_distance_loss, sp_loss
from kd.objectives import supervised_where_labelled
from kd.seeding import seeded
from kd.types import Batch, Objective

# (the student's features, the teacher's, layer by layer) → the method's own loss, weighted.
FeatureLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class FromFeatures(nn.Module):
    """Cross-entropy with the labels, and a loss of what some layers of both models compute.

    Args:
        teacher: asked at each step. It is no part of this module: not trained, not moved, not in its state.
        layers: of the student and of the teacher, in pairs, as ``kd.features.capture`` takes them.
        loss: of the captured features; a module's parameters become this one's.
    """

    def __init__(self, teacher: nn.Module, layers: Sequence[tuple[str, str]], loss: FeatureLoss) -> None:
        super().__init__()
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules
        self.student_layers, self.teacher_layers = (list(names) for names in zip(*layers, strict=True))
        self.loss = loss

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        teacher.eval()
        with torch.no_grad(), capture(teacher, *self.teacher_layers) as theirs:
            teacher(batch[0])
        with capture(model, *self.student_layers) as ours:
            output, terms = supervised_where_labelled(model, batch)
        features = [ours[name] for name in self.student_layers], [theirs[name] for name in self.teacher_layers]
        return output, {"hard": terms["hard"], "feature": self.loss(*features)}


class Projected(nn.Module):
    """``weight · hint_loss`` of maps that a 1 × 1 convolution has given the teacher's number of channels.

    Args:
        channels: of the student and of the teacher.
    """

    def __init__(self, channels: tuple[int, int], weight: float) -> None:
        super().__init__()
        with seeded(0):
            self.projector = nn.Conv2d(*channels, kernel_size=1)
        self.weight = weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        student, teacher = same_size(ours[0], theirs[0])
        return self.weight * hint_loss(self.projector(student), teacher)


def fitnet(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · hint_loss`` at the middle one of the stages, or at the named ones, with a projector."""
    pairs = matched_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    middle = pairs[len(pairs) // 2]
    channels = [shapes(model, [layer], batch[0])[0][0] for model, layer in zip((student, teacher), middle, strict=True)]
    projected = Projected((channels[0], channels[1]), weight).to(batch[0].device)
    return FromFeatures(teacher, [middle], projected)


def at(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    form: str,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · at_loss`` summed over all stages that both have, from the last one back."""
    pairs = matched_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)

    def loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        terms = [at_loss(one, other, form=form) for one, other in zip(ours, theirs, strict=True)]
        return weight * torch.stack(terms).sum()

    return FromFeatures(teacher, pairs, loss)


def sp(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · sp_loss`` of what the last linear layers are given, or of the named layers."""
    return FromFeatures(
        teacher, _rows(student, teacher, batch, student_layers, teacher_layers), _times(weight, sp_loss)
    )


def rkd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    distance: float,
    angle: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + distance · rkd_distance_loss + angle · rkd_angle_loss``, layers as in ``sp``; angle 0 saves memory."""

    def loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        distances = distance * rkd_distance_loss(ours[0], theirs[0])
        return distances + angle * rkd_angle_loss(ours[0], theirs[0]) if angle else distances

    return FromFeatures(teacher, _rows(student, teacher, batch, student_layers, teacher_layers), loss)


def pkt(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · pkt_loss``, layers as in ``sp``."""
    return FromFeatures(
        teacher, _rows(student, teacher, batch, student_layers, teacher_layers), _times(weight, pkt_loss)
    )


def _times(weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> FeatureLoss:
    def weighted(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return weight * loss(ours[0], theirs[0])

    return weighted


def _rows(
    student: nn.Module, teacher: nn.Module, batch: Batch, student_layers: str, teacher_layers: str
) -> list[tuple[str, str]]:
    """One layer of each whose values are a row for each sample."""
    return [(student_layers or penultimate(student, batch[0]), teacher_layers or penultimate(teacher, batch[0]))]
