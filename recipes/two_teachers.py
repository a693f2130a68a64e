"""Two teachers as one: their softened probabilities averaged, so that one cache of logits teaches.

    python recipes/two_teachers.py                         # 5 students of each kind
    python recipes/two_teachers.py --limit 500 --pairs 2   # at toy size

What to look at: ``kd.teachers.ensemble.Ensemble`` is a model like any other. Its answers are collected and verified as
a single teacher's are, and the student's objective does not know how many have answered. Averaged are probabilities, at
the temperature of the distillation, and at that one only; ``how="logits"`` would hold at all of them.

Two questions, each with its own control, from the same weights and on the same batches: are two teachers worth more
than the labels, and more than the better one of them alone?

Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2; You et al. 2017, "Learning from Multiple Teacher
Networks".
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro
from torch import nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data import Split
from kd.data.splits import stratified_split
from kd.models import MLP, ConvNet
from kd.teachers.ensemble import Ensemble


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Two teachers beside the better one of them and the labels."""

    pairs: int = 5
    """students of each kind"""
    epochs: int = 3
    """of the teachers and of every student"""
    temperature: float = 5.0
    """at which probabilities are averaged and students taught"""
    alpha: float = 0.5
    """weight of the labels; the teachers get the rest"""
    limit: int | None = None
    """use only so many training images"""


def make_distill_dataset(teacher: nn.Module, training: Split) -> kd.DistillDataset:
    """The images with this teacher's answers, proved to belong to them."""
    cached = kd.collect_logits(teacher, training)
    kd.verify_logits(teacher, training, cached)
    return kd.DistillDataset(training, cached.logits)


def new_teacher(training: Split, *, seed: int, epochs: int) -> ConvNet:
    """A teacher of its own: other weights at the start, other batches."""
    with kd.seeded(seed):
        start = ConvNet()
    return train_copy(start, kd.supervised, training, seed=seed, epochs=epochs)


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    teachers = [new_teacher(training, seed=seed, epochs=settings.epochs) for seed in (1000, 1001)]
    both = Ensemble(teachers, temperature=settings.temperature)
    alone = min(teachers, key=lambda teacher: count_errors(teacher, held_back))  # in favour of the control
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    arms = {
        "labels": (kd.supervised, training),
        "one teacher": (objective, make_distill_dataset(alone, training)),
        "two teachers": (objective, make_distill_dataset(both, training)),
    }
    found: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MLP(256)
        for name, (towards, data) in arms.items():
            student = train_copy(start, towards, data, seed=seed, epochs=settings.epochs)
            found[name].append(count_errors(student, held_back))
    own = " and ".join(str(count_errors(teacher, held_back)) for teacher in teachers)
    title = f"the teachers have {own} errors, together {count_errors(both, held_back)}; of a student's"
    against = [("two teachers", "labels"), ("two teachers", "one teacher")]
    judge_arms(found, against, images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
