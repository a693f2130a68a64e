"""Cached views: each shift of an image by up to 2 pixels is an item of its own, with the teacher's answer to it.

    python recipes/cached_views.py                         # 4 students of each kind
    python recipes/cached_views.py --limit 500 --pairs 2   # at toy size

What to look at: an augmentation that can be counted needs no live teacher and no replay of random states. The number of
an item says which view of which image it is, so the student is given the very view whose logits it gets; a random
sample of the cache is held against the live teacher. As float16, 25 views of MNIST take 27 MB.

Three kinds of student, from the same weights, on the same views in the same order: on the labels (the control), with
each view's own logits, and, as it is often done, with those of the image that was not shifted, whatever the view.

Sources: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237; Shen &
Xing 2022, "A Fast Knowledge Distillation Framework for Visual Recognition", arXiv:2112.01528, who keep crops by
their coordinates.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro
from torch import Tensor, nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data import ImageDataset
from kd.data.mnist import MEAN, STD
from kd.data.splits import stratified_split
from kd.data.views import ShiftedImages, one_view_each
from kd.models import MLP, ConvNet
from kd.models.inference import Predictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Students of the views' own logits beside students of the labels."""

    pairs: int = 4
    """students of each kind"""
    epochs: int = 5
    """of every student, one view of each image in each"""
    teacher_epochs: int = 3
    """of the teacher, on views too"""
    reach: int = 2
    """pixels of the largest shift"""
    temperature: float = 5.0
    """of the distillation"""
    alpha: float = 0.5
    """weight of the labels; the teacher gets the rest"""
    limit: int | None = None
    """use only so many training images"""


def collect_view_logits(teacher: nn.Module, views: ShiftedImages) -> Tensor:
    """The teacher's logits, row ``sample · views + view``, as float16, held against the live teacher on a sample."""
    cached = kd.collect_logits(Centred(teacher), views)
    half = cached.logits.half()
    kd.verify_logits(Centred(teacher), views, Predictions(half, cached.labels), sample=2048)
    return half


class Centred(nn.Module):
    """A model's logits less their mean: the same distribution at every temperature, and float16 is finest around 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits - logits.mean(dim=1, keepdim=True)


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    mnist = kd.load_mnist(train=True)
    training, held_back = stratified_split(mnist, held_back=0.1, seed=0, limit=settings.limit)
    images = ImageDataset(mnist.images[training.indices], mnist.labels[training.indices], mean=MEAN, std=STD)
    views = ShiftedImages(images, reach=settings.reach)
    with kd.seeded(0):
        on_views = one_view_each(views, views.views, batch_size=128)
        teacher = train_copy(ConvNet(), kd.supervised, on_views, seed=0, epochs=settings.teacher_epochs)
    own = collect_view_logits(teacher, views)
    whole = own[views.views // 2 :: views.views].repeat_interleave(views.views, dim=0)  # the middle view's, for all
    distilled = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    arms = {"labels": (kd.supervised, own), "own logits": (distilled, own), "the image's logits": (distilled, whole)}
    found: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MLP(256)
        for name, (objective, logits) in arms.items():
            loader = one_view_each(kd.DistillDataset(views, logits), views.views, batch_size=128)
            student = train_copy(start, objective, loader, seed=seed, epochs=settings.epochs)
            found[name].append(count_errors(student, held_back))
    title = f"{len(own):,} views cached; the teacher has {count_errors(teacher, held_back)} errors; of a student's"
    against = [("own logits", "labels"), ("own logits", "the image's logits")]
    judge_arms(found, against, images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
