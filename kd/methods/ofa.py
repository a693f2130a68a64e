"""OFA-KD, for a teacher of another kind than the student: logits are learned, also at exits on the student's way.

Maps of a convolutional network and of a transformer have nothing in common to be compared; their answers have. So each
stage of the student gets an exit of its own, which is trained to answer as the teacher does, and is left out in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses import ofa_loss
from kd.methods.objectives import require_teacher_logits, supervised
from kd.models.features import capture, find_stages, shapes
from kd.models.inference import evaluating
from kd.seeding import seeded
from kd.types import Batch, Objective


class OFALoss(nn.Module):
    """``CE + soft · ofa_loss`` of the student's logits, and ``exits · ofa_loss`` summed over those of its exits.

    Args:
        layers: of the student, as ``kd.models.features.capture`` takes them.
        found: what each answers with: [C, H, W], or [D].
        classes: K.
    """

    def __init__(
        self,
        layers: Sequence[str],
        found: Sequence[tuple[int, ...]],
        classes: int,
        *,
        gamma: float,
        soft: float,
        exits: float,
    ) -> None:
        super().__init__()
        width = max((shape[0] for shape in found if len(shape) == 3), default=0)
        with seeded(0):
            self.branches = nn.ModuleList(_branch(shape, width, classes) for shape in found)
        self.layers, self.gamma, self.soft, self.exits = list(layers), gamma, soft, exits

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        with capture(model, *self.layers) as features:
            output, terms = supervised(model, batch)
        terms["soft"] = self.soft * self._loss(output, batch)
        if self.layers:
            exit_logits = [branch(features[name]) for branch, name in zip(self.branches, self.layers, strict=True)]
            terms["exits"] = self.exits * torch.stack([self._loss(logits, batch) for logits in exit_logits]).sum()
        return output, terms

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return ofa_loss(logits, batch[2], batch[1], gamma=self.gamma)


def ofa(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    gamma: float,
    soft: float,
    exits: float,
    student_layers: str,
) -> Objective:
    """``CE + soft · ofa_loss + exits · Σ ofa_loss``, with an exit at each stage of the student or at the named layers.

    A student without maps has no exits unless they are named: ``student_layers=hidden`` puts one behind hidden units.
    """
    require(exits >= 0, "exits", exits, "at least 0", "the weight of the exits' losses; the authors take 1")
    inputs = batch[0]
    with evaluating(student), torch.no_grad():
        classes = student(inputs).shape[1]
    layers = student_layers.split(",") if student_layers else [stage.layer for stage in find_stages(student, inputs)]
    found = shapes(student, layers, inputs)
    return OFALoss(layers, found, classes, gamma=gamma, soft=soft, exits=exits).to(inputs.device)


def _branch(shape: tuple[int, ...], width: int, classes: int) -> nn.Sequential:
    """From what a layer answers with to logits; maps become ``width`` of them, and each its mean."""
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], classes))
    require(len(shape) == 3, "what a layer with an exit answers with", list(shape), "[C, H, W] or [D]")
    convolution = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), *pooled, nn.Linear(width, classes))
