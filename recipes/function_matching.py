"""Patient and consistent: the teacher as a function to be matched, on views and mixtures, for a long time.

    python recipes/function_matching.py                         # 3 students of each kind
    python recipes/function_matching.py --limit 500 --pairs 2   # at toy size

What to look at: mixtures of two images cannot be kept in a cache, so the teacher answers at every step, to the very
picture that the student sees: the same shift, the same partner, the same share. No label is used, and the temperature
is 1. A mean of the two images' kept logits would be another lesson: the teacher's answer to a mixture is not the
mixture of its answers.

Controls, from the same weights and on the same views: the labels, the labels of the very same mixtures, and the same
matching in a third of the time. The authors train for up to a thousand times as long, with weight decay and clipped
gradients, which are left out here.

Source: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237; mixup:
Zhang et al. 2018, arXiv:1710.09412.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data import ImageDataset
from kd.data.mnist import MEAN, STD
from kd.data.splits import stratified_split
from kd.data.views import ShiftedImages, one_view_each
from kd.models import MLP, ConvNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A matched function beside the labels."""

    pairs: int = 3
    """students of each kind"""
    epochs: int = 9
    """of every student but the impatient one, who has a third of them"""
    teacher_epochs: int = 3
    """of the teacher, on views"""
    reach: int = 2
    """pixels of the largest shift"""
    limit: int | None = None
    """use only so many training images"""


def mixture(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each image mixed with another one of the batch; the other's row, and the share of the first, one for all.

    Drawn from torch's generator, which ``kd.fit`` seeds before each epoch: the same for every arm.
    """
    share, partner = torch.rand((), device=images.device), torch.randperm(len(images), device=images.device)
    return share * images + (1 - share) * images[partner], partner, share


def mixed_labels(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy with both labels of each mixture, by their shares."""
    images, partner, share = mixture(batch[0])
    output = model(images)
    first, second = F.cross_entropy(output, batch[1]), F.cross_entropy(output, batch[1][partner])
    return output, {"hard": share * first + (1 - share) * second}


def matching(teacher: nn.Module) -> kd.Objective:
    """The teacher's answer to each mixture, and nothing else."""
    asked = kd.live_teacher(teacher, kd.distilled(temperature=1, alpha=0))

    def objective(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, _, _ = mixture(batch[0])
        return asked(model, (images, batch[1]))

    return objective


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    mnist = kd.load_mnist(train=True)
    training, held_back = stratified_split(mnist, held_back=0.1, seed=0, limit=settings.limit)
    images = ImageDataset(mnist.images[training.indices], mnist.labels[training.indices], mean=MEAN, std=STD)
    views = ShiftedImages(images, reach=settings.reach)
    loader = one_view_each(views, views.views, batch_size=128)
    with kd.seeded(0):
        teacher = train_copy(ConvNet(), kd.supervised, loader, seed=0, epochs=settings.teacher_epochs)
    arms = {
        "labels": (kd.supervised, settings.epochs),
        "mixed labels": (mixed_labels, settings.epochs),
        "matching": (matching(teacher), settings.epochs),
        "impatient": (matching(teacher), max(1, settings.epochs // 3)),
    }
    found: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MLP(256)
        for name, (objective, epochs) in arms.items():
            student = train_copy(start, objective, loader, seed=seed, epochs=epochs)
            found[name].append(count_errors(student, held_back))
    title = f"the teacher has {count_errors(teacher, held_back)} errors; of a student's"
    against = [("matching", name) for name in found if name != "matching"]
    judge_arms(found, against, images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
