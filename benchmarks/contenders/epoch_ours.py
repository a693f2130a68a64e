"""Student epochs by ``kd.fit``: with the teacher asked at each step, as the others ask it, or with its cached logits.

Cached is what the pipeline does. What collecting and verifying the logits costs, once, is reported beside it.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from student_epoch import parser, report

sys.path.insert(0, str(Path(__file__).parents[2]))
import config
import kd
from kd.training.optimizers import adam
from models import StudentModel, TeacherModel


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--cached", action="store_true", help="the teacher's logits are collected once, before")
    arguments = known.parse_args()
    images: Dataset[Any] = kd.load_mnist(train=True)
    if arguments.limit is not None:
        images = Subset(images, range(arguments.limit))
    teacher, collecting = TeacherModel().eval(), 0.0
    if arguments.cached:
        started = time.perf_counter()
        images = _with_logits(teacher, images)
        collecting = time.perf_counter() - started
    objective = _objective(teacher, plain=arguments.no_teacher, cached=arguments.cached)
    seconds = _epochs(images, objective, arguments.epochs)
    samples = len(images)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    report(seconds, samples, torch.__version__, collecting_seconds=collecting)


def _with_logits(teacher: nn.Module, images: Dataset[Any]) -> Dataset[Any]:
    """Collected and verified, as ``kd.training.run_steps`` does it."""
    collected = kd.collect_logits(teacher, images)
    kd.verify_logits(teacher, images, collected)
    return kd.DistillDataset(images, collected.logits)


def _objective(teacher: nn.Module, *, plain: bool, cached: bool) -> kd.Objective:
    if plain:
        return kd.supervised
    distilled = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    return distilled if cached else kd.live_teacher(teacher, distilled)


def _epochs(images: Dataset[Any], objective: kd.Objective, epochs: int) -> list[float]:
    """Seconds of each epoch. ``fit`` always validates: on a single image here, for the others do not."""
    student = StudentModel()
    loader = kd.make_loader(images, batch_size=config.BATCH_SIZE, shuffle=True)
    one = kd.make_loader(Subset(images, [0]), batch_size=1)
    optimizer, scheduler = adam(student, learning_rate=config.LEARNING_RATE, steps=epochs * len(loader))
    ends = [0.0]  # the history's own clock starts with the training
    kd.fit(
        student,
        objective,
        loader,
        one,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        seed=0,
        on_epoch=lambda _, history: ends.append(history.seconds),
    )
    return [end - start for start, end in pairwise(ends)]


if __name__ == "__main__":
    main()
