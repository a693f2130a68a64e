"""Compare sizes of the pipeline's teacher: validation errors after all epochs, and multiply-adds.

    python benchmarks/teacher_size.py    # about 15 minutes on 2 cores

For each seed and number of channels: the pipeline's teacher training, on its training split. Errors are counted on the
validation images only. One single-threaded process per core.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro

import config
import kd
import main as pipeline
from kd.devices import usable_cores
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds
from kd.models import ConvNet
from kd.training.optimizers import adam
from measuring import describe_machine, format_table


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the teacher."""

    seeds: int = 5
    """trainings of each size: seeds 0, 1, ..."""
    sizes: tuple[str, ...] = ("32,64,128", "16,48,128", "24,40,80")
    """channels of the three convolutions; the first size is the one to compare with"""
    epochs: int = config.EPOCHS
    limit: int | None = None
    """train on the first N images only, to try the script"""


def count_errors(size: str, seed: int, epochs: int, limit: int | None) -> int:
    """Train one teacher and return its number of errors on the validation images."""
    torch.set_num_threads(1)
    config.LIMIT = limit
    data = pipeline.load_and_split_data()
    teacher = make_teacher(size, seed)
    optimizer, scheduler = adam(teacher, learning_rate=config.LEARNING_RATE, steps=epochs * len(data.train_loader))
    settings: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "epochs": epochs, "seed": seed}
    kd.fit(teacher, kd.supervised, data.train_loader, None, **settings)
    logits, labels = kd.predict(teacher, data.val_loader)
    return int((logits.argmax(dim=1) != labels).sum())


def make_teacher(size: str, seed: int) -> ConvNet:
    first, second, third = map(int, size.split(","))
    with kd.seeded(seed):
        return ConvNet(maps=(first, second, third))


def format_row(size: str, errors: Sequence[int], baseline: Sequence[int]) -> list[str]:
    """Return a row of the table: size, errors by seed, their mean, and its ratio to the baseline's mean."""
    teacher = make_teacher(size, 0)
    mean, spread = statistics.mean(errors), statistics.stdev(errors) if len(errors) > 1 else 0.0
    return [
        size.replace(",", "-"),
        f"{count_parameters(teacher):,}",
        f"{count_multiply_adds(teacher, torch.zeros(1, 1, 28, 28)):,}",
        ", ".join(map(str, errors)),
        f"{mean:.1f} ± {spread:.1f}",
        f"{mean / max(statistics.mean(baseline), 1e-9):.2f}",
    ]


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        jobs = {
            (size, seed): pool.submit(count_errors, size, seed, settings.epochs, settings.limit)
            for seed in range(settings.seeds)
            for size in settings.sizes
        }
        errors = {size: [jobs[size, seed].result() for seed in range(settings.seeds)] for size in settings.sizes}
    header = ["channels", "parameters", "multiply-adds", "validation errors by seed", "mean ± SD", "ratio"]
    baseline = errors[settings.sizes[0]]
    print(format_table(header, [format_row(size, counts, baseline) for size, counts in errors.items()]))
    print(json.dumps({"errors": errors, "epochs": settings.epochs, "machine": describe_machine()}))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # of the worker processes
    main()
