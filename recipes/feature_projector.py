"""A hint: the student's maps, through a projector, are pulled towards the teacher's (FitNets).

    python recipes/feature_projector.py                          # 4 students of each kind
    python recipes/feature_projector.py --limit 500 --pairs 2    # at toy size

What to look at: ``Hint`` is a whole method in thirty lines. ``kd.models.features.capture`` reads a layer of any model,
so that neither model is changed; the projector, a 1 × 1 convolution, gives the student's few maps the teacher's number,
and is thrown away after the training. Both terms are minimised together, as today's programs do; the paper trains the
hint first, and the rest after it. Control: the labels alone, from the same weights and on the same batches.

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
from kd.losses.feature import same_size
from kd.models import CNN, MNIST_SHAPE, ConvNet
from kd.models.features import capture, shapes

# Names as model.named_modules() has them, in the middle of each.
STUDENT_LAYER, TEACHER_LAYER = "layer2", "norm2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A hint beside the labels alone."""

    pairs: int = 4
    """students of each kind"""
    epochs: int = 2
    """of the teacher and of every student"""
    weight: float = 1.0
    """of the hint, beside the cross-entropy with the labels"""
    limit: int | None = None
    """use only so many training images"""


class Hint(nn.Module):
    """Cross-entropy with the labels, and the distance of the projected maps from the teacher's.

    A module, because it has weights of its own: ``kd.training.optimizers.adam`` trains them with the student's.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, images: Tensor, *, weight: float) -> None:
        super().__init__()
        ours, theirs = (
            shapes(model, [layer], images)[0][0]
            for model, layer in ((student, STUDENT_LAYER), (teacher, TEACHER_LAYER))
        )
        self.projector = nn.Conv2d(ours, theirs, kernel_size=1)
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules: it is not to be trained
        self.weight = weight

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        teacher.eval()
        with torch.no_grad(), capture(teacher, TEACHER_LAYER) as theirs:
            teacher(batch[0])
        with capture(model, STUDENT_LAYER) as ours:
            output, terms = kd.supervised(model, batch)
        # The student's maps are 14 × 14, the teacher's 4 × 4: the larger ones are averaged to the size of the smaller.
        student_maps, teacher_maps = same_size(ours[STUDENT_LAYER], theirs[TEACHER_LAYER])
        return output, {**terms, "hint": self.weight * hint_loss(self.projector(student_maps), teacher_maps)}


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        teacher = train_copy(ConvNet(), kd.supervised, training, seed=0, epochs=settings.epochs)
    found: dict[str, list[int]] = {"labels": [], "hint": []}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = CNN(8, MNIST_SHAPE, 10)
            hint = Hint(start, teacher, training[0][0][None], weight=settings.weight)
        for name, objective in (("labels", kd.supervised), ("hint", hint)):
            student = train_copy(start, objective, training, seed=seed, epochs=settings.epochs)
            found[name].append(count_errors(student, held_back))
    title = f"the teacher has {count_errors(teacher, held_back)} errors; of a student's"
    judge_arms(found, [("hint", "labels")], images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
