"""Distill through a chain of networks: teacher assistants (TAKD) and born-again networks (BAN).

    python recipes/assistants.py                          # both chains, 5 seeds
    python recipes/assistants.py --limit 500 --pairs 2    # quick run

Look at ``train_chain``, the whole method: each network is distilled from the previous one. With decreasing sizes, an
assistant bridges the gap between a large teacher and a small student (TAKD). With equal sizes, the network is born
again (BAN). The last network of a chain has the control's initial weights and batches, so the arms differ only in the
networks before it.

    assistant     ConvNet → 256 units → 32 units       controls: 32 units on the labels; ConvNet → 32 units
    born again    256 → 256 → 256 units                controls: 256 units on the labels; 256 → 256 units

Sources: Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", arXiv:1902.03393; Furlanello et
al. 2018, "Born-Again Neural Networks", arXiv:1805.04770. Both use the temperature and alpha of ``kd run``.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro
from torch import nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.data import Split
from kd.data.splits import stratified_split
from kd.models import MLP, ConvNet
from kd.seeding import epoch_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Chains of networks against a single distillation and against training on the labels alone."""

    pairs: int = 5
    """number of seeds; each arm has one student per seed"""
    epochs: int = 3
    """epochs of the teacher and of every student"""
    large: int = 256
    """hidden units of the assistant and of the born-again networks"""
    small: int = 32
    """hidden units of the student with an assistant"""
    temperature: float = 5.0
    """temperature of every distillation"""
    alpha: float = 0.5
    """weight of the labels in every distillation; the teacher's weight is 1 - alpha"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


def train_chain(teacher: nn.Module | None, units: Sequence[int], training: Split, settings: Settings, seed: int) -> MLP:
    """Train a chain of networks with these numbers of units and return the last one.

    Args:
        teacher: teacher of the first network; None trains it on the labels.
    """
    for index, width in enumerate(units):
        # The last network always gets ``seed``, so its initial weights and batches do not depend on the chain's length.
        model_seed = seed if index == len(units) - 1 else epoch_seed(seed, len(units) - index)
        with kd.seeded(model_seed):
            start = MLP(width)
        if teacher is None:
            student = train_copy(start, kd.supervised, training, seed=model_seed, epochs=settings.epochs)
        else:
            cached = kd.collect_logits(teacher, training)
            kd.verify_logits(teacher, training, cached)
            distill_set = kd.DistillDataset(training, cached.logits)
            objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
            student = train_copy(start, objective, distill_set, seed=model_seed, epochs=settings.epochs)
        teacher = student
    return student


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors of the last network of each chain, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        convnet = train_copy(ConvNet(), kd.supervised, training, seed=0, epochs=settings.epochs)
    large, small = settings.large, settings.small
    chains: dict[str, tuple[nn.Module | None, Sequence[int]]] = {
        "small": (None, [small]),
        "teacher → small": (convnet, [small]),
        "teacher → large → small": (convnet, [large, small]),
        "large": (None, [large]),
        "born again": (None, [large, large]),
        "born again twice": (None, [large, large, large]),
    }
    errors: dict[str, list[int]] = {name: [] for name in chains}
    for seed in range(settings.pairs):
        for name, (teacher, units) in chains.items():
            errors[name].append(count_errors(train_chain(teacher, units, training, settings, seed), held_back))
    comparisons = [
        ("teacher → large → small", "small"),
        ("teacher → large → small", "teacher → small"),
        ("born again", "large"),
        ("born again twice", "large"),
        ("born again twice", "born again"),
    ]
    title = f"student errors (ConvNet: {count_errors(convnet, held_back)})"
    judge_arms(errors, comparisons, images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
