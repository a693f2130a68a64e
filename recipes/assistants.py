"""A chain of teachers, each taught by the one before: teacher assistants, and networks born again as the same chain.

    python recipes/assistants.py                          # both chains, 5 seeds
    python recipes/assistants.py --limit 500 --pairs 2    # at toy size

What to look at: ``last_of`` is the whole method. With sizes that fall, an assistant between a large teacher and a small
student bridges what the student could not follow (TAKD); with equal sizes it is a network that is born again, and again
(BAN). The last of a chain starts from the control's weights and sees its batches, so the way there is all that differs.

    assistant     ConvNet → 256 units → 32 units       controls: 32 units on the labels; ConvNet → 32 units
    born again    256 → 256 → 256 units                controls: 256 units on the labels; 256 → 256 units

Sources: Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", arXiv:1902.03393; Furlanello et
al. 2018, "Born-Again Neural Networks", arXiv:1805.04770. Temperature and alpha are this project's, for both.
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
    """Chains of teachers beside a single step and the labels alone."""

    pairs: int = 5
    """seeds"""
    epochs: int = 3
    """of the teacher and of every student"""
    large: int = 256
    """units of the assistant, and of those that are born again"""
    small: int = 32
    """units of the student with an assistant"""
    temperature: float = 5.0
    """of every step of a chain"""
    alpha: float = 0.5
    """weight of the labels at every step; the teacher gets the rest"""
    limit: int | None = None
    """use only so many training images"""


def last_of(teacher: nn.Module | None, units: Sequence[int], training: Split, settings: Settings, seed: int) -> MLP:
    """The last of a chain of networks with these units, each taught by the one before, the first by the teacher.

    Args:
        teacher: of the first one, who learns from the labels alone where there is none.
    """
    for place, width in enumerate(units):
        # Counted from the end, so that the last one's weights and batches are those of a chain of any length.
        own = seed if place == len(units) - 1 else epoch_seed(seed, len(units) - place)
        with kd.seeded(own):
            start = MLP(width)
        if teacher is None:
            student = train_copy(start, kd.supervised, training, seed=own, epochs=settings.epochs)
        else:
            cached = kd.collect_logits(teacher, training)
            kd.verify_logits(teacher, training, cached)
            distill_set = kd.DistillDataset(training, cached.logits)
            objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
            student = train_copy(start, objective, distill_set, seed=own, epochs=settings.epochs)
        teacher = student
    return student


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors of the last of each chain, in the order of the seeds."""
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
    found: dict[str, list[int]] = {name: [] for name in chains}
    for seed in range(settings.pairs):
        for name, (teacher, units) in chains.items():
            found[name].append(count_errors(last_of(teacher, units, training, settings, seed), held_back))
    against = [
        ("teacher → large → small", "small"),
        ("teacher → large → small", "teacher → small"),
        ("born again", "large"),
        ("born again twice", "large"),
        ("born again twice", "born again"),
    ]
    title = f"the ConvNet has {count_errors(convnet, held_back)} errors; of a student's"
    judge_arms(found, against, images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
