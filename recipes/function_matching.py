"""Function matching: long training that matches the teacher's outputs on shifted and mixed images.

    python recipes/function_matching.py                         # 3 students per arm
    python recipes/function_matching.py --limit 500 --pairs 2   # quick run

Look at ``matching``: the logits of random mixtures cannot be cached, so the teacher runs at every step on exactly the
student's input: the same shift, mixing partner and mixing weight. No label is used, and the temperature is 1. Mixing
the cached logits of the two images would not be equivalent: the teacher's output for a mixture is not the mixture of
its outputs.

Controls, from the same weights and on the same views: the labels of unmixed images, the mixed labels of the same
mixtures, and function matching for a third of the epochs. The authors train up to a thousand times longer, with weight
decay and gradient clipping, both omitted here.

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
    """Function matching against the labels, mixed labels and a shorter training."""

    pairs: int = 3
    """number of seeds; each arm has one student per seed"""
    epochs: int = 9
    """epochs of every student; the arm "impatient" trains for a third as long"""
    teacher_epochs: int = 3
    """epochs of the teacher, on views"""
    reach: int = 2
    """largest shift in pixels"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


def mix_images(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each image with a random image of the batch; return the mixtures, the partners' rows and the mixing weight.

    Random numbers come from torch's global generator, which ``kd.fit`` seeds before each epoch, so all arms mix alike.
    """
    share, partner = torch.rand((), device=images.device), torch.randperm(len(images), device=images.device)
    return share * images + (1 - share) * images[partner], partner, share


def mixed_labels(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the cross-entropy with both labels of each mixture, weighted by their shares."""
    images, partner, share = mix_images(batch[0])
    output = model(images)
    first, second = F.cross_entropy(output, batch[1]), F.cross_entropy(output, batch[1][partner])
    return output, {"hard": share * first + (1 - share) * second}


def matching(teacher: nn.Module) -> kd.Objective:
    """Return the objective that matches the teacher's probabilities of each mixture, without labels."""
    match_teacher = kd.live_teacher(teacher, kd.distilled(temperature=1, alpha=0))

    def objective(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, _, _ = mix_images(batch[0])
        return match_teacher(model, (images, batch[1]))

    return objective


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
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
    errors: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MLP(256)
        for name, (objective, epochs) in arms.items():
            student = train_copy(start, objective, loader, seed=seed, epochs=epochs)
            errors[name].append(count_errors(student, held_back))
    title = f"student errors (teacher: {count_errors(teacher, held_back)})"
    comparisons = [("matching", name) for name in errors if name != "matching"]
    judge_arms(errors, comparisons, images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
