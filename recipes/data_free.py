"""Distill without data (DAFL): a generator trained against the teacher makes the student's training images.

    python recipes/data_free.py                         # 3 seeds
    python recipes/data_free.py --limit 500 --pairs 2   # quick run

Look at ``DataFree``: the dataset is noise, and the rest of the method is this objective for an unmodified ``kd.fit``. A
generator turns noise into images. Three terms reward a confident teacher, strong features in its last layer, and
equally frequent classes. Their gradient flows *through* the teacher, so the teacher runs with gradients enabled and
frozen weights. The student is distilled on the same images, detached: its loss does not reach the generator, so one
optimizer step trains both.

Controls, from the same weights, with the same number of steps and images: a student distilled on real images, and one
distilled on noise without a generator. The held-back real images are used only to count errors.

Source: Chen et al. 2019, "Data-Free Learning of Student Networks", arXiv:1904.01186, with the authors' loss weights for
MNIST. The generator has the authors' structure but is smaller; optimizer and learning rate are as in ``train_copy``.
The student has the teacher's architecture with different initial weights: the recipe shows learning without data, not
compression.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from collections.abc import Sized
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data.splits import stratified_split
from kd.models import MNIST_SHAPE, ConvNet
from kd.models.features import capture, find_penultimate
from kd.types import UNLABELLED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Distillation on generated images against distillation on real images and on noise."""

    pairs: int = 3
    """number of seeds; each arm has one student per seed"""
    steps: int = 400
    """training steps of every student, of 128 images each"""
    teacher_epochs: int = 3
    """epochs of the teacher, on real images"""
    latent: int = 100
    """size of the generator's noise vector"""
    activation: float = 0.1
    """weight of the feature activation term"""
    balance: float = 5.0
    """weight of the class balance term, the entropy in base 10 as in the authors' code"""
    temperature: float = 4.0
    """distillation temperature"""
    limit: int | None = None
    """train the teacher on the first N images only (stratified)"""


class Generator(nn.Sequential):
    """A generator of images [B, 1, 28, 28] with mean 0 and standard deviation 1 from noise [B, latent]."""

    def __init__(self, latent: int, width: int = 16) -> None:
        def upsample(inputs: int, maps: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, maps, 3, padding=1)
            return [nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(maps), nn.LeakyReLU(0.2)]

        first = [nn.Linear(latent, 2 * width * 7 * 7), nn.Unflatten(1, (2 * width, 7, 7)), nn.BatchNorm2d(2 * width)]
        last = [nn.Conv2d(width // 2, 1, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(1, affine=False)]
        super().__init__(*first, *upsample(2 * width, width), *upsample(width, width // 2), *last)


class DataFree(nn.Module):
    """The generator's three terms and the student's distillation loss; a batch is noise [B, latent], labels unused."""

    def __init__(self, teacher: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.generator, self.settings = Generator(settings.latent), settings
        # A tuple hides the teacher from torch, so it is neither trained nor saved.
        self.teacher = (copy.deepcopy(teacher).eval().requires_grad_(False),)
        self.features = find_penultimate(teacher, torch.zeros(1, *MNIST_SHAPE))

    def forward(self, student: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        images = self.generator(batch[0])
        with capture(teacher, self.features) as captured:
            logits = teacher(images)
        # The logarithm of each class's mean probability; finite even if the probability underflows.
        log_share = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
        output = student(images.detach())
        return output, {
            "sure": F.cross_entropy(logits, logits.argmax(dim=1)),
            "activation": -self.settings.activation * captured[self.features].abs().mean(),
            "balance": self.settings.balance * (log_share.exp() * log_share).sum() / math.log(10),
            "soft": kd.kd_loss(output, logits, temperature=self.settings.temperature),
        }


def make_loader(dataset: Dataset[Any], steps: int) -> DataLoader[Any]:
    """Make a loader with this number of batches of 128 samples, drawn with replacement."""
    sampler = RandomSampler(cast(Sized, dataset), replacement=True, num_samples=128 * steps)
    return DataLoader(dataset, batch_size=128, sampler=sampler)


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        teacher = train_copy(ConvNet(), kd.supervised, training, seed=0, epochs=settings.teacher_epochs)
        no_labels = torch.full((4096,), UNLABELLED)
        noise = TensorDataset(torch.randn(4096, settings.latent), no_labels)
        pixels = TensorDataset(torch.randn(4096, *MNIST_SHAPE), no_labels)
    errors: dict[str, list[int]] = {"real": [], "noise": [], "data-free": []}
    # Not from seed 0: it gave the teacher's initial weights, and the students have the same architecture.
    for seed in range(1, settings.pairs + 1):
        with kd.seeded(seed):
            start, data_free = ConvNet(), DataFree(teacher, settings)
        soft_targets = kd.live_teacher(teacher, kd.distilled(temperature=settings.temperature, alpha=0))
        arms: dict[str, tuple[kd.Objective, Dataset[Any]]] = {
            "real": (soft_targets, training),
            "noise": (soft_targets, pixels),
            "data-free": (data_free, noise),
        }
        for name, (objective, data) in arms.items():
            student = train_copy(start, objective, make_loader(data, settings.steps), seed=seed, epochs=1)
            errors[name].append(count_errors(student, held_back))
    title = f"student errors (teacher: {count_errors(teacher, held_back)})"
    judge_arms(errors, [("data-free", "noise"), ("data-free", "real")], images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
