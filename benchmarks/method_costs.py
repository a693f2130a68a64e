"""Measure the cost of a training step of each method, relative to plain distillation: time, memory, parameters.

    OMP_NUM_THREADS=1 python benchmarks/method_costs.py    # 5 minutes; writes docs/method-costs.json

The student is the small convolutional network (`--student cnn`), the teacher the pipeline's; a batch has 128 images of
MNIST's size. Teacher logits come from a cache, features from the live teacher. Methods alternate for the times; peak
memory is measured in a fresh process each. benchmarks/methods_page.py then writes the table in docs/methods.md.
"""

from __future__ import annotations

import functools
import json
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import nn

from kd.console import say
from kd.methods import METHODS, make
from kd.methods.crd import CRDLoss
from kd.methods.objectives import supervised
from kd.models import CNN, ConvNet
from kd.training.optimizers import adam
from kd.types import Objective
from measuring import alternate, describe_machine, print_report, run_script, time_call

CONTROL = "control"
SEEN = 54_000  # samples in CRD's memory: MNIST's training images minus the validation split
OUT = Path(__file__).parent.parent / "docs" / "method-costs.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Cost of a training step by method."""

    methods: tuple[str, ...] = tuple(METHODS)
    """names of the methods to measure; kd and the control are always included"""
    rounds: int = 15
    """timed rounds; every method takes STEPS steps in each"""
    steps: int = 4
    """steps timed together"""
    batch_size: int = 128
    """images per step"""
    memory_of: str = ""
    """internal: take a few steps of this method only, and print the peak memory"""
    out: Path = OUT
    """output file"""


def make_objective(name: str, batch_size: int) -> tuple[nn.Module, Objective, tuple[torch.Tensor, ...]]:
    """Return a student, the method's objective, and a batch with the inputs of every method."""
    torch.manual_seed(0)
    teacher, student = ConvNet().eval(), CNN(8, (1, 28, 28), 10)
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))
    with torch.no_grad():
        batch = (images, labels, teacher(images), torch.arange(batch_size))
    objective = supervised if name == CONTROL else make(name, student, teacher, batch)
    if isinstance(objective, CRDLoss):  # fill its memory, as from the second epoch on
        rows = torch.nn.functional.normalize(torch.randn(2, SEEN, objective.memory.rows.shape[2]), dim=2)
        objective.memory.add_new(torch.arange(SEEN), torch.randint(10, (SEEN,)), rows)
    return student, objective, batch


def is_usable(name: str) -> bool:
    """Return whether the method fits this pair of models; print the reason if not."""
    try:
        make_objective(name, 2)
    except ValueError as error:
        say(f"{name}: skipped: {error}")
        return False
    return True


def make_step(name: str, batch_size: int) -> Callable[[], None]:
    """Return a function that takes one training step of the method."""
    student, objective, batch = make_objective(name, batch_size)
    optimizer, _ = adam(student, learning_rate=1e-3, steps=1_000_000, objective=objective)
    if isinstance(objective, nn.Module):
        objective.train()
    student.train()

    def step() -> None:
        _, terms = objective(student, batch)
        functools.reduce(operator.add, terms.values()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def count_parameters(name: str, batch_size: int) -> dict[str, int]:
    """Count the objective's trained parameters, which are discarded after training, and its buffer values."""
    _, objective, _ = make_objective(name, batch_size)
    if not isinstance(objective, nn.Module):
        return {"trained": 0, "remembered": 0}
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    return {"trained": trained, "remembered": sum(buffer.numel() for buffer in objective.buffers())}


def measure_methods(settings: Settings) -> dict[str, Any]:
    """Measure all methods; return a JSON object."""
    names = [name for name in dict.fromkeys([CONTROL, "kd", *settings.methods]) if is_usable(name)]

    def make_timer(name: str) -> Callable[[], float]:
        step = make_step(name, settings.batch_size)
        return lambda: time_call(lambda: [step() for _ in range(settings.steps)]) / settings.steps

    times = alternate({name: make_timer(name) for name in names}, rounds=settings.rounds, warm_up=3)
    costs = {}
    for name in names:
        process = run_script("method_costs.py", f"--memory-of={name}", f"--batch-size={settings.batch_size}")
        costs[name] = {
            "seconds": times[name],
            "peak_rss": process["peak_rss"],
            **count_parameters(name, settings.batch_size),
        }
        say(f"{name}: {1000 * times[name]:.1f} ms a step, {process['peak_rss'] / 1e6:.0f} MB")
    return {"costs": costs, "rounds": settings.rounds, "batch_size": settings.batch_size, "machine": describe_machine()}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.memory_of:
        step = make_step(settings.memory_of, settings.batch_size)
        for _ in range(10):
            step()
        print_report()
        return
    settings.out.write_text(json.dumps(measure_methods(settings), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
