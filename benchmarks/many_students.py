"""Many students: one after another, or side by side in processes of one thread each, as kd compare trains them.

    python benchmarks/many_students.py --students 20 --epochs 3 --rounds 3

For each width the same students (control and distilled in turn, random teacher logits: their values cost the same time)
are trained one after another with torch's threads, one after another with a single thread, and by the pool; the three
take turns, medians. Starting the processes is measured by a pool that has nothing to do, and shown by itself: it is
paid once, whatever the number of students. The last line is all figures as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import kd
from kd.commands.data import Task, load_data
from kd.commands.models import new_student
from kd.commands.settings import RunSettings
from kd.commands.steps import make_train
from kd.devices import using_threads
from kd.training.pool import in_pool, usable_cores
from kd.training.students import DistillationData, Student, train_student, train_students
from measuring import alternating, machine, report, seconds, table

MNIST = Task((1, 28, 28), tuple("0123456789"))
CPU = torch.device("cpu")


def distill_data(settings: RunSettings) -> DistillationData:
    """The pipeline's own data, with random teacher logits."""
    data = load_data(settings)
    training, validation = (
        kd.DistillDataset(part, torch.randn(data.sizes[name], 10))
        for name, part in {"training": data.train_set, "validation": data.val_set}.items()
    )
    return DistillationData(training, validation, data.test_set, settings.batch_size)


def students(settings: RunSettings, count: int) -> dict[str, Student]:
    """Control and distilled in turn."""
    objectives = (kd.supervised, kd.distilled(temperature=settings.temperature, alpha=settings.alpha))
    made = {}
    for number in range(count):
        own = dataclasses.replace(settings, seed=number // 2)
        student = Student(new_student(own, MNIST, CPU), objectives[number % 2], make_train(own), settings.epochs)
        made[f"student-{number}"] = student
    return made


def one_by_one(own: DistillationData, make: Callable[[], Mapping[str, Student]], count: int) -> float:
    """Seconds for all, in this process."""
    fresh = make()
    with using_threads(count):
        return seconds(lambda: [train_student(own, name, student, tested=False) for name, student in fresh.items()])


def side_by_side(own: DistillationData, make: Callable[[], Mapping[str, Student]]) -> float:
    """Seconds for all, by the pool, from starting its processes to their end."""
    fresh = make()
    return seconds(lambda: list(train_students([own], fresh, tested=False)))


def nothing(own: DistillationData, number: int) -> None:
    """What a process that is only started does."""


def starting(own: DistillationData) -> float:
    """Seconds to start one process for each core, give it the data and end it."""
    names = {str(number): number for number in range(usable_cores())}
    return seconds(lambda: list(in_pool(nothing, own, names, steps=dict.fromkeys(names, 1), title="starting")))


def measure(settings: RunSettings, count: int, rounds: int) -> dict[str, float]:
    """Medians in seconds."""
    own = distill_data(settings)

    def make() -> dict[str, Student]:
        return students(settings, count)

    return alternating(
        {
            "one_by_one": lambda: one_by_one(own, make, torch.get_num_threads()),
            "one_by_one_single": lambda: one_by_one(own, make, 1),
            "pool": lambda: side_by_side(own, make),
            "start": lambda: starting(own),
        },
        rounds=rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each")
    parser.add_argument("--limit", type=int, default=None, help="toy size, to try the script")
    arguments = parser.parse_args()
    figures, rows = {}, []
    for width in arguments.widths:
        settings = RunSettings(student_width=width, epochs=arguments.epochs, limit=arguments.limit)
        found = figures[width] = measure(settings, arguments.students, arguments.rounds)
        names = ("one_by_one", "one_by_one_single", "pool", "start")
        best = min(found["one_by_one"], found["one_by_one_single"])
        ratios = [f"{best / spent:.2f}" for spent in (found["pool"] - found["start"], found["pool"])]
        rows.append([str(width), *(f"{found[name]:.1f} s" for name in names), *ratios])
    threaded = f"one by one, {torch.get_num_threads()} threads"
    header = ["width", threaded, "one by one, 1 thread", "pool", "of it starting", "ratio, started", "ratio, in all"]
    print(table(header, rows))
    print(
        f"\n{arguments.students} students, {arguments.epochs} epochs, median of {arguments.rounds} rounds; ratio: of "
        "the better way to train one after another to the pool, without and with the start of its processes"
    )
    sizes = {name: value for name, value in vars(arguments).items() if name != "widths"}
    report(figures=figures, **sizes, machine=machine())


if __name__ == "__main__":
    main()
