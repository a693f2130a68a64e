"""OFA-KD, for teacher and student of different architectures: distils logits, also at early exits of the student.

Feature maps of a convolutional network and of a transformer are not comparable, but logits are. Each stage of the
student gets an exit classifier that is trained on the teacher's logits. Exits are used in training only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses import ofa_loss
from kd.methods.objectives import require_teacher_logits, supervised
from kd.models.features import capture, find_stages, layer_shapes
from kd.models.inference import evaluating
from kd.seeding import seeded
from kd.types import Batch, Objective


class OFALoss(nn.Module):
    """``CE + soft · ofa_loss`` of the student's logits, plus ``exits · ofa_loss`` summed over the logits of its exits.

    Args:
        layers: the student's layers with an exit, named as in ``kd.models.features.capture``.
        output_shapes: output shapes of these layers, [C, H, W] or [D].
        classes: K.
        gamma: γ of ``ofa_loss``.
        soft, exits: weights of the two terms.
    """

    def __init__(
        self,
        layers: Sequence[str],
        output_shapes: Sequence[tuple[int, ...]],
        classes: int,
        *,
        gamma: float,
        soft: float,
        exits: float,
    ) -> None:
        super().__init__()
        width = max((shape[0] for shape in output_shapes if len(shape) == 3), default=0)
        with seeded(0):
            self.branches = nn.ModuleList(_make_exit(shape, width, classes) for shape in output_shapes)
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

    A student without feature maps has no exits by default; ``student_layers=hidden`` adds one to a hidden layer.
    """
    require(exits >= 0, "exits", exits, "at least 0", "the weight of the exits' losses; the authors use 1")
    inputs = batch[0]
    with evaluating(student), torch.no_grad():
        classes = student(inputs.clone()).shape[1]
    layers = student_layers.split(",") if student_layers else [stage.layer for stage in find_stages(student, inputs)]
    output_shapes = layer_shapes(student, layers, inputs)
    return OFALoss(layers, output_shapes, classes, gamma=gamma, soft=soft, exits=exits).to(inputs.device)


def _make_exit(shape: tuple[int, ...], width: int, classes: int) -> nn.Sequential:
    """Build an exit from a layer's output to logits; feature maps get a convolution to ``width`` maps and pooling.

    The authors' exits are larger: separable convolutions or transformer blocks, depending on the student.
    """
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], classes))
    require(len(shape) == 3, "the output of a layer with an exit", list(shape), "of shape [C, H, W] or [D]")
    convolution = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
    pooling = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), *pooling, nn.Linear(width, classes))
