"""Weight several teachers for each image by their confidence in its label (CA-MKD).

    python recipes/confident_teachers.py                         # 4 students per arm
    python recipes/confident_teachers.py --limit 500 --pairs 2   # quick run

Look at ``WeightedTeachers``: three teachers run at every step, and ``kd.teachers.ensemble.confidences`` weights them
for each image by their cross-entropy with its label. One teacher is trained on partly wrong labels, because weights
hardly matter if all teachers are equally good. The objective is a module, because it has a trainable projector per
teacher; ``kd.training.optimizers.adam`` trains the projectors with the student. Two questions: do the teachers help
more than the labels alone, and do weights help more than a plain mean?

Source: Zhang, Chen, Wang 2022, "Confidence-aware multi-teacher knowledge distillation", arXiv:2201.00007. As in the
authors' code, the map term is weighted by applying each teacher's classifier to the student's projected maps, and both
terms are divided by the number of teachers.
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

STUDENT_LAYER, TEACHER_LAYER = "layer3", "norm3"  # the layers with the last maps
STUDENT_MAPS, TEACHER_MAPS = 32, 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Teachers weighted by confidence against equal weights and against the labels alone."""

    pairs: int = 4
    """number of seeds; each arm has one student per seed"""
    epochs: int = 2
    """epochs of the teachers and of every student"""
    wrong: float = 0.3
    """fraction of wrong labels in the last teacher's training data"""
    temperature: float = 4.0
    """distillation temperature"""
    weight: float = 50.0
    """weight of the map term"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


class WeightedTeachers(nn.Module):
    """Cross-entropy with the labels plus weighted distillation from the logits and maps of several teachers.

    Args:
        equal_weights: weight all teachers equally instead of by confidence.
    """

    def __init__(self, teachers: Sequence[ConvNet], *, temperature: float, weight: float, equal_weights: bool) -> None:
        super().__init__()
        with kd.seeded(0):
            self.projectors = nn.ModuleList(nn.Conv2d(STUDENT_MAPS, TEACHER_MAPS, 1) for _ in teachers)
        self.teachers = tuple(teachers)  # a tuple hides them from torch, so they are not trained
        self.temperature, self.weight, self.equal_weights = temperature, weight, equal_weights

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits, teacher_maps = zip(*(_run_teacher(teacher, batch[0]) for teacher in self.teachers), strict=True)
        with kd.capture(model, STUDENT_LAYER) as captured:
            output, terms = kd.supervised(model, batch)
        pooled = F.adaptive_avg_pool2d(captured[STUDENT_LAYER], teacher_maps[0].shape[2:])
        projected = [project(pooled) for project in self.projectors]
        soft = torch.stack([self._kl(output, teacher_logits) for teacher_logits in logits])
        distances = torch.stack(
            [(p - maps).square().flatten(1).mean(dim=1) for p, maps in zip(projected, teacher_maps, strict=True)]
        )
        map_logits = [_classify_maps(teacher, maps) for teacher, maps in zip(self.teachers, projected, strict=True)]
        terms["soft"] = self._weighted_mean(soft, logits, batch[1])
        terms["maps"] = self.weight * self._weighted_mean(distances, map_logits, batch[1])
        return output, terms

    def _weighted_mean(self, losses: Tensor, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Weight losses [M, B] by teacher and image, sum over teachers, average over images, divide by M."""
        weights = torch.full_like(losses, 1 / len(losses)) if self.equal_weights else confidences(logits, labels)
        return (weights * losses).sum(dim=0).mean() / len(losses)

    def _kl(self, output: Tensor, logits: Tensor) -> Tensor:
        """Return T² · KL for each image."""
        log_q, log_p = (F.log_softmax(x / self.temperature, dim=1) for x in (output, logits))
        return self.temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def _run_teacher(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the teacher's logits and last maps, without gradients."""
    teacher.eval()
    with torch.no_grad(), kd.capture(teacher, TEACHER_LAYER) as captured:
        return teacher(images), captured[TEACHER_LAYER]


@torch.no_grad()
def _classify_maps(teacher: ConvNet, maps: Tensor) -> Tensor:
    """Apply a teacher's classifier to maps that have the shape of its last maps."""
    hidden = teacher.hidden(maps.relu().flatten(1)).relu()
    logits: Tensor = teacher.output(hidden)
    return logits


def corrupt_labels(training: Split, share: float) -> TensorDataset:
    """Return the training images with this fraction of labels replaced by random wrong ones."""
    samples = [training[row] for row in range(len(training))]
    images, labels = torch.stack([image for image, _ in samples]), torch.tensor([int(label) for _, label in samples])
    with kd.seeded(0):
        wrong = torch.rand(len(labels)) < share
        return TensorDataset(images, torch.where(wrong, (labels + torch.randint(1, 10, labels.shape)) % 10, labels))


def train_teacher(dataset: Dataset[Any], *, seed: int, epochs: int) -> ConvNet:
    """Train a teacher whose initial weights and batches depend on the seed."""
    with kd.seeded(seed):
        start = ConvNet()
    return train_copy(start, kd.supervised, dataset, seed=seed, epochs=epochs)


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    datasets = (training, training, corrupt_labels(training, settings.wrong))
    teachers = [train_teacher(dataset, seed=1000 + row, epochs=settings.epochs) for row, dataset in enumerate(datasets)]
    make_objective = functools.partial(
        WeightedTeachers, teachers, temperature=settings.temperature, weight=settings.weight
    )
    errors: dict[str, list[int]] = {"labels": [], "equal weights": [], "by confidence": []}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = CNN(8, MNIST_SHAPE, 10)
        for name, counts in errors.items():
            objective = kd.supervised if name == "labels" else make_objective(equal_weights=name == "equal weights")
            counts.append(
                count_errors(train_copy(start, objective, training, seed=seed, epochs=settings.epochs), held_back)
            )
    teacher_errors = ", ".join(str(count_errors(teacher, held_back)) for teacher in teachers)
    comparisons = [("by confidence", "labels"), ("by confidence", "equal weights")]
    judge_arms(errors, comparisons, images=len(held_back), title=f"student errors (teachers: {teacher_errors})")
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
