"""Int8 students: does quantization-aware distillation help, compared with post-training quantization?

    python recipes/quantised.py                                       # 8 seeds, three students; 25 minutes
    python recipes/quantised.py --limit 500 --pairs 2 --epochs 1      # quick run

Look at ``quantise_in_three_ways``. Each seed trains a float student by distillation, which three arms turn into an int8
model. "PTQ" only calibrates it (post-training quantization). "QAD" then trains the fake-quantised student further on
the teacher's logits. "longer, PTQ" trains the float student further in the same way and quantizes it afterwards, since
QAD has more training than PTQ alone. The int8 ONNX file of each arm computes what is measured here
(docs/quantization.md).

The students are MNIST's MLP and a narrow depthwise-separable CNN, of a kind that is said to lose most by quantization:
its few channels share one range of activations, and each depthwise filter has only 9 weights. The third one, the
student ``cnn:2``, has 2, 4 and 8 channels, and loses most.

Sources: Jacob et al. 2018, arXiv:1712.05877 (quantization-aware training); Mishra & Marr 2018, "Apprentice",
arXiv:1711.05852 (a distilled student with low-precision weights, trained on from the float student).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import Tensor, nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data import ImageDataset
from kd.data.mnist import MEAN, STD
from kd.data.splits import stratified_split
from kd.deploy.quantised import quantise
from kd.models import CNN, MLP, ConvNet

FLOAT, PTQ, LONGER, QAD = "float", "PTQ", "longer, PTQ", "QAD"
CALIBRATION = 512  # training images that show the ranges of activations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Post-training quantization against quantization-aware distillation, over paired seeds."""

    pairs: int = 8
    """number of seeds; each arm has one student per seed"""
    epochs: int = 5
    """epochs of teacher and float student"""
    further_epochs: int = 2
    """epochs of quantization-aware distillation, and of the longer float training"""
    learning_rate: float = 4e-3
    """learning rate of teacher and float student"""
    further_learning_rate: float = 4e-4
    """learning rate of the further epochs"""
    temperature: float = 5.0
    """distillation temperature"""
    alpha: float = 0.5
    """weight of the labels; the teacher's weight is 1 - alpha"""
    width: int = 4
    """channels of the narrow CNN"""
    students: tuple[Literal["mlp", "narrow", "tiny"], ...] = ("mlp", "narrow", "tiny")
    """students to compare: MNIST's MLP, the narrow CNN, the tiny CNN"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


class NarrowCNN(nn.Module):
    """A depthwise-separable network: a convolution, three blocks of a 3 × 3 depthwise and a 1 × 1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(_separable(*widths[i : i + 2], stride=2 - i % 2) for i in range(3)))
        self.output = nn.Linear(widths[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


def _separable(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    first, second = (nn.BatchNorm2d(inputs), nn.ReLU()), (nn.BatchNorm2d(outputs), nn.ReLU())
    return nn.Sequential(depthwise, *first, pointwise, *second)


def quantise_in_three_ways(
    student: nn.Module, data: kd.DistillDataset, seed: int, settings: Settings
) -> dict[str, nn.Module]:
    """Return the float student and its int8 versions, by arm.

    Args:
        data: training samples (input, label, teacher logits).
    """
    calibration = [torch.stack([data[row][0] for row in range(min(CALIBRATION, len(data)))])]
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    further: dict[str, Any] = {
        "seed": seed,
        "epochs": settings.further_epochs,
        "learning_rate": settings.further_learning_rate,
    }
    calibrated = quantise(student, calibration)
    return {
        FLOAT: student,
        PTQ: calibrated,
        LONGER: quantise(train_copy(student, objective, data, **further), calibration),
        QAD: train_copy(calibrated, objective, data, **further),
    }


def main(settings: Settings) -> dict[str, dict[str, list[int]]]:
    """Return the errors by student and arm, in the order of the seeds."""
    mnist = kd.load_mnist(train=True)
    training, held_back = stratified_split(mnist, held_back=0.1, seed=0, limit=settings.limit)
    images = ImageDataset(mnist.images[training.indices], mnist.labels[training.indices], mean=MEAN, std=STD)
    schedule: dict[str, Any] = {"epochs": settings.epochs, "learning_rate": settings.learning_rate}
    with kd.seeded(0):
        start: nn.Module = ConvNet()
    teacher = train_copy(start, kd.supervised, images, seed=0, **schedule)
    data = kd.DistillDataset(images, kd.collect_logits(teacher, images).logits)
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    errors: dict[str, dict[str, list[int]]] = {}
    makers: dict[str, tuple[str, Callable[[], nn.Module]]] = {
        "mlp": ("MLP", lambda: MLP(256)),
        "narrow": ("narrow CNN", lambda: NarrowCNN(settings.width)),
        "tiny": ("tiny CNN", lambda: CNN(2, (1, 28, 28), 10)),
    }
    for name, make in (makers[key] for key in settings.students):
        errors[name] = {arm: [] for arm in (FLOAT, PTQ, LONGER, QAD)}
        for seed in range(settings.pairs):
            with kd.seeded(seed):
                start = make()
            student = train_copy(start, objective, data, seed=seed, **schedule)
            for arm, model in quantise_in_three_ways(student, data, seed, settings).items():
                errors[name][arm].append(count_errors(model, held_back))
        comparisons = [(PTQ, FLOAT), (QAD, PTQ), (QAD, LONGER)]
        judge_arms(errors[name], comparisons, images=len(held_back), title=f"{name}: errors")
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
