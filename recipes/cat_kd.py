"""Class attention transfer: where in the picture a network sees each class, taught map by map (CAT-KD).

    python recipes/cat_kd.py                         # 4 seeds
    python recipes/cat_kd.py --limit 500 --pairs 2   # at toy size
    python recipes/cat_kd.py --out cat_kd            # and the first student's weights, as it is used

What to look at: ``ByMaps`` turns the linear layer at a network's end into a 1 × 1 convolution, one map for each class,
whose mean is that class's logit. A mean and a linear layer may change places, so the network answers as it did before,
with the same parameters; but now its answer has a place, and that can be compared. Teacher and student are converted
before they are trained, and stay so: they are what is evaluated and saved.

Controls, from the same weights and on the same batches: the converted student on the labels, and distilled as usual.

Source: Guo et al. 2023, "Class Attention Transfer Based Knowledge Distillation", arXiv:2304.12777. Fields of 2 × 2 are
theirs. They take β = 15 for ResNets on CIFAR-100, and advise to choose it so that the term is 1 to 50 after an epoch;
here 15 makes it 300, so it is 1, and the term is printed. Their program has no licence, and nothing here is from it.
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
    """Maps of the classes beside the labels alone and the logits."""

    pairs: int = 4
    """seeds"""
    epochs: int = 2
    """of every student"""
    teacher_epochs: int = 8
    """of the teacher"""
    teacher: int = 16
    """maps of the teacher's first stage"""
    student: int = 4
    """maps of the student's first stage"""
    beta: float = 1.0
    """weight of the maps, beside the cross-entropy with the labels"""
    side: int = 2
    """maps are compared in side × side fields"""
    limit: int | None = None
    """use only so many training images"""
    out: Path | None = None
    """folder for the weights of the first seed's student"""


class ByMaps(nn.Module):
    """The network with its linear layer as a 1 × 1 convolution: ``maps`` answers with a map for each class.

    Input [B, C, H, W], output their means, the logits [B, K]: those that the network gave.
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


def cat_kd(teacher: ByMaps, *, beta: float, side: int) -> kd.Objective:
    """``CE + beta · cat_loss`` for a student that is ``ByMaps`` too."""

    def objective(student: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        teacher.eval()
        with torch.no_grad(), capture(teacher, "maps") as theirs:
            teacher(batch[0])
        with capture(student, "maps") as ours:
            output, terms = kd.supervised(student, batch)
        return output, {**terms, "maps": beta * cat_loss(ours["maps"], theirs["maps"], side=side)}

    return objective


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        start = ByMaps(CNN(settings.teacher, MNIST_SHAPE, 10))
    teacher = train_copy(start, kd.supervised, training, seed=0, epochs=settings.teacher_epochs)
    by_maps = cat_kd(teacher, beta=settings.beta, side=settings.side)
    arms: dict[str, kd.Objective] = {
        "labels": kd.supervised,
        "kd": kd.live_teacher(teacher, kd.distilled(temperature=5, alpha=0.5)),
        "cat-kd": by_maps,
    }
    found: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = ByMaps(CNN(settings.student, MNIST_SHAPE, 10))
        for name, objective in arms.items():
            student = train_copy(start, objective, training, seed=seed, epochs=settings.epochs)
            found[name].append(count_errors(student, held_back))
        if seed == 0:  # the last arm's student is the one taught by maps
            measured = evaluate(student, by_maps, kd.make_loader(held_back, batch_size=500))
            say(f"maps' term at the end: {measured['maps']:.2f}")
            if settings.out:
                publish({settings.out / "student.pth": weights_bytes(student)})
    title = f"the teacher has {count_errors(teacher, held_back)} errors; of a student's"
    judge_arms(found, [("cat-kd", name) for name in found if name != "cat-kd"], images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
