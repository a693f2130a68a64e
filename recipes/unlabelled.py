"""1,000 labelled digits and 59,000 unlabelled ones: what is a teacher's answer worth where nobody has given a label?

    python recipes/unlabelled.py             # 8 students of each kind: six minutes on one core
    python recipes/unlabelled.py --quick     # at toy size, to try the script

Three kinds of student for each seed, from the same weights and with the same number of steps: on the 1,000 labels alone
(the control), distilled on the same 1,000 images, and distilled on these and the unlabelled rest. In one block the
teacher has seen no more labels than its students; in the other all 60,000: a teacher that somebody else had the data
for. Temperature and alpha were set beforehand; test images are read after training. docs/own_data.md has the outcome.
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
from kd.console import print_table, say
from kd.data import Split
from kd.data.splits import stratified_order
from kd.data.unlabelled import repeated
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import Judgement, judge_all
from kd.models import MLP, ConvNet
from kd.teachers.cache import with_unlabelled
from kd.training.optimizers import adam

CONTROL, DISTILLED, MORE = "labels alone", "distilled", "distilled, with unlabelled"
AGAINST = ((DISTILLED, CONTROL), (MORE, CONTROL), (MORE, DISTILLED))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """MNIST with few labels: students with and without the unlabelled images, of two teachers."""

    labels: int = 1000
    """images whose label is known, stratified by class; the labels of the others are hidden"""
    limit: int | None = None
    """use only so many training images, labelled and unlabelled together"""
    pairs: int = 8
    """students of each kind"""
    width: int = 256
    """of the students' hidden layer"""
    epochs: int = 4
    """of every student, counted in all training images: the labelled ones alone are repeated as often as it takes"""
    teacher_epochs: int = 2
    """of both teachers, counted likewise"""
    temperature: float = 4.0
    """of the soft targets"""
    alpha: float = 0.1
    """weight of the labels: loss = alpha * CE + (1 - alpha) * T^2 * KL"""
    quick: bool = False
    """toy size, which says nothing"""

    def sized(self) -> Settings:
        """These settings, or what ``--quick`` makes of them."""
        toy: dict[str, Any] = {"labels": 100, "limit": 600, "pairs": 2, "width": 8, "epochs": 1, "teacher_epochs": 1}
        return dataclasses.replace(self, **toy) if self.quick else self


class Images(NamedTuple):
    """What is there to learn from and to be judged on."""

    labelled: Split
    unlabelled: Split
    all: Split  # the second teacher has their labels
    test: kd.ImageDataset


def images(settings: Settings) -> Images:
    """The first of the stratified order have labels. Those of the others are there, and nothing reads them."""
    training, test = (kd.load_mnist(train=train) for train in (True, False))
    order = stratified_order(training.labels, seed=0)[: settings.limit].tolist()
    labelled, unlabelled = order[: settings.labels], order[settings.labels :]
    return Images(Split(training, labelled), Split(training, unlabelled), Split(training, order), test)


def trained(
    new: Callable[[], nn.Module], objective: kd.Objective, dataset: Dataset[Any], *, seed: int, epochs: int
) -> nn.Module:
    """A new model of this seed after its training, whose steps are counted by the dataset's length."""
    with kd.seeded(seed):
        model = new()
    loader = kd.make_loader(dataset, batch_size=128, shuffle=True)
    optimizer, scheduler = adam(model, learning_rate=2e-3, steps=epochs * len(loader))
    kd.fit(model, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=epochs, seed=seed)
    return model


def errors(model: nn.Module, test: Dataset[Any]) -> int:
    """Test images that it gets wrong."""
    logits, labels = kd.predict(model, kd.make_loader(test, batch_size=500))
    return int((logits.argmax(dim=1) != labels).sum())


def all_errors(dataset: Dataset[Any], objective: kd.Objective, data: Images, settings: Settings) -> list[int]:
    """The test errors of one kind of student, by seed; each starts from its seed's weights."""
    new, epochs = functools.partial(MLP, settings.width), settings.epochs
    models = (trained(new, objective, dataset, seed=seed, epochs=epochs) for seed in range(settings.pairs))
    return [errors(model, data.test) for model in models]


def block(teacher: nn.Module, control: list[int], data: Images, settings: Settings) -> dict[str, Judgement]:
    """The verdicts on one teacher's students."""
    distill_set = with_unlabelled(teacher, data.labelled, data.unlabelled)
    few = kd.DistillDataset(data.labelled, distill_set.logits[: settings.labels])
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    datasets: dict[str, Dataset[Any]] = {DISTILLED: repeated(few, len(data.all)), MORE: distill_set}
    found = {name: all_errors(dataset, objective, data, settings) for name, dataset in datasets.items()} | {
        CONTROL: control
    }
    say(f"errors by seed: {found}")
    pairs = {f"{one} − {other}": pair_errors(found[other], found[one], len(data.test)) for one, other in AGAINST}
    return judge_all(pairs)


def cells(judgement: Judgement) -> list[str]:
    """Errors of both as mean ± standard deviation, their difference, and the verdict."""
    pairs = judgement.pairs
    arms = [f"{arm.mean:.1f} ± {arm.sd or 0:.1f}" for arm in (pairs.distilled, pairs.control)]
    between = f"{pairs.interval.low:+.1f} to {pairs.interval.high:+.1f}" if pairs.interval else "no interval"
    verdict = judgement.verdict.replace("larger than d", f"larger than {judgement.margin:.0f} errors")
    return [*arms, f"{pairs.mean:+.1f} ({between})", verdict]


def main(settings: Settings) -> dict[str, dict[str, Judgement]]:
    """The verdicts by teacher."""
    data = images(settings)
    few = repeated(data.labelled, len(data.all))
    control, verdicts = all_errors(few, kd.supervised, data, settings), {}
    for name, dataset in {f"{settings.labels:,} labels": few, f"all {len(data.all):,} labels": data.all}.items():
        teacher = trained(ConvNet, kd.supervised, dataset, seed=0, epochs=settings.teacher_epochs)
        verdicts[name] = block(teacher, control, data, settings)
        title = f"teacher trained on {name}, {errors(teacher, data.test)} errors; {settings.pairs} pairs"
        header = ("students", "first", "second", "difference (95 %)", "verdict")
        print_table(title, header, {pair: cells(judgement) for pair, judgement in verdicts[name].items()})
    return verdicts


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).sized())
