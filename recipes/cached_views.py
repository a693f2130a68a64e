"""Cache the teacher's logits of augmented views: one row for every shift of an image by up to 2 pixels.

    python recipes/cached_views.py                         # 4 students per arm
    python recipes/cached_views.py --limit 500 --pairs 2   # quick run

Look at ``collect_view_logits``: an augmentation with a finite number of views needs no live teacher and no replay of
random states. A sample's index identifies image and view, so view and logits always match. A random subset of the cache
is compared with the live teacher. The logits of 25 views of MNIST take 27 MB as float16.

Three arms start from the same weights and see the same views in the same order. The control is trained on the labels,
the second arm on the logits of each view, the third on the logits of the unshifted image for all its views, a common
shortcut.

Sources: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237; Shen &
Xing 2022, "A Fast Knowledge Distillation Framework for Visual Recognition", arXiv:2112.01528, who store the coordinates
of crops.
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
    """Cached logits of each view against cached logits of the unshifted image and against the labels."""

    pairs: int = 4
    """number of seeds; each arm has one student per seed"""
    epochs: int = 5
    """epochs of every student; one view of each image per epoch"""
    teacher_epochs: int = 3
    """epochs of the teacher, also on views"""
    reach: int = 2
    """largest shift in pixels"""
    temperature: float = 5.0
    """distillation temperature"""
    alpha: float = 0.5
    """weight of the labels; the teacher's weight is 1 - alpha"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


def collect_view_logits(teacher: nn.Module, views: ShiftedImages) -> Tensor:
    """Collect the teacher's logits as float16, in row ``image · views + view``, and verify a random sample."""
    cached = kd.collect_logits(Centred(teacher), views)
    float16_logits = cached.logits.half()
    kd.verify_logits(Centred(teacher), views, Predictions(float16_logits, cached.labels), sample=2048)
    return float16_logits


class Centred(nn.Module):
    """A model's logits minus their mean: equal softmax at every temperature, and smaller float16 rounding errors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits - logits.mean(dim=1, keepdim=True)


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    mnist = kd.load_mnist(train=True)
    training, held_back = stratified_split(mnist, held_back=0.1, seed=0, limit=settings.limit)
    images = ImageDataset(mnist.images[training.indices], mnist.labels[training.indices], mean=MEAN, std=STD)
    views = ShiftedImages(images, reach=settings.reach)
    with kd.seeded(0):
        on_views = one_view_each(views, views.views, batch_size=128)
        teacher = train_copy(ConvNet(), kd.supervised, on_views, seed=0, epochs=settings.teacher_epochs)
    view_logits = collect_view_logits(teacher, views)
    middle = view_logits[views.views // 2 :: views.views]  # the middle view is the unshifted image
    image_logits = middle.repeat_interleave(views.views, dim=0)
    distilled = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    arms = {
        "labels": (kd.supervised, view_logits),
        "view logits": (distilled, view_logits),
        "image logits": (distilled, image_logits),
    }
    errors: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MLP(256)
        for name, (objective, logits) in arms.items():
            loader = one_view_each(kd.DistillDataset(views, logits), views.views, batch_size=128)
            student = train_copy(start, objective, loader, seed=seed, epochs=settings.epochs)
            errors[name].append(count_errors(student, held_back))
    title = f"{len(view_logits):,} cached views; student errors (teacher: {count_errors(teacher, held_back)})"
    comparisons = [("view logits", "labels"), ("view logits", "image logits")]
    judge_arms(errors, comparisons, images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
