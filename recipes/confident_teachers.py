"""Several teachers, each heard as much as it is right about the image at hand (CA-MKD).

    python recipes/confident_teachers.py                         # 4 students of each kind
    python recipes/confident_teachers.py --limit 500 --pairs 2   # at toy size

What to look at: three teachers answer at every step, with their logits and their last maps, and ``confidences`` of
``kd.teachers.ensemble`` weighs them anew for each image by what they make of its label. One of them has learned from
labels of which a part is wrong: without such a teacher there is little to weigh. The objective is a module, because it
has a projector for each teacher, and ``kd.training.optimizers.adam`` trains them with the student. Two questions: are
the teachers worth more than the labels, and is weighing them worth more than hearing all alike?

Source: Zhang, Chen, Wang 2022, "Confidence-aware multi-teacher knowledge distillation", arXiv:2201.00007. A teacher's
maps are weighed by what its own classifier makes of the student's projected ones, and both terms are divided by the
number of teachers, as in the authors' program.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data import Split
from kd.data.splits import stratified_split
from kd.models import CNN, MNIST_SHAPE, ConvNet
from kd.teachers.ensemble import confidences

STUDENT_LAYER, TEACHER_LAYER = "layer3", "norm3"  # the last maps of each
STUDENT_MAPS, TEACHER_MAPS = 32, 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Teachers by their confidence beside all alike and the labels."""

    pairs: int = 4
    """students of each kind"""
    epochs: int = 2
    """of the teachers and of every student"""
    wrong: float = 0.3
    """share of the labels that are wrong for the last of the three teachers"""
    temperature: float = 4.0
    """at which the logits are compared"""
    weight: float = 50.0
    """of the maps"""
    limit: int | None = None
    """use only so many training images"""


class Weighed(nn.Module):
    """Cross-entropy with the labels, and the teachers' logits and maps, each by its weight for each image."""

    def __init__(self, teachers: Sequence[ConvNet], *, temperature: float, weight: float, alike: bool) -> None:
        super().__init__()
        with kd.seeded(0):
            self.projectors = nn.ModuleList(nn.Conv2d(STUDENT_MAPS, TEACHER_MAPS, 1) for _ in teachers)
        self.teachers = tuple(teachers)  # in a tuple, where torch does not look for modules: they are not to be trained
        self.temperature, self.weight, self.alike = temperature, weight, alike

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits, theirs = zip(*(_answer(teacher, batch[0]) for teacher in self.teachers), strict=True)
        with kd.capture(model, STUDENT_LAYER) as found:
            output, terms = kd.supervised(model, batch)
        pooled = F.adaptive_avg_pool2d(found[STUDENT_LAYER], theirs[0].shape[2:])
        ours = [project(pooled) for project in self.projectors]
        soft = torch.stack([self._divergences(output, own) for own in logits])
        far = torch.stack(
            [(own - maps).square().flatten(1).mean(dim=1) for own, maps in zip(ours, theirs, strict=True)]
        )
        judged = [_classified(teacher, own) for teacher, own in zip(self.teachers, ours, strict=True)]
        terms["soft"] = self._heard(soft, logits, batch[1])
        terms["maps"] = self.weight * self._heard(far, judged, batch[1])
        return output, terms

    def _heard(self, losses: Tensor, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The mean over images of losses [M, B], each teacher's by its weight, divided by their number."""
        weights = torch.full_like(losses, 1 / len(losses)) if self.alike else confidences(logits, labels)
        return (weights * losses).sum(dim=0).mean() / len(losses)

    def _divergences(self, output: Tensor, logits: Tensor) -> Tensor:
        """T² · KL of each image."""
        log_q, log_p = (F.log_softmax(each / self.temperature, dim=1) for each in (output, logits))
        return self.temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def _answer(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Its logits and its last maps."""
    teacher.eval()
    with torch.no_grad(), kd.capture(teacher, TEACHER_LAYER) as found:
        return teacher(images), found[TEACHER_LAYER]


@torch.no_grad()
def _classified(teacher: ConvNet, maps: Tensor) -> Tensor:
    """Logits that a teacher makes of its last maps, or of what is to be like them."""
    hidden = teacher.hidden(maps.relu().flatten(1)).relu()
    logits: Tensor = teacher.output(hidden)
    return logits


def mislabelled(training: Split, share: float) -> TensorDataset:
    """The same images, of which this share has another label than its own."""
    items = [training[row] for row in range(len(training))]
    images, labels = torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])
    with kd.seeded(0):
        wrong = torch.rand(len(labels)) < share
        return TensorDataset(images, torch.where(wrong, (labels + torch.randint(1, 10, labels.shape)) % 10, labels))


def new_teacher(dataset: Dataset[Any], *, seed: int, epochs: int) -> ConvNet:
    """A teacher of its own: other weights at the start, other batches."""
    with kd.seeded(seed):
        start = ConvNet()
    return train_copy(start, kd.supervised, dataset, seed=seed, epochs=epochs)


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    datasets = (training, training, mislabelled(training, settings.wrong))
    teachers = [new_teacher(own, seed=1000 + row, epochs=settings.epochs) for row, own in enumerate(datasets)]
    weighed = functools.partial(Weighed, teachers, temperature=settings.temperature, weight=settings.weight)
    found: dict[str, list[int]] = {"labels": [], "alike": [], "by confidence": []}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = CNN(8, MNIST_SHAPE, 10)
        for name, counts in found.items():
            objective = kd.supervised if name == "labels" else weighed(alike=name == "alike")
            counts.append(
                count_errors(train_copy(start, objective, training, seed=seed, epochs=settings.epochs), held_back)
            )
    own = ", ".join(str(count_errors(teacher, held_back)) for teacher in teachers)
    against = [("by confidence", "labels"), ("by confidence", "alike")]
    judge_arms(found, against, images=len(held_back), title=f"the teachers have {own} errors; of a student's")
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
