"""What a training step of each method costs beside one of plain distillation: time, memory, parameters.

    OMP_NUM_THREADS=1 python benchmarks/method_costs.py    # 5 minutes; writes docs/method-costs.json

The student is the small convolutional one (`--student cnn`), the teacher the pipeline's; a batch has 128 images in the
size of MNIST. Teacher's logits come from a cache, features from the live teacher. Times alternate; the
peak memory is that of a process of its own. Then benchmarks/methods_page.py makes the table of docs/methods.md from it.
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
from measuring import alternating, fresh_process, machine, report, seconds

CONTROL = "control"
SEEN = 54_000  # samples that a memory has met: the training images of MNIST without those held back
OUT = Path(__file__).parent.parent / "docs" / "method-costs.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a step costs."""

    methods: tuple[str, ...] = tuple(METHODS)
    """to be measured, by name; kd and the control always are"""
    rounds: int = 15
    """in each of which every method takes STEPS steps"""
    steps: int = 4
    """steps that are timed together"""
    batch_size: int = 128
    """images in a step"""
    memory_of: str = ""
    """for the script's own processes: take a few steps of this method alone, and print the peak"""
    out: Path = OUT
    """file to write"""


def objective_named(name: str, batch_size: int) -> tuple[nn.Module, Objective, tuple[torch.Tensor, ...]]:
    """A student, what it is trained towards, and a batch with all that any method needs."""
    torch.manual_seed(0)
    teacher, student = ConvNet().eval(), CNN(8, (1, 28, 28), 10)
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))
    with torch.no_grad():
        batch = (images, labels, teacher(images), torch.arange(batch_size))
    objective = supervised if name == CONTROL else make(name, student, teacher, batch)
    if isinstance(objective, CRDLoss):  # as it is from the second epoch on
        rows = torch.nn.functional.normalize(torch.randn(2, SEEN, objective.memory.rows.shape[2]), dim=2)
        objective.memory.meet(torch.arange(SEEN), torch.randint(10, (SEEN,)), rows)
    return student, objective, batch


def works(name: str) -> bool:
    """Whether the method can work on this pair; why it cannot is said."""
    try:
        objective_named(name, 2)
    except ValueError as error:
        say(f"{name} is left out: {error}")
        return False
    return True


def stepping(name: str, batch_size: int) -> Callable[[], None]:
    """One training step of the method, to be repeated."""
    student, objective, batch = objective_named(name, batch_size)
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


def parameters(name: str, batch_size: int) -> dict[str, int]:
    """Of the objective itself: what is trained with the student and thrown away, and what it remembers."""
    _, objective, _ = objective_named(name, batch_size)
    if not isinstance(objective, nn.Module):
        return {"trained": 0, "remembered": 0}
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    return {"trained": trained, "remembered": sum(buffer.numel() for buffer in objective.buffers())}


def measured(settings: Settings) -> dict[str, Any]:
    """All methods, as JSON."""
    names = [name for name in dict.fromkeys([CONTROL, "kd", *settings.methods]) if works(name)]

    def timed(name: str) -> Callable[[], float]:
        step = stepping(name, settings.batch_size)
        return lambda: seconds(lambda: [step() for _ in range(settings.steps)]) / settings.steps

    times = alternating({name: timed(name) for name in names}, rounds=settings.rounds, warm_up=3)
    found = {}
    for name in names:
        own = fresh_process("method_costs.py", f"--memory-of={name}", f"--batch-size={settings.batch_size}")
        found[name] = {"seconds": times[name], "peak_rss": own["peak_rss"], **parameters(name, settings.batch_size)}
        say(f"{name}: {1000 * times[name]:.1f} ms a step, {own['peak_rss'] / 1e6:.0f} MB")
    return {"costs": found, "rounds": settings.rounds, "batch_size": settings.batch_size, "machine": machine()}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.memory_of:
        step = stepping(settings.memory_of, settings.batch_size)
        for _ in range(10):
            step()
        report()
        return
    settings.out.write_text(json.dumps(measured(settings), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
