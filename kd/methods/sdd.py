"""SDD: the teacher's answers to regions of the picture, beside that to the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses import sdd_loss
from kd.methods.feature import capture_both
from kd.models.features import capture, find_penultimate, match_stages
from kd.models.inference import evaluating
from kd.types import Batch, Objective


class SDDLoss(nn.Module):
    """``hard · CE + soft · sdd_loss`` of the logits that the last linear layer makes of the mean of a region's maps.

    Args:
        teacher: asked at each step, as in ``kd.methods.feature.FeatureObjective``.
        layers: of the student and of the teacher, whose maps the last linear layer is given the means of.
        classifiers: those last linear layers.
        scales: regions along a side; 1 is the whole picture and comes first.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layers: tuple[str, str],
        classifiers: tuple[str, str],
        *,
        temperature: float,
        scales: Sequence[int],
        hard: float,
        soft: float,
    ) -> None:
        super().__init__()
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules
        self.student_layers, self.teacher_layers = ([name] for name in layers)
        self.classifiers, self.scales = classifiers, tuple(scales)
        self.temperature, self.hard, self.soft = temperature, hard, soft

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        ours, theirs = (
            region_logits(maps, each.get_submodule(name), self.scales)
            for each, name, (maps,) in zip((model, teacher), self.classifiers, features, strict=True)
        )
        loss = sdd_loss(ours, theirs, batch[1], temperature=self.temperature)
        return output, {"hard": self.hard * terms["hard"], "feature": self.soft * loss}


def sdd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    temperature: float,
    scales: str,
    hard: float,
    soft: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``hard · CE + soft · sdd_loss`` at the last of the stages, or at the last of the named layers.

    Raises:
        ValueError: also where a model's logits are not its last linear layer's answer to the means of those maps: then
            a region has none.
    """
    sides = [int(side) if side.isdecimal() else 0 for side in scales.split(",")]
    require(sides[0] == 1 and min(sides) >= 1, "scales", scales, "whole numbers with commas between, 1 the first")
    pair = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)[-1]
    ours, theirs = (
        _classifier(who, model, layer, batch[0])
        for who, model, layer in zip(("student", "teacher"), (student, teacher), pair, strict=True)
    )
    return SDDLoss(teacher, pair, (ours, theirs), temperature=temperature, scales=sides, hard=hard, soft=soft)


def region_logits(maps: Tensor, classifier: nn.Module, scales: Sequence[int]) -> Tensor:
    """[B, N, K]: the classifier's logits for the means of maps [B, C, H, W] in scale² regions, scale by scale."""
    means = torch.cat([F.adaptive_avg_pool2d(maps, scale).flatten(2) for scale in scales], dim=2)
    logits: Tensor = classifier(means.transpose(1, 2))
    return logits


def _classifier(who: str, model: nn.Module, layer: str, inputs: Tensor) -> str:
    """The last linear layer, after a look whether it is given the means of these maps."""
    name = find_penultimate(model, inputs).removesuffix(":input")
    with evaluating(model), torch.no_grad(), capture(model, layer) as found:
        logits = model(inputs)
        maps, linear = found[layer], model.get_submodule(name)
        fits = maps.ndim == 4 and maps.shape[1] == linear.in_features
        fits = fits and torch.allclose(linear(maps.mean(dim=(2, 3))), logits, rtol=1e-3, atol=1e-3)
    if not fits:
        raise ValueError(
            "sdd asks for the logits of regions: the last linear layer must be given the means of a layer's maps. "
            f"That of the {who}, {type(model).__name__}, is not given those of {layer}. "
            "A CNN of this package, a ResNet or a MobileNet has such a head: kd run --teacher cnn:32 --student cnn:8."
        )
    return name
