"""A loss of one's own, without a line in the package: the squared distance of the centred logits.

    python recipes/own_loss.py                 # three of each: two minutes
    python recipes/own_loss.py --limit 500     # at toy size

Large temperatures make of distillation what this loss is directly (Hinton, Vinyals & Dean 2015, section 2.1). Three
students for each seed, from the same weights and on the same batches: on the labels, with ``kd``, and with this loss.
Errors are of the validation images, because the loss is still being tried out.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import Tensor, nn

import kd
from kd.console import print_table
from kd.data.splits import stratified_split
from kd.models import MLP, ConvNet
from kd.training.optimizers import adam


def matched_logits(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Half cross-entropy with the labels, half the squared distance of the logits: all that a method has to be."""
    output, terms = kd.supervised(model, batch)
    own, other = (logits - logits.mean(dim=1, keepdim=True) for logits in (output, batch[2]))
    return output, {"hard": 0.5 * terms["hard"], "soft": 0.5 * (own - other).square().mean()}


METHODS: dict[str, kd.Objective] = {
    "labels alone": kd.supervised,
    "kd": kd.distilled(temperature=5, alpha=0.5),
    "matched logits": matched_logits,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A loss of one's own beside plain distillation."""

    pairs: int = 3
    """students of each kind"""
    epochs: int = 3
    """of the teacher and of every student"""
    limit: int | None = None
    """use only so many training images"""


def trained(model: nn.Module, objective: kd.Objective, training: object, *, seed: int, epochs: int) -> nn.Module:
    """The model, trained on the dataset towards the objective."""
    loader = kd.make_loader(training, batch_size=128, shuffle=True)  # type: ignore[arg-type]
    optimizer, scheduler = adam(model, learning_rate=4e-3, steps=epochs * len(loader), objective=objective)
    kd.fit(model, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=epochs, seed=seed)
    return model


def errors(model: nn.Module, images: torch.utils.data.Dataset[tuple[Tensor, int]]) -> int:
    """Images that it gets wrong."""
    logits, labels = kd.predict(model, kd.make_loader(images, batch_size=500))
    return int((logits.argmax(dim=1) != labels).sum())


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by method, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        teacher = trained(ConvNet(), kd.supervised, training, seed=0, epochs=settings.epochs)
    cached = kd.collect_logits(teacher, training)
    kd.verify_logits(teacher, training, cached)
    distill_set = kd.DistillDataset(training, cached.logits)
    found: dict[str, list[int]] = {name: [] for name in METHODS}
    for seed in range(settings.pairs):
        for name, objective in METHODS.items():
            with kd.seeded(seed):
                student = MLP(256)
            found[name].append(
                errors(trained(student, objective, distill_set, seed=seed, epochs=settings.epochs), held_back)
            )
    rows = {name: [f"{statistics.mean(own):.1f}", " ".join(map(str, own))] for name, own in found.items()}
    title = f"errors on {len(held_back):,} validation images; the teacher has {errors(teacher, held_back)}"
    print_table(title, ("student", "mean", "each"), rows)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
