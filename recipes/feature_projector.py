"""Feature distillation with a hint (FitNets): match the student's projected maps to the teacher's.

    python recipes/feature_projector.py                          # 4 students per arm
    python recipes/feature_projector.py --limit 500 --pairs 2    # quick run

Look at ``Hint``, a complete method in thirty lines. ``kd.models.features.capture`` returns the output of any layer, so
neither model is modified. The projector, a 1 × 1 convolution, maps the student's channels to the teacher's and is
discarded after training. Both terms are minimised together, as is common today; the paper trains with the hint first
and with the labels afterwards. Control: the labels alone, from the same weights and on the same batches.

Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import Tensor, nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data.splits import stratified_split
from kd.losses import hint_loss
from kd.losses.feature import match_sizes
from kd.models import CNN, MNIST_SHAPE, ConvNet
from kd.models.features import capture, layer_shapes

# Names from model.named_modules(): a layer in the middle of each network.
STUDENT_LAYER, TEACHER_LAYER = "layer2", "norm2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Training with a hint against the labels alone."""

    pairs: int = 4
    """number of seeds; each arm has one student per seed"""
    epochs: int = 2
    """epochs of the teacher and of every student"""
    weight: float = 1.0
    """weight of the hint; the cross-entropy with the labels has weight 1"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


class Hint(nn.Module):
    """Cross-entropy with the labels plus the squared distance between projected and teacher maps.

    It is a module, because the projector has weights: ``kd.training.optimizers.adam`` trains them with the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, images: Tensor, *, weight: float) -> None:
        super().__init__()
        student_width, teacher_width = (
            layer_shapes(model, [layer], images)[0][0]
            for model, layer in ((student, STUDENT_LAYER), (teacher, TEACHER_LAYER))
        )
        self.projector = nn.Conv2d(student_width, teacher_width, kernel_size=1)
        self.teacher = (teacher,)  # a tuple hides it from torch, so it is not trained
        self.weight = weight

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        teacher.eval()
        with torch.no_grad(), capture(teacher, TEACHER_LAYER) as teacher_layers:
            teacher(batch[0])
        with capture(model, STUDENT_LAYER) as student_layers:
            output, terms = kd.supervised(model, batch)
        # The student's maps are 14 × 14, the teacher's 4 × 4: the larger maps are averaged to the smaller size.
        student_maps, teacher_maps = match_sizes(student_layers[STUDENT_LAYER], teacher_layers[TEACHER_LAYER])
        return output, {**terms, "hint": self.weight * hint_loss(self.projector(student_maps), teacher_maps)}


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        teacher = train_copy(ConvNet(), kd.supervised, training, seed=0, epochs=settings.epochs)
    errors: dict[str, list[int]] = {"labels": [], "hint": []}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = CNN(8, MNIST_SHAPE, 10)
            hint = Hint(start, teacher, training[0][0][None], weight=settings.weight)
        for name, objective in (("labels", kd.supervised), ("hint", hint)):
            student = train_copy(start, objective, training, seed=seed, epochs=settings.epochs)
            errors[name].append(count_errors(student, held_back))
    title = f"student errors (teacher: {count_errors(teacher, held_back)})"
    judge_arms(errors, [("hint", "labels")], images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
