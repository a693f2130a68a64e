"""Distill with 1,000 labelled and 59,000 unlabelled digits: do unlabelled images help?

    python recipes/unlabelled.py             # 8 students per arm: six minutes on one core
    python recipes/unlabelled.py --quick     # quick run, to try the script

Look at ``compare_students``: for each seed there are three students with the same initial weights and number of steps.
The control is trained on the 1,000 labels alone, the second is distilled on the same 1,000 images, the third on all
images, labelled and unlabelled. There are two teachers: the first is trained on the same 1,000 labels, the second, like
a pretrained teacher, on all 60,000. Temperature and alpha were fixed beforehand; test images are used only after
training. Results are in docs/own_data.md.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro
from torch import nn
from torch.utils.data import Dataset

import kd
from kd.commands.trials import verdict_cells
from kd.console import print_table, say
from kd.data import Split
from kd.data.splits import stratified_order
from kd.data.unlabelled import repeated
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import Judgement, judge_counts
from kd.models import MLP, ConvNet
from kd.teachers.cache import with_unlabelled
from kd.training.optimizers import adam

CONTROL, DISTILLED, MORE = "labels alone", "distilled", "distilled, with unlabelled"
COMPARISONS = ((DISTILLED, CONTROL), (MORE, CONTROL), (MORE, DISTILLED))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """MNIST with few labels: students with and without the unlabelled images, for two teachers."""

    labels: int = 1000
    """number of labelled images, stratified by class; all other labels are hidden"""
    limit: int | None = None
    """train on the first N images only (stratified), labelled and unlabelled together"""
    pairs: int = 8
    """number of seeds; each arm has one student per seed"""
    width: int = 256
    """hidden units of the students"""
    epochs: int = 4
    """epochs of every student over all training images; labelled images alone are repeated to the same length"""
    teacher_epochs: int = 2
    """epochs of both teachers, each with the same number of images as an epoch of a student"""
    temperature: float = 4.0
    """distillation temperature"""
    alpha: float = 0.1
    """weight of the labels: loss = alpha * CE + (1 - alpha) * T^2 * KL"""
    quick: bool = False
    """quick run, too small to conclude anything from"""

    def apply_quick(self) -> Settings:
        """Return the settings of a quick run if ``--quick`` is given, else these settings."""
        quick: dict[str, Any] = {"labels": 100, "limit": 600, "pairs": 2, "width": 8, "epochs": 1, "teacher_epochs": 1}
        return dataclasses.replace(self, **quick) if self.quick else self


class Images(NamedTuple):
    """Training and test images."""

    labelled: Split
    unlabelled: Split
    all: Split  # both; only the second teacher uses all labels
    test: kd.ImageDataset


def load_images(settings: Settings) -> Images:
    """Load MNIST; the first images of the stratified order are labelled, the labels of the rest are not read."""
    training, test = (kd.load_mnist(train=train) for train in (True, False))
    order = stratified_order(training.labels, seed=0)[: settings.limit].tolist()
    labelled, unlabelled = order[: settings.labels], order[settings.labels :]
    return Images(Split(training, labelled), Split(training, unlabelled), Split(training, order), test)


def train_model(
    new: Callable[[], nn.Module], objective: kd.Objective, dataset: Dataset[Any], *, seed: int, epochs: int
) -> nn.Module:
    """Make a model from this seed, train it and return it; the dataset's length determines the number of steps."""
    with kd.seeded(seed):
        model = new()
    loader = kd.make_loader(dataset, batch_size=128, shuffle=True)
    optimizer, scheduler = adam(model, learning_rate=2e-3, steps=epochs * len(loader))
    kd.fit(model, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=epochs, seed=seed)
    return model


def count_errors(model: nn.Module, test: Dataset[Any]) -> int:
    """Count the misclassified test images."""
    logits, labels = kd.predict(model, kd.make_loader(test, batch_size=500))
    return int((logits.argmax(dim=1) != labels).sum())


def count_errors_by_seed(dataset: Dataset[Any], objective: kd.Objective, data: Images, settings: Settings) -> list[int]:
    """Train one student per seed and return their test errors; the seed determines the initial weights."""
    new, epochs = functools.partial(MLP, settings.width), settings.epochs
    models = (train_model(new, objective, dataset, seed=seed, epochs=epochs) for seed in range(settings.pairs))
    return [count_errors(model, data.test) for model in models]


def compare_students(teacher: nn.Module, control: list[int], data: Images, settings: Settings) -> dict[str, Judgement]:
    """Train one teacher's students and return the verdicts by pair of arms."""
    distill_set = with_unlabelled(teacher, data.labelled, data.unlabelled)
    few = kd.DistillDataset(data.labelled, distill_set.logits[: settings.labels])
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    datasets: dict[str, Dataset[Any]] = {DISTILLED: repeated(few, len(data.all)), MORE: distill_set}
    errors = {name: count_errors_by_seed(dataset, objective, data, settings) for name, dataset in datasets.items()} | {
        CONTROL: control
    }
    say(f"errors by seed: {errors}")
    pairs = {
        f"{first} − {second}": pair_errors(errors[second], errors[first], len(data.test))
        for first, second in COMPARISONS
    }
    return judge_counts(pairs)


def main(settings: Settings) -> dict[str, dict[str, Judgement]]:
    """Return the verdicts by teacher."""
    data = load_images(settings)
    few = repeated(data.labelled, len(data.all))
    control, verdicts = count_errors_by_seed(few, kd.supervised, data, settings), {}
    for name, dataset in {f"{settings.labels:,} labels": few, f"all {len(data.all):,} labels": data.all}.items():
        teacher = train_model(ConvNet, kd.supervised, dataset, seed=0, epochs=settings.teacher_epochs)
        verdicts[name] = compare_students(teacher, control, data, settings)
        title = f"teacher trained on {name}, {count_errors(teacher, data.test)} errors; {settings.pairs} pairs"
        header = ("students", "first", "second", "difference (interval that decides)", "verdict")
        print_table(title, header, {pair: verdict_cells(judgement) for pair, judgement in verdicts[name].items()})
    return verdicts


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).apply_quick())
