"""CAT-KD (class attention transfer): compares the maps whose means are the logits of the classes."""

from __future__ import annotations

from torch import Tensor, nn

from kd.checks import require
from kd.losses import cat_loss
from kd.methods.feature import capture_both
from kd.methods.objectives import teaching
from kd.methods.sdd import find_classifiers, region_logits
from kd.types import Batch, Objective


class CATObjective(nn.Module):
    """``CE + weight · cat_loss`` of class activation maps: the last linear layer applied to each pixel of the maps.

    A linear layer and a mean commute, so the mean of a class's map is its logit, and pooled class maps are the layer
    applied to pooled maps. The authors replace the linear layer by a 1 × 1 convolution, which computes the same.

    Args:
        teacher: runs at every step; see ``kd.methods.feature.FeatureObjective``.
        layers: the layers (student, teacher) whose averaged maps are the inputs of the last linear layers.
        classifiers: names of the last linear layers (student, teacher).
        weight: of the loss.
        side: side of the pooled class maps.
    """

    def __init__(
        self, teacher: nn.Module, layers: tuple[str, str], classifiers: tuple[str, str], *, weight: float, side: int
    ) -> None:
        super().__init__()
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule
        self.student_layers, self.teacher_layers = ([name] for name in layers)
        self.classifiers, self.weight, self.side = classifiers, weight, side

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        ((student_maps,), (teacher_maps,)), (student_head, teacher_head) = features, self.classifiers
        student_classes = _class_maps(student_maps, model.get_submodule(student_head), self.side)
        with teaching(batch[0].device):
            teacher_classes = _class_maps(teacher_maps, teacher.get_submodule(teacher_head), self.side)
        loss = cat_loss(student_classes, teacher_classes, side=self.side)
        return output, {"hard": terms["hard"], "feature": self.weight * loss}


def _class_maps(maps: Tensor, classifier: nn.Module, side: int) -> Tensor:
    """Return class activation maps [B, K, side, side]."""
    logits = region_logits(maps, classifier, [side]).transpose(1, 2)
    return logits.reshape(*logits.shape[:2], side, side)


def cat_kd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    side: int,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · cat_loss`` at the last maps of each model, or at the last of the named layers.

    Raises:
        ValueError: also if a model's logits are not its last linear layer applied to the means of these maps, because
            classes have no maps then.
    """
    require(side >= 1, "side", side, "an integer of at least 1", "the authors use 2")
    layers, classifiers = find_classifiers("cat-kd", student, teacher, batch[0], student_layers, teacher_layers)
    return CATObjective(teacher, layers, classifiers, weight=weight, side=side)
