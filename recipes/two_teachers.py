"""Distill from an ensemble of two teachers: average their softened probabilities and cache them as one teacher.

    python recipes/two_teachers.py                         # 5 students per arm
    python recipes/two_teachers.py --limit 500 --pairs 2   # quick run

Look at ``kd.teachers.ensemble.Ensemble``: it is an ordinary model, whose logits are collected and verified like the
logits of a single teacher. The student's objective is the same for any number of teachers. Probabilities are averaged
at the distillation temperature, so the logits are valid at this temperature only; with ``how="logits"`` they are valid
at all temperatures.

Do two teachers help more than the labels alone, and more than the better teacher alone? Each question has its own
control, from the same weights and on the same batches.

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
    """Two teachers against the better teacher alone and against the labels alone."""

    pairs: int = 5
    """number of seeds; each arm has one student per seed"""
    epochs: int = 3
    """epochs of the teachers and of every student"""
    temperature: float = 5.0
    """temperature of the distillation and of the averaged probabilities"""
    alpha: float = 0.5
    """weight of the labels; the teachers' weight is 1 - alpha"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


def make_distill_dataset(teacher: nn.Module, training: Split) -> kd.DistillDataset:
    """Return the training images with this teacher's verified logits."""
    cached = kd.collect_logits(teacher, training)
    kd.verify_logits(teacher, training, cached)
    return kd.DistillDataset(training, cached.logits)


def train_teacher(training: Split, *, seed: int, epochs: int) -> ConvNet:
    """Train a teacher whose initial weights and batches depend on the seed."""
    with kd.seeded(seed):
        start = ConvNet()
    return train_copy(start, kd.supervised, training, seed=seed, epochs=epochs)


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    teachers = [train_teacher(training, seed=seed, epochs=settings.epochs) for seed in (1000, 1001)]
    both = Ensemble(teachers, temperature=settings.temperature)
    best = min(teachers, key=lambda teacher: count_errors(teacher, held_back))  # favours the control
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    arms = {
        "labels": (kd.supervised, training),
        "one teacher": (objective, make_distill_dataset(best, training)),
        "two teachers": (objective, make_distill_dataset(both, training)),
    }
    errors: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = MLP(256)
        for name, (arm_objective, data) in arms.items():
            student = train_copy(start, arm_objective, data, seed=seed, epochs=settings.epochs)
            errors[name].append(count_errors(student, held_back))
    single = ", ".join(str(count_errors(teacher, held_back)) for teacher in teachers)
    title = f"student errors (teachers: {single}; ensemble: {count_errors(both, held_back)})"
    comparisons = [("two teachers", "labels"), ("two teachers", "one teacher")]
    judge_arms(errors, comparisons, images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
