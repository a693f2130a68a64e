"""The points of growth.py: each function measures one size, in a process of its own, and returns plain numbers.

Seconds are those of one whole pass. Where a whole pass would exceed the budget, a part of it is timed and scaled up;
the point then names the figure under ``scaled``. ``fixed_seconds`` is what no such cut can shorten.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Subset

import config
import kd
from kd.data import collate
from kd.evaluation.metrics import count_parameters
from kd.models import MLP
from kd.storage.snapshots import Snapshots
from kd.teachers.cache import ASKED_AT_ONCE
from kd.training.history import Position
from measuring import machine, peak_rss, seconds

BATCH = config.BATCH_SIZE
TRIAL = 20  # batches timed to foresee how long a whole pass takes
ROUNDS = 5  # at most; the median counts
WIDTH_STEPS = 200  # a width's steps are timed on a set of so many batches


class Pass(NamedTuple):
    """Seconds of one whole pass over the data, and whether they are scaled up from a part of it."""

    seconds: float
    scaled: bool


def samples(size: int, classes: int, limit: float) -> dict[str, Any]:
    """So many images, in memory: making the teacher's logits, and one epoch of the default student on them."""
    base, started = peak_rss(), time.perf_counter()
    dataset = random_images(size, classes)
    fixed = time.perf_counter() - started
    collecting, logits = _collect(dataset, classes, limit / 2)
    collected = peak_rss()
    order = seconds(lambda: torch.randperm(size).tolist())
    training = _epoch(student(config.STUDENT_WIDTH, classes), kd.DistillDataset(dataset, logits), limit / 2)
    return {
        "collecting_seconds": collecting.seconds,
        "epoch_seconds": training.seconds,
        "order_seconds": order,
        "images_bytes": dataset.images.nbytes,
        "labels_bytes": dataset.labels.nbytes,
        "logits_bytes": logits.nbytes,
        "base_bytes": base,
        "collected_bytes": collected,
        "peak_bytes": peak_rss(),
        "fixed_seconds": fixed + order,
        "scaled": [*["collecting_seconds"] * collecting.scaled, *["epoch_seconds"] * training.scaled],
    }


