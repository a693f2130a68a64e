"""Use your own loss without changing the package: the squared distance of centred logits as an example.

    python recipes/own_loss.py                 # 3 students per arm: two minutes
    python recipes/own_loss.py --limit 500     # quick run

Look at ``matched_logits``, the whole method: it is the limit of distillation at high temperatures (Hinton, Vinyals &
Dean 2015, section 2.1). For each seed, three students start from the same weights and see the same batches: trained on
the labels, with ``kd`` and with this loss. Errors are counted on validation images, since the loss is experimental.
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
    """Return output and terms: cross-entropy and squared distance of the centred logits, with weights of one half."""
    output, terms = kd.supervised(model, batch)
    student_logits, teacher_logits = (logits - logits.mean(dim=1, keepdim=True) for logits in (output, batch[2]))
    return output, {"hard": 0.5 * terms["hard"], "soft": 0.5 * (student_logits - teacher_logits).square().mean()}


METHODS: dict[str, kd.Objective] = {
    "labels alone": kd.supervised,
    "kd": kd.distilled(temperature=5, alpha=0.5),
    "matched logits": matched_logits,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A custom loss against plain distillation and the labels alone."""

    pairs: int = 3
    """number of seeds; each arm has one student per seed"""
    epochs: int = 3
    """epochs of the teacher and of every student"""
    limit: int | None = None
    """train on the first N images only (stratified)"""


def train_model(model: nn.Module, objective: kd.Objective, training: object, *, seed: int, epochs: int) -> nn.Module:
    """Train the model in place on the dataset and return it."""
    loader = kd.make_loader(training, batch_size=128, shuffle=True)  # type: ignore[arg-type]
    optimizer, scheduler = adam(model, learning_rate=4e-3, steps=epochs * len(loader), objective=objective)
    kd.fit(model, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=epochs, seed=seed)
    return model


def count_errors(model: nn.Module, images: torch.utils.data.Dataset[tuple[Tensor, int]]) -> int:
    """Count the misclassified images."""
    logits, labels = kd.predict(model, kd.make_loader(images, batch_size=500))
    return int((logits.argmax(dim=1) != labels).sum())


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        teacher = train_model(ConvNet(), kd.supervised, training, seed=0, epochs=settings.epochs)
    cached = kd.collect_logits(teacher, training)
    kd.verify_logits(teacher, training, cached)
    distill_set = kd.DistillDataset(training, cached.logits)
    errors: dict[str, list[int]] = {name: [] for name in METHODS}
    for seed in range(settings.pairs):
        for name, objective in METHODS.items():
            with kd.seeded(seed):
                student = MLP(256)
            errors[name].append(
                count_errors(train_model(student, objective, distill_set, seed=seed, epochs=settings.epochs), held_back)
            )
    rows = {name: [f"{statistics.mean(counts):.1f}", " ".join(map(str, counts))] for name, counts in errors.items()}
    title = f"errors on {len(held_back):,} validation images (teacher: {count_errors(teacher, held_back)})"
    print_table(title, ("student", "mean", "by seed"), rows)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
