"""Compare an epoch with its limit: the cost of data, bookkeeping and checks on top of the arithmetic.

    python benchmarks/epochs.py --rounds 5

An epoch is timed with ``kd.fit`` and in a bare loop over tensors in memory, with the same model, optimizer and batch
size. Its arithmetic bound is computed: its floating-point operations at the rate of a matrix product, measured in the
same rounds. Prints medians of alternating rounds; the last line has all figures as JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

import config
import kd
from kd.data.splits import stratified_split
from kd.methods.objectives import in_bfloat16
from kd.teachers.cache import TEACHER_BATCH_SIZE
from kd.training.optimizers import adam
from measuring import alternate, describe_machine, format_table, print_report, time_call
from models import StudentModel, TeacherModel

Loaders = tuple[DataLoader[Any], DataLoader[Any]]


class Work(NamedTuple):
    """The pipeline's training split, and its loaders without and with (random) teacher logits."""

    training: Subset[Any]
    plain: Loaders
    distill: Loaders

    @property
    def steps(self) -> int:
        return len(self.plain[0])


def load(limit: int | None) -> Work:
    """Load the pipeline's data; make loaders without and with random logits, which take the same time as real ones."""
    splits = stratified_split(kd.load_mnist(train=True), held_back=config.TEST_SIZE, seed=0, limit=limit)
    plain = (
        kd.make_loader(splits[0], batch_size=config.BATCH_SIZE, shuffle=True),
        kd.make_loader(splits[1], batch_size=config.BATCH_SIZE),
    )
    with_logits = [kd.DistillDataset(split, torch.randn(len(split), 10)) for split in splits]
    distill = (kd.loader_like(plain[0], with_logits[0]), kd.loader_like(plain[1], with_logits[1]))
    return Work(splits[0], plain, distill)


def time_fit(make: Callable[[], nn.Module], objective: kd.Objective, loaders: Loaders, **settings: Any) -> float:
    """Time one epoch of the pipeline's training: batches, metrics, checks, validation."""
    model = make()
    optimizer, scheduler = adam(model, learning_rate=config.LEARNING_RATE, steps=len(loaders[0]))
    settings |= {"optimizer": optimizer, "scheduler": scheduler}
    return time_call(lambda: kd.fit(model, objective, *loaders, epochs=1, seed=0, **settings))


def time_bare_loop(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> float:
    """Time one epoch over normalised tensors in random order, without metrics or checks."""
    model = make()
    optimizer, _ = adam(model, learning_rate=config.LEARNING_RATE, steps=1000)

    def loop() -> None:
        for rows in torch.randperm(len(images)).split(config.BATCH_SIZE):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return time_call(loop)


def time_bare_forward(teacher: nn.Module, images: Tensor) -> float:
    """Time the teacher's forward pass over tensors in memory, with the batch size of ``kd.collect_logits``."""

    def loop() -> None:
        with torch.no_grad():
            for batch in images.split(TEACHER_BATCH_SIZE):  # type: ignore[no-untyped-call]
                teacher(batch)

    return time_call(loop)


def measure_product_rate(size: int = 1024, times: int = 20) -> float:
    """Return the FLOP/s of a square float32 matrix product, this machine's practical limit."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right

    def multiply() -> None:
        for _ in range(times):
            left @ right

    return 2 * size**3 * times / time_call(multiply)


def count_operations(make: Callable[[], nn.Module]) -> int:
    """Count the FLOPs of a training step's matrix products and convolutions, forward and backward."""
    images, labels = torch.randn(config.BATCH_SIZE, 1, 28, 28), torch.randint(10, (config.BATCH_SIZE,))
    model = make()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def measure(work: Work, rounds: int) -> dict[str, float]:
    """Return medians by name: seconds, and the rate of the matrix product."""
    teacher, no_validation = TeacherModel().eval(), (work.plain[0], [next(iter(work.plain[1]))])
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    images, labels = kd.data.collate(work.training.__getitems__(list(range(len(work.training)))))
    return alternate(
        {
            "product_rate": measure_product_rate,
            "teacher": lambda: time_fit(TeacherModel, kd.supervised, work.plain),
            "teacher_bfloat16": lambda: time_fit(TeacherModel, in_bfloat16(kd.supervised), work.plain),
            "teacher_bare": lambda: time_bare_loop(TeacherModel, images, labels),
            "control": lambda: time_fit(StudentModel, kd.supervised, work.plain),
            "control_unmeasured": lambda: time_fit(StudentModel, kd.supervised, no_validation, metrics={}),  # type: ignore[arg-type]
            "distilled": lambda: time_fit(StudentModel, objective, work.distill),
            "student_bare": lambda: time_bare_loop(StudentModel, images, labels),
            "cache": lambda: time_call(lambda: kd.collect_logits(teacher, work.training)),
            "cache_bare": lambda: time_bare_forward(teacher, images),
        },
        rounds=rounds,
    )


def format_rows(figures: dict[str, float], steps: int) -> list[list[str]]:
    """Return the rows of the table: each time, its baseline, and their ratio."""
    bound = {name: figures[f"{name}_operations"] * steps / figures["product_rate"] for name in ("teacher", "student")}

    def row(label: str, seconds: float, baseline: str, limit: float) -> list[str]:
        return [label, f"{seconds:.3f} s", baseline, f"{limit:.3f} s", f"{seconds / limit:.2f}"]

    unmeasured = figures["control_unmeasured"]
    return [
        row("teacher epoch", figures["teacher"], "arithmetic bound", bound["teacher"]),
        row("teacher epoch", figures["teacher"], "bare loop", figures["teacher_bare"]),
        row("teacher epoch, bfloat16", figures["teacher_bfloat16"], "teacher epoch", figures["teacher"]),
        row("student epoch, control", figures["control"], "bare loop", figures["student_bare"]),
        row("student epoch, control", figures["control"], "arithmetic bound", bound["student"]),
        row("student epoch, distilled", figures["distilled"], "control epoch", figures["control"]),
        row("student epoch, control", figures["control"], "without validation and metrics", unmeasured),
        row("caching teacher logits", figures["cache"], "bare forward pass", figures["cache_bare"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each variant")
    parser.add_argument("--limit", type=int, default=None, help="number of training images (default: all)")
    arguments = parser.parse_args()
    work = load(arguments.limit)
    with kd.seeded(0):
        figures = measure(work, arguments.rounds)
        figures |= {
            "teacher_operations": count_operations(TeacherModel),
            "student_operations": count_operations(StudentModel),
        }
    rows = format_rows(figures, work.steps)
    print(format_table(["what", "takes", "against", "takes", "ratio"], rows))
    print_report(figures=figures, rows=rows, steps=work.steps, rounds=arguments.rounds, machine=describe_machine())


if __name__ == "__main__":
    main()
