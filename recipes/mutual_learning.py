"""Deep mutual learning: two students trained together on the labels and on each other's predictions, no teacher.

    python recipes/mutual_learning.py                         # 8 pairs
    python recipes/mutual_learning.py --limit 500 --pairs 2   # quick run

Look at ``Peers`` and ``mutual``: both students are one model, and the method is one objective for this model, so an
unmodified ``kd.fit`` trains them. Both outputs are computed before either student is updated. Each student's target,
the other's output, is detached: otherwise the gradient would also pull the better student towards the worse one. The
paper instead updates the students in turn, the second with the new output of the first.

Control: the same two students, from the same weights and on the same batches, without the mutual term.

Source: Zhang et al. 2018, "Deep Mutual Learning", arXiv:1706.00384; temperature 1, both loss weights 1.
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
    """Two students trained on each other's predictions against the same two trained independently."""

    pairs: int = 8
    """number of seeds; each arm has two students per seed"""
    epochs: int = 5
    """epochs of every student"""
    weight: float = 1.0
    """weight of the mutual term; the cross-entropy with the labels has weight 1"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


class Peers(nn.Module):
    """Students trained together; the output is the mean of their logits."""

    def __init__(self, *students: nn.Module) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([student(inputs) for student in self.students]).mean(dim=0)


def mutual(*, weight: float) -> kd.Objective:
    """Return the objective of two peers: for each, cross-entropy plus ``weight`` times the KL from the other."""

    def objective(peers: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(peers, Peers)
        first, second = (student(batch[0]) for student in peers.students)  # both before the update
        hard = F.cross_entropy(first, batch[1]) + F.cross_entropy(second, batch[1])
        # kd_loss detaches its second argument, the peer that acts as the teacher.
        soft = kd.kd_loss(first, second, temperature=1) + kd.kd_loss(second, first, temperature=1)
        return (first + second) / 2, {"hard": hard, "mutual": weight * soft}

    return objective


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the summed errors of both students by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    arms = {"alone": mutual(weight=0), "mutual": mutual(weight=settings.weight)}
    errors: dict[str, list[int]] = {name: [] for name in arms}
    ensemble_errors: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = Peers(MLP(256), MLP(256))  # the two differ in their initial weights
        for name, objective in arms.items():
            peers = train_copy(start, objective, training, seed=seed, epochs=settings.epochs)
            # The two students are not independent, so they count as one observation.
            errors[name].append(sum(count_errors(student, held_back) for student in peers.students))
            ensemble_errors[name].append(count_errors(peers, held_back))
    judge_arms(errors, [("mutual", "alone")], images=2 * len(held_back), title="errors of both students,")
    judge_arms(ensemble_errors, [("mutual", "alone")], images=len(held_back), title="errors of their mean logits,")
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
