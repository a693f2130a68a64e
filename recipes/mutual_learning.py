"""Deep mutual learning: no teacher at all, two students that learn from the labels and from each other.

    python recipes/mutual_learning.py                         # 8 pairs
    python recipes/mutual_learning.py --limit 500 --pairs 2   # at toy size

What to look at: the two are one model, ``Peers``, and the method is one objective of it, so ``kd.fit`` trains them as
it trains anything. Both answer before either is changed, and each takes the other's answer as given: a gradient that
reached the other would pull the one who is right towards the one who is wrong. (The paper steps one after the other,
the second with the first one's new answer.) Control: the same two, from the same weights and on the same batches,
without a word to each other.

Source: Zhang et al. 2018, "Deep Mutual Learning", arXiv:1706.00384; its temperature is 1, its weights are 1 and 1.
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
from kd.data.splits import stratified_split
from kd.models import MLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Two students that teach each other, beside the same two alone."""

    pairs: int = 8
    """of two students each"""
    epochs: int = 5
    """of every student"""
    weight: float = 1.0
    """of the other's answer, beside the cross-entropy with the labels"""
    limit: int | None = None
    """use only so many training images"""


class Peers(nn.Module):
    """Students that are trained side by side; together they answer with the mean of their logits."""

    def __init__(self, *students: nn.Module) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([student(inputs) for student in self.students]).mean(dim=0)


def mutual(*, weight: float) -> kd.Objective:
    """For each of two peers: cross-entropy with the labels, and ``weight`` times the divergence from the other."""

    def objective(peers: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(peers, Peers)
        first, second = (student(batch[0]) for student in peers.students)  # both, before either is changed
        hard = F.cross_entropy(first, batch[1]) + F.cross_entropy(second, batch[1])
        # kd_loss lets no gradient reach its second argument, who is the teacher here.
        soft = kd.kd_loss(first, second, temperature=1) + kd.kd_loss(second, first, temperature=1)
        return (first + second) / 2, {"hard": hard, "mutual": weight * soft}

    return objective


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors of both students together, and of their mean, alone and as peers, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    arms = {"alone": mutual(weight=0), "mutual": mutual(weight=settings.weight)}
    found: dict[str, list[int]] = {name: [] for name in arms}
    averaged: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = Peers(MLP(256), MLP(256))  # the second one's weights are other ones
        for name, objective in arms.items():
            peers = train_copy(start, objective, training, seed=seed, epochs=settings.epochs)
            # The two have learned from each other, so they count as one observation, and not as two.
            found[name].append(sum(count_errors(student, held_back) for student in peers.students))
            averaged[name].append(count_errors(peers, held_back))
    judge_arms(found, [("mutual", "alone")], images=2 * len(held_back), title="of two students together, errors")
    judge_arms(averaged, [("mutual", "alone")], images=len(held_back), title="of the mean of their logits, errors")
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