def classes(size: int, images: int, limit: float) -> dict[str, Any]:
    """So many classes: one epoch of a student that wide at its end, the loss alone, the bytes of the logits."""
    started = time.perf_counter()
    dataset = kd.DistillDataset(random_images(images, size), torch.randn(images, size))
    fixed = time.perf_counter() - started
    loss = _loss(size)
    training = _epoch(student(config.STUDENT_WIDTH, size), dataset, limit)
    return {
        "epoch_seconds": training.seconds,
        "step_seconds": training.seconds / -(-images // BATCH),
        "loss_seconds": loss,
        "logits_bytes": dataset.logits.nbytes,
        "peak_bytes": peak_rss(),
        "fixed_seconds": fixed,
        "scaled": ["epoch_seconds", "step_seconds"] * training.scaled,
    }


def widths(size: int, limit: float) -> dict[str, Any]:
    """A student of so many hidden units: one step, its parameters, and one snapshot of its training."""
    images = WIDTH_STEPS * BATCH
    dataset = kd.DistillDataset(random_images(images, 10), torch.randn(images, 10))
    model = student(size, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    training = _epoch(model, dataset, limit, optimizer)
    written, length = _snapshot({"model": model, "optimizer": optimizer})
    return {
        "step_seconds": training.seconds / WIDTH_STEPS,
        "parameters": count_parameters(model),
        "snapshot_bytes": length,
        "snapshot_seconds": written,
        "peak_bytes": peak_rss(),
        "fixed_seconds": written,
        "scaled": ["step_seconds"] * training.scaled,
    }


def sequence(size: int, images: int, epochs: int) -> dict[str, Any]:
    """So many students one after another in one process, with as many threads as torch takes by itself."""
    work = _student_work(images)
    took = seconds(lambda: [work(epochs) for _ in range(size)])
    threads = torch.get_num_threads()
    return {"training_seconds": took, "peak_bytes": peak_rss(), "threads": threads, "fixed_seconds": took, "scaled": []}


def pool(size: int, images: int, epochs: int, workers: int) -> dict[str, Any]:
    """So many students in a pool of single-threaded processes, started for them.

    ``training_seconds`` are from the first student's start to the last one's end, ``worker_bytes`` one worker's peak.
    """
    with ProcessPoolExecutor(min(size, workers), mp_context=get_context("spawn")) as executor:
        jobs = [executor.submit(one_student, images, epochs) for _ in range(size)]
        done = [job.result() for job in jobs]
    took = max(job["ended"] for job in done) - min(job["started"] for job in done)
    worker = statistics.median(job["peak"] for job in done)
    processes = len({job["process"] for job in done})
    return {
        "training_seconds": took,
        "worker_bytes": worker,
        "processes": processes,
        "fixed_seconds": took,
        "scaled": [],
    }


def one_student(images: int, epochs: int) -> dict[str, Any]:
    """One job of the pool; the clock is the machine's, which the processes share."""
    torch.set_num_threads(1)
    work = _student_work(images)
    started = time.time()
    work(epochs)
    return {"process": os.getpid(), "started": started, "ended": time.time(), "peak": peak_rss()}


def this_machine() -> dict[str, Any]:
    """``measuring.machine`` in a process that needs torch anyway."""
    return machine()


def random_images(count: int, classes: int) -> kd.ImageDataset:
    """Random bytes as 28 × 28 images, made in place: no second copy at any time."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return kd.ImageDataset(images, labels, mean=0.5, std=0.29)


def student(width: int, classes: int) -> nn.Module:
    """The default student, with as many outputs as there are classes."""
    model = MLP(width)
    model.output = nn.Linear(width, classes)
    return model


def _collect(dataset: kd.ImageDataset, classes: int, budget: float) -> tuple[Pass, Tensor]:
    """A linear teacher's logits of all images; where collecting had to be cut short, random ones that take as much."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, classes))
    count, trial = len(dataset), min(len(dataset), TRIAL * ASKED_AT_ONCE)

    def collected(rows: int) -> Tensor:
        part = dataset if rows == count else Subset(dataset, range(rows))
        return kd.collect_logits(teacher, part).logits

    collected(min(trial, ASKED_AT_ONCE))  # warms up
    first = seconds(lambda: collected(trial))
    rows = min(count, max(trial, int(trial * budget / first)))
    started = time.perf_counter()
    logits = collected(rows)
    took = time.perf_counter() - started
    if rows < count:
        return Pass(took * count / rows, scaled=True), torch.randn(count, classes)
    return Pass(took, scaled=False), logits


def _epoch(
    model: nn.Module, dataset: kd.DistillDataset, budget: float, optimizer: torch.optim.Optimizer | None = None
) -> Pass:
    """One epoch of distillation, from its start to the end of its last step: the median of as many as fit the budget.

    A part of an epoch still draws the whole epoch's order and reaches all over the data, as the whole does; only its
    steady steps are scaled up.
    """
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    every = -(-len(dataset) // BATCH)
    _steps(model, dataset, optimizer, 2)  # warms up
    first, steady = _steps(model, dataset, optimizer, min(every, TRIAL))
    foreseen = first + steady * (every - 1)
    steps = every if foreseen <= budget else max(TRIAL, int((budget - first) / steady))
    if steps >= every:
        rounds = max(1, min(ROUNDS, int(budget / foreseen)))
        taken = [_steps(model, dataset, optimizer, every) for _ in range(rounds)]
        return Pass(statistics.median(first + steady * (every - 1) for first, steady in taken), scaled=False)
    first, steady = _steps(model, dataset, optimizer, steps)
    return Pass(first + steady * (every - 1), scaled=True)


def _steps(
    model: nn.Module, dataset: kd.DistillDataset, optimizer: torch.optim.Optimizer, count: int
) -> tuple[float, float]:
    """Seconds up to the end of the first of so many steps, which holds the drawing of the order, and of each after."""
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    rows = min(count * BATCH, len(dataset))
    generator = torch.Generator()
    sampler = RandomSampler(dataset, num_samples=rows, generator=generator)  # of a whole permutation
    loader: DataLoader[Any] = DataLoader(dataset, BATCH, sampler=sampler, collate_fn=collate, generator=generator)
    validation = kd.make_loader(Subset(dataset, range(min(BATCH, len(dataset)))), batch_size=BATCH)
    ends = [0.0, 0.0, 0.0]  # start, first step, latest step

    def note() -> None:
        ends[1], ends[2] = ends[1] or time.perf_counter(), time.perf_counter()

    ends[0] = time.perf_counter()
    kd.fit(model, objective, loader, validation, optimizer=optimizer, epochs=1, seed=0, on_batch=note)
    return ends[1] - ends[0], (ends[2] - ends[1]) / max(1, len(loader) - 1)


def _loss(classes: int) -> float:
    """Seconds of the soft loss of one batch, forward and backward: the median of up to 50."""
    mine, theirs = torch.randn(BATCH, classes, requires_grad=True), torch.randn(BATCH, classes)

    def once() -> None:
        loss = kd.kd_loss(mine, theirs, temperature=config.TEMPERATURE)
        loss.backward()  # type: ignore[no-untyped-call]

    once()
    return statistics.median(seconds(once) for _ in range(50))


def _snapshot(parts: dict[str, Any]) -> tuple[float, int]:
    """Seconds and bytes of one snapshot of a training with these parts."""
    with tempfile.TemporaryDirectory() as folder:
        snapshots = Snapshots(Path(folder) / "training", key="benchmark")
        took = seconds(lambda: snapshots.write(Position().state(parts, torch.device("cpu"))))
        return took, max(path.stat().st_size for path in snapshots.folder.iterdir())


def _student_work(images: int) -> Callable[[int], object]:
    """What trains one new student for so many epochs, on data made once; torch's first training is behind it."""
    dataset = kd.DistillDataset(random_images(images, 10), torch.randn(images, 10))
    loader = kd.make_loader(dataset, batch_size=BATCH, shuffle=True)
    validation = kd.make_loader(Subset(dataset, range(min(BATCH, images))), batch_size=BATCH)
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)

    def work(epochs: int, batches: DataLoader[Any] = loader) -> object:
        model = student(config.STUDENT_WIDTH, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
        return kd.fit(model, objective, batches, validation, optimizer=optimizer, epochs=epochs, seed=0)

    work(1, validation)  # imports half a second's worth of torch
    return work
