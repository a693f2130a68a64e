"""SDD (scale-decoupled distillation): distils logits for regions of the image, in addition to the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses import sdd_loss
from kd.methods.feature import capture_both
from kd.methods.objectives import teaching
from kd.models.features import capture, find_penultimate, match_stages
from kd.models.inference import evaluating
from kd.models.main_output import take_logits
from kd.models.stages import find_last_maps
from kd.types import Batch, Objective


class SDDLoss(nn.Module):
    """``hard · CE + soft · sdd_loss`` of region logits: the last linear layer applied to mean maps of each region.

    Args:
        teacher: runs at every step; see ``kd.methods.feature.FeatureObjective``.
        layers: the layers (student, teacher) whose averaged maps are the inputs of the last linear layers.
        classifiers: names of the last linear layers (student, teacher).
        temperature: T of ``sdd_loss``.
        scales: numbers of regions along a side; the first is 1, the whole image.
        hard, soft: weights of the two terms.
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
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule
        self.student_layers, self.teacher_layers = ([name] for name in layers)
        self.classifiers, self.scales = classifiers, tuple(scales)
        self.temperature, self.hard, self.soft = temperature, hard, soft

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        ((student_maps,), (teacher_maps,)), (student_head, teacher_head) = features, self.classifiers
        student_logits = region_logits(student_maps, model.get_submodule(student_head), self.scales)
        with teaching(batch[0].device):
            teacher_logits = region_logits(teacher_maps, teacher.get_submodule(teacher_head), self.scales)
        loss = sdd_loss(student_logits, teacher_logits, batch[1], temperature=self.temperature)
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
    """``hard · CE + soft · sdd_loss`` at the last maps of each model, or at the last of the named layers.

    Raises:
        ValueError: also if a model's logits are not its last linear layer applied to the means of these maps, because
            regions have no logits then.
    """
    sides = [int(side) if side.isdecimal() else 0 for side in scales.split(",")]
    require(sides[0] == 1 and min(sides) >= 1, "scales", scales, "comma-separated integers, starting with 1")
    pair, classifiers = find_classifiers("sdd", student, teacher, batch[0], student_layers, teacher_layers)
    return SDDLoss(teacher, pair, classifiers, temperature=temperature, scales=sides, hard=hard, soft=soft)


def region_logits(maps: Tensor, classifier: nn.Module, scales: Sequence[int]) -> Tensor:
    """Return the classifier's logits [B, N, K] for the means of maps [B, C, H, W] in scale² regions, scale by scale.

    Each scale is pooled from the maps. The authors pool 4 × 4 means again for the larger regions. This is equal if 4
    divides the maps' sides; otherwise the 4 × 4 windows overlap, and the logits of their whole image are not the
    model's.
    """
    means = torch.cat([F.adaptive_avg_pool2d(maps, scale).flatten(2) for scale in scales], dim=2)
    logits: Tensor = classifier(means.transpose(1, 2))
    return logits


def find_classifiers(
    method: str, student: nn.Module, teacher: nn.Module, inputs: Tensor, student_layers: str, teacher_layers: str
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the layers with the last maps (student, teacher) and the names of the linear layers on their means.

    Args:
        method: its name, for errors.
        inputs: an example batch.
        student_layers, teacher_layers: comma-separated names, of which the last counts; "" finds the layer.

    Raises:
        ValueError: a model's logits are not its last linear layer applied to the means of these maps.
    """
    student_layer, teacher_layer = (
        names.split(",")[-1] or find_last_maps(model, inputs)
        for names, model in ((student_layers, student), (teacher_layers, teacher))
    )
    pair = match_stages(student, teacher, inputs, student_layers=student_layer, teacher_layers=teacher_layer)[-1]
    student_head, teacher_head = (
        _find_classifier(method, role, model, layer, inputs)
        for role, model, layer in zip(("student", "teacher"), (student, teacher), pair, strict=True)
    )
    return pair, (student_head, teacher_head)


def _find_classifier(method: str, role: str, model: nn.Module, layer: str, inputs: Tensor) -> str:
    """Return the name of the last linear layer, after checking that its inputs are the means of the layer's maps."""
    name = find_penultimate(model, inputs).removesuffix(":input")
    with evaluating(model), torch.no_grad(), capture(model, layer) as features:
        logits = take_logits(model(inputs.clone()))
        maps, linear = features[layer], model.get_submodule(name)
        fits = maps.ndim == 4 and maps.shape[1] == linear.in_features
        fits = fits and torch.allclose(linear(maps.mean(dim=(2, 3))), logits, rtol=1e-3, atol=1e-3)
    if not fits:
        raise ValueError(
            f"{method} needs logits of parts of an image: the inputs of the last linear layer must be the means of a "
            f"layer's maps. In the {role}, {type(model).__name__}, they are not the means of {layer}. Use a model with "
            "such a head: this package's CNN, a ResNet or a MobileNet, for example kd run --teacher cnn:32 --student "
            "cnn:8."
        )
    return name
