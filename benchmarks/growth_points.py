"""Points of growth.py: each function measures one size in a fresh process and returns plain numbers.

Seconds are for a whole pass. If a whole pass would exceed the budget, a part is timed and scaled up, and the figure is
listed under ``scaled``. ``fixed_seconds`` is the time that cannot be shortened in this way.
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
from kd.teachers.cache import TEACHER_BATCH_SIZE
from kd.training.history import Position
from measuring import describe_machine, peak_rss, time_call

BATCH = config.BATCH_SIZE
TRIAL = 20  # batches timed to predict the duration of a whole pass
ROUNDS = 5  # at most; the median counts
WIDTH_STEPS = 200  # batches per epoch when timing a width


class Pass(NamedTuple):
    """Seconds of one pass over the data; ``scaled`` if extrapolated from a part."""

    seconds: float
    scaled: bool


def samples(size: int, classes: int, limit: float) -> dict[str, Any]:
    """Measure ``size`` images in memory: collecting the teacher's logits, and one epoch of the default student."""
    base, started = peak_rss(), time.perf_counter()
    dataset = make_random_images(size, classes)
    fixed = time.perf_counter() - started
    collecting, logits = _collect_logits(dataset, classes, limit / 2)
    collected = peak_rss()
    order = time_call(lambda: torch.randperm(size).tolist())
    training = _time_epoch(make_student(config.STUDENT_WIDTH, classes), kd.DistillDataset(dataset, logits), limit / 2)
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
    """Measure ``size`` classes: one epoch of a student with ``size`` outputs, the loss alone, the logits' bytes."""
    started = time.perf_counter()
    dataset = kd.DistillDataset(make_random_images(images, size), torch.randn(images, size))
    fixed = time.perf_counter() - started
    loss = _time_loss(size)
    training = _time_epoch(make_student(config.STUDENT_WIDTH, size), dataset, limit)
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
    """Measure a student of ``size`` hidden units: one step, its parameters, and one snapshot of its training."""
    images = WIDTH_STEPS * BATCH
    dataset = kd.DistillDataset(make_random_images(images, 10), torch.randn(images, 10))
    model = make_student(size, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    training = _time_epoch(model, dataset, limit, optimizer)
    snapshot_seconds, snapshot_bytes = _time_snapshot({"model": model, "optimizer": optimizer})
    return {
        "step_seconds": training.seconds / WIDTH_STEPS,
        "parameters": count_parameters(model),
        "snapshot_bytes": snapshot_bytes,
        "snapshot_seconds": snapshot_seconds,
        "peak_bytes": peak_rss(),
        "fixed_seconds": snapshot_seconds,
        "scaled": ["step_seconds"] * training.scaled,
    }


def sequence(size: int, images: int, epochs: int) -> dict[str, Any]:
    """Train ``size`` students one after another in one process, with torch's default number of threads."""
    work = _make_student_work(images)
    seconds = time_call(lambda: [work(epochs) for _ in range(size)])
    return {
        "training_seconds": seconds,
        "peak_bytes": peak_rss(),
        "threads": torch.get_num_threads(),
        "fixed_seconds": seconds,
        "scaled": [],
    }


def pool(size: int, images: int, epochs: int, workers: int) -> dict[str, Any]:
    """Train ``size`` students in a newly started pool of single-threaded processes.

    ``training_seconds`` run from the first student's start to the last end; ``worker_bytes`` is one worker's peak.
    """
    with ProcessPoolExecutor(min(size, workers), mp_context=get_context("spawn")) as executor:
        jobs = [executor.submit(train_one_student, images, epochs) for _ in range(size)]
        reports = [job.result() for job in jobs]
    seconds = max(report["ended"] for report in reports) - min(report["started"] for report in reports)
    return {
        "training_seconds": seconds,
        "worker_bytes": statistics.median(report["peak"] for report in reports),
        "processes": len({report["process"] for report in reports}),
        "fixed_seconds": seconds,
        "scaled": [],
    }


def train_one_student(images: int, epochs: int) -> dict[str, Any]:
    """Train one student as a job of the pool, with wall-clock times, which all processes share."""
    torch.set_num_threads(1)
    work = _make_student_work(images)
    started = time.time()
    work(epochs)
    return {"process": os.getpid(), "started": started, "ended": time.time(), "peak": peak_rss()}


def this_machine() -> dict[str, Any]:
    """Return ``measuring.describe_machine()``, in a process that may import torch."""
    return describe_machine()


def make_random_images(count: int, classes: int) -> kd.ImageDataset:
    """Return random 28 × 28 byte images; only one copy is ever in memory."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return kd.ImageDataset(images, labels, mean=0.5, std=0.29)


def make_student(width: int, classes: int) -> nn.Module:
    """Return the default student with ``classes`` outputs."""
    model = MLP(width)
    model.output = nn.Linear(width, classes)
    return model


def _collect_logits(dataset: kd.ImageDataset, classes: int, budget: float) -> tuple[Pass, Tensor]:
    """Collect a linear teacher's logits of all images; beyond the budget, return random logits of the same size."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, classes))
    count, trial = len(dataset), min(len(dataset), TRIAL * TEACHER_BATCH_SIZE)

    def collect(rows: int) -> Tensor:
        images = dataset if rows == count else Subset(dataset, range(rows))
        return kd.collect_logits(teacher, images).logits

    collect(min(trial, TEACHER_BATCH_SIZE))  # warm-up
    first = time_call(lambda: collect(trial))
    rows = min(count, max(trial, int(trial * budget / first)))
    started = time.perf_counter()
    logits = collect(rows)
    seconds = time.perf_counter() - started
    if rows < count:
        return Pass(seconds * count / rows, scaled=True), torch.randn(count, classes)
    return Pass(seconds, scaled=False), logits


def _time_epoch(
    model: nn.Module, dataset: kd.DistillDataset, budget: float, optimizer: torch.optim.Optimizer | None = None
) -> Pass:
    """Time one epoch of distillation up to its last step: the median of all runs that fit the budget.

    A partial epoch still draws the order of the whole epoch and accesses samples anywhere in the data; only its steps
    after the first are scaled up.
    """
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    all_steps = -(-len(dataset) // BATCH)
    _time_steps(model, dataset, optimizer, 2)  # warm-up
    first, steady = _time_steps(model, dataset, optimizer, min(all_steps, TRIAL))
    predicted = first + steady * (all_steps - 1)
    steps = all_steps if predicted <= budget else max(TRIAL, int((budget - first) / steady))
    if steps >= all_steps:
        rounds = max(1, min(ROUNDS, int(budget / predicted)))
        times = [_time_steps(model, dataset, optimizer, all_steps) for _ in range(rounds)]
        return Pass(statistics.median(first + steady * (all_steps - 1) for first, steady in times), scaled=False)
    first, steady = _time_steps(model, dataset, optimizer, steps)
    return Pass(first + steady * (all_steps - 1), scaled=True)


def _time_steps(
    model: nn.Module, dataset: kd.DistillDataset, optimizer: torch.optim.Optimizer, count: int
) -> tuple[float, float]:
    """Return the seconds up to the end of the first step, including drawing the order, and per further step."""
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    rows = min(count * BATCH, len(dataset))
    generator = torch.Generator()
    sampler = RandomSampler(dataset, num_samples=rows, generator=generator)  # draws a whole permutation
    loader: DataLoader[Any] = DataLoader(dataset, BATCH, sampler=sampler, collate_fn=collate, generator=generator)
    validation = kd.make_loader(Subset(dataset, range(min(BATCH, len(dataset)))), batch_size=BATCH)
    ends = [0.0, 0.0, 0.0]  # start, first step, latest step

    def record_step() -> None:
        ends[1], ends[2] = ends[1] or time.perf_counter(), time.perf_counter()

    ends[0] = time.perf_counter()
    kd.fit(model, objective, loader, validation, optimizer=optimizer, epochs=1, seed=0, on_batch=record_step)
    return ends[1] - ends[0], (ends[2] - ends[1]) / max(1, len(loader) - 1)


def _time_loss(classes: int) -> float:
    """Time the soft loss of one batch, forward and backward; return the median of 50 runs, in seconds."""
    student_logits, teacher_logits = torch.randn(BATCH, classes, requires_grad=True), torch.randn(BATCH, classes)

    def once() -> None:
        loss = kd.kd_loss(student_logits, teacher_logits, temperature=config.TEMPERATURE)
        loss.backward()  # type: ignore[no-untyped-call]

    once()
    return statistics.median(time_call(once) for _ in range(50))


def _time_snapshot(parts: dict[str, Any]) -> tuple[float, int]:
    """Return the seconds and bytes of one snapshot of these parts."""
    with tempfile.TemporaryDirectory() as folder:
        snapshots = Snapshots(Path(folder) / "training", key="benchmark")
        seconds = time_call(lambda: snapshots.write(Position().state(parts, torch.device("cpu"))))
        return seconds, max(path.stat().st_size for path in snapshots.folder.iterdir())


def _make_student_work(images: int) -> Callable[[int], object]:
    """Warm up torch, and return a function that trains a new student for N epochs on the same data."""
    dataset = kd.DistillDataset(make_random_images(images, 10), torch.randn(images, 10))
    loader = kd.make_loader(dataset, batch_size=BATCH, shuffle=True)
    validation = kd.make_loader(Subset(dataset, range(min(BATCH, images))), batch_size=BATCH)
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)

    def work(epochs: int, batches: DataLoader[Any] = loader) -> object:
        model = make_student(config.STUDENT_WIDTH, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
        return kd.fit(model, objective, batches, validation, optimizer=optimizer, epochs=epochs, seed=0)

    work(1, validation)  # the first call imports parts of torch for half a second
    return work
