"""Time epochs of the default student in a bare loop on one thread: control, smoothed and distilled."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

import config
import kd
from epochs import load
from kd.training.optimizers import adam
from measuring import print_report
from models import StudentModel


def distill(output: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the documented loss in its textbook form."""
    temperature, alpha = config.TEMPERATURE, config.ALPHA
    log_student, teacher = F.log_softmax(output / temperature, dim=1), F.softmax(teacher_logits / temperature, dim=1)
    soft = F.kl_div(log_student, teacher, reduction="batchmean")
    return alpha * F.cross_entropy(output, labels) + (1 - alpha) * temperature**2 * soft


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs of each kind")
    parser.add_argument("--limit", type=int, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = load(arguments.limit).training
    images, labels = kd.data.collate(training.__getitems__(list(range(len(training)))))
    logits = torch.randn(len(images), 10)
    losses = {
        "control": lambda output, rows: F.cross_entropy(output, labels[rows]),
        "smoothed": lambda output, rows: F.cross_entropy(output, labels[rows], label_smoothing=0.1),
        "distilled": lambda output, rows: distill(output, labels[rows], logits[rows]),
    }
    seconds = {}
    for name, loss in losses.items():
        model = StudentModel()
        optimizer, _ = adam(model, learning_rate=config.LEARNING_RATE, steps=1000)
        for epoch in range(1 + arguments.epochs):
            if epoch == 1:  # the first is a warm-up
                started = time.perf_counter()
            for rows in torch.randperm(len(images)).split(config.BATCH_SIZE):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                loss(model(images[rows]), rows).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        seconds[name] = (time.perf_counter() - started) / arguments.epochs
    print_report(**seconds)


if __name__ == "__main__":
    main()
