"""Student epochs with ``kd.fit``: with a live teacher, as in the other contenders, or with cached logits.

The pipeline uses cached logits. The one-off cost of collecting and verifying them is reported separately.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from student_epoch import make_parser, print_report

sys.path.insert(0, str(Path(__file__).parents[2]))
import config
import kd
from kd.training.optimizers import adam
from models import StudentModel, TeacherModel


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cached", action="store_true", help="collect the teacher's logits once, before training")
    arguments = parser.parse_args()
    images: Dataset[Any] = kd.load_mnist(train=True)
    if arguments.limit is not None:
        images = Subset(images, range(arguments.limit))
    teacher, collecting = TeacherModel().eval(), 0.0
    if arguments.cached:
        started = time.perf_counter()
        images = _add_logits(teacher, images)
        collecting = time.perf_counter() - started
    objective = _choose_objective(teacher, plain=arguments.no_teacher, cached=arguments.cached)
    seconds = _time_epochs(images, objective, arguments.epochs)
    samples = len(images)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    print_report(seconds, samples, torch.__version__, collecting_seconds=collecting)


def _add_logits(teacher: nn.Module, images: Dataset[Any]) -> Dataset[Any]:
    """Collect and verify the teacher's logits, as ``kd.training.run_steps`` does."""
    collected = kd.collect_logits(teacher, images)
    kd.verify_logits(teacher, images, collected)
    return kd.DistillDataset(images, collected.logits)


def _choose_objective(teacher: nn.Module, *, plain: bool, cached: bool) -> kd.Objective:
    if plain:
        return kd.supervised
    distilled = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    return distilled if cached else kd.live_teacher(teacher, distilled)


def _time_epochs(images: Dataset[Any], objective: kd.Objective, epochs: int) -> list[float]:
    """Return the seconds of each epoch, validated on a single image only: the other contenders do not validate."""
    student = StudentModel()
    loader = kd.make_loader(images, batch_size=config.BATCH_SIZE, shuffle=True)
    validation = kd.make_loader(Subset(images, [0]), batch_size=1)
    optimizer, scheduler = adam(student, learning_rate=config.LEARNING_RATE, steps=epochs * len(loader))
    ends = [0.0]  # the history's clock starts with the training
    kd.fit(
        student,
        objective,
        loader,
        validation,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        seed=0,
        on_epoch=lambda _, history: ends.append(history.seconds),
    )
    return [end - start for start, end in pairwise(ends)]


if __name__ == "__main__":
    main()
