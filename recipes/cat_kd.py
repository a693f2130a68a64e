"""Class attention transfer (CAT-KD): match the class activation maps of student and teacher.

    python recipes/cat_kd.py                         # 4 seeds
    python recipes/cat_kd.py --limit 500 --pairs 2   # quick run
    python recipes/cat_kd.py --out cat_kd            # also save the weights of the first student

Look at ``MapClassifier``: it replaces the last linear layer by a 1 × 1 convolution with one map per class; the mean of
a map is the logit of its class. A linear layer and averaging commute, so the network computes the same logits with the
same parameters. But each logit now has a map, and maps can be compared. Teacher and student are converted before
training and stay converted for evaluation and saving.

Controls, from the same weights and on the same batches: the converted student on the labels, and plain distillation.

Source: Guo et al. 2023, "Class Attention Transfer Based Knowledge Distillation", arXiv:2304.12777. The pooling to 2 × 2
follows the paper. The authors use β = 15 for ResNets on CIFAR-100 and recommend a β for which the map term is 1 to 50
after one epoch. Here it is 300 with β = 15, so β is 1, and the term is printed. The authors' code has no licence and is
not used.
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
from kd.console import say
from kd.data.splits import stratified_split
from kd.losses import cat_loss
from kd.models import CNN, MNIST_SHAPE
from kd.models.features import capture
from kd.storage.files import publish
from kd.storage.weights import weights_bytes
from kd.training.loop import evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Class activation maps against the labels alone and against plain distillation."""

    pairs: int = 4
    """number of seeds; each arm has one student per seed"""
    epochs: int = 2
    """epochs of every student"""
    teacher_epochs: int = 8
    """epochs of the teacher"""
    teacher: int = 16
    """channels of the teacher's first stage"""
    student: int = 4
    """channels of the student's first stage"""
    beta: float = 1.0
    """weight of the map term; the cross-entropy with the labels has weight 1"""
    side: int = 2
    """maps are averaged to side × side before they are compared"""
    limit: int | None = None
    """train on the first N images only (stratified)"""
    out: Path | None = None
    """folder for the weights of the first seed's student"""


class MapClassifier(nn.Module):
    """A network with a 1 × 1 convolution in place of its linear layer; the output of ``maps`` has one map per class.

    Input [B, C, H, W]; output logits [B, K], equal to the logits of the original network.
    """

    def __init__(self, network: CNN) -> None:
        super().__init__()
        linear = network.output
        self.trunk = nn.Sequential(network.layer1, network.layer2, network.layer3)
        self.maps = nn.Conv2d(linear.in_features, linear.out_features, kernel_size=1)
        with torch.no_grad():
            self.maps.weight.copy_(linear.weight[:, :, None, None])
            self.maps.bias.copy_(linear.bias)  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.maps(self.trunk(images))
        return maps.mean(dim=(2, 3))


def cat_kd(teacher: MapClassifier, *, beta: float, side: int) -> kd.Objective:
    """Return the objective ``CE + beta · cat_loss``; the student must also be a ``MapClassifier``."""

    def objective(student: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        teacher.eval()
        with torch.no_grad(), capture(teacher, "maps") as teacher_maps:
            teacher(batch[0])
        with capture(student, "maps") as student_maps:
            output, terms = kd.supervised(student, batch)
        return output, {**terms, "maps": beta * cat_loss(student_maps["maps"], teacher_maps["maps"], side=side)}

    return objective


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        start = MapClassifier(CNN(settings.teacher, MNIST_SHAPE, 10))
    teacher = train_copy(start, kd.supervised, training, seed=0, epochs=settings.teacher_epochs)
    by_maps = cat_kd(teacher, beta=settings.beta, side=settings.side)
    arms: dict[str, kd.Objective] = {
        "labels": kd.supervised,
        "kd": kd.live_teacher(teacher, kd.distilled(temperature=5, alpha=0.5)),
        "cat-kd": by_maps,
    }
    errors: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MapClassifier(CNN(settings.student, MNIST_SHAPE, 10))
        for name, objective in arms.items():
            student = train_copy(start, objective, training, seed=seed, epochs=settings.epochs)
            errors[name].append(count_errors(student, held_back))
        if seed == 0:  # ``student`` is the student of the last arm, cat-kd
            metrics = evaluate(student, by_maps, kd.make_loader(held_back, batch_size=500))
            say(f"map term at the end: {metrics['maps']:.2f}")
            if settings.out:
                publish({settings.out / "student.pth": weights_bytes(student)})
    title = f"student errors (teacher: {count_errors(teacher, held_back)})"
    judge_arms(errors, [("cat-kd", name) for name in errors if name != "cat-kd"], images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
