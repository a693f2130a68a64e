"""No data: the student learns from pictures that a generator finds in the teacher, and sees no real one (DAFL).

    python recipes/data_free.py                         # 3 seeds
    python recipes/data_free.py --limit 500 --pairs 2   # at toy size

What to look at: the data set is noise, and all the rest is one objective, ``DataFree``, that ``kd.fit`` trains as it
trains anything. Its generator makes pictures of the noise. They are good where the teacher is sure of one class, where
its last features are strong, and where all classes come up as often; that gradient goes *through* the teacher, which is
why it is asked with gradients and only its weights are frozen. The student is taught the teacher's answers to the same
pictures, as given: no gradient of its own reaches the generator, so both are one step of one optimizer.

Controls, from the same weights and for as many steps of as many pictures: a student taught on real images, and one
taught on noise without a generator. The real images held back are looked at by nobody but the one who counts.

Source: Chen et al. 2019, "Data-Free Learning of Student Networks", arXiv:1904.01186, with their weights for MNIST. The
generator is theirs in shape and smaller, Adam and its step size are this project's, and the student is a network like
the teacher, from other weights: what is shown is what can be learned without data, and no compression.
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
    """A student without data beside one with data, and one with noise."""

    pairs: int = 3
    """seeds"""
    steps: int = 400
    """of every student, of 128 pictures each"""
    teacher_epochs: int = 3
    """of the teacher, on real images"""
    latent: int = 100
    """numbers of which a picture is made"""
    activation: float = 0.1
    """weight of strong features"""
    balance: float = 5.0
    """weight of all classes coming up as often, whose entropy is taken to base 10 as in the authors' program"""
    temperature: float = 4.0
    """of the student's lesson"""
    limit: int | None = None
    """use only so many training images"""


class Generator(nn.Sequential):
    """Pictures [B, 1, 28, 28] of mean 0 and deviation 1 of noise [B, latent]."""

    def __init__(self, latent: int, width: int = 16) -> None:
        def bigger(inputs: int, maps: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, maps, 3, padding=1)
            return [nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(maps), nn.LeakyReLU(0.2)]

        enter = [nn.Linear(latent, 2 * width * 7 * 7), nn.Unflatten(1, (2 * width, 7, 7)), nn.BatchNorm2d(2 * width)]
        leave = [nn.Conv2d(width // 2, 1, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(1, affine=False)]
        super().__init__(*enter, *bigger(2 * width, width), *bigger(width, width // 2), *leave)


class DataFree(nn.Module):
    """The generator's three terms and the student's lesson. Batch: noise [B, latent]; what comes after is ignored."""

    def __init__(self, teacher: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.generator, self.settings = Generator(settings.latent), settings
        self.teacher = (copy.deepcopy(teacher).eval().requires_grad_(False),)  # in a tuple: no part of this module
        self.features = find_penultimate(teacher, torch.zeros(1, *MNIST_SHAPE))

    def forward(self, student: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        pictures = self.generator(batch[0])
        with capture(teacher, self.features) as found:
            logits = teacher(pictures)
        log_share = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))  # of each class in the batch
        output = student(pictures.detach())
        return output, {
            "sure": F.cross_entropy(logits, logits.argmax(dim=1)),
            "activation": -self.settings.activation * found[self.features].abs().mean(),
            "balance": self.settings.balance * (log_share.exp() * log_share).sum() / math.log(10),
            "soft": kd.kd_loss(output, logits, temperature=self.settings.temperature),
        }


def batches(dataset: Dataset[Any], steps: int) -> DataLoader[Any]:
    """So many batches of 128, drawn with replacement."""
    sampler = RandomSampler(cast(Sized, dataset), replacement=True, num_samples=128 * steps)
    return DataLoader(dataset, batch_size=128, sampler=sampler)


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        teacher = train_copy(ConvNet(), kd.supervised, training, seed=0, epochs=settings.teacher_epochs)
        none = torch.full((4096,), UNLABELLED)
        noise = TensorDataset(torch.randn(4096, settings.latent), none)
        pixels = TensorDataset(torch.randn(4096, *MNIST_SHAPE), none)
    found: dict[str, list[int]] = {"real": [], "noise": [], "data-free": []}
    for seed in range(1, settings.pairs + 1):  # 0 is the teacher's, whose first weights a student must not have
        with kd.seeded(seed):
            start, data_free = ConvNet(), DataFree(teacher, settings)
        taught = kd.live_teacher(teacher, kd.distilled(temperature=settings.temperature, alpha=0))
        arms: dict[str, tuple[kd.Objective, Dataset[Any]]] = {
            "real": (taught, training),
            "noise": (taught, pixels),
            "data-free": (data_free, noise),
        }
        for name, (objective, data) in arms.items():
            student = train_copy(start, objective, batches(data, settings.steps), seed=seed, epochs=1)
            found[name].append(count_errors(student, held_back))
    title = f"the teacher has {count_errors(teacher, held_back)} errors; of a student's"
    judge_arms(found, [("data-free", "noise"), ("data-free", "real")], images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
