"""Compare training many students one after another and in parallel single-threaded processes, as in kd compare.

    python benchmarks/many_students.py --students 20 --epochs 3 --rounds 3

For each width the same students are trained one after another with torch's default threads, one after another with a
single thread, and in the pool; times are medians of alternating rounds. Half of the students are controls, half are
distilled, with random teacher logits, which take the same time as real ones. Starting the processes is a one-off cost,
measured separately with an idle pool. The last line has all figures as JSON.
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
from kd.commands.recipe import make_train
from kd.commands.settings import RunSettings
from kd.devices import usable_cores, using_threads
from kd.training.pool import run_in_pool
from kd.training.students import DistillationData, Student, train_student, train_students
from measuring import alternate, describe_machine, format_table, print_report, time_call

MNIST = Task((1, 28, 28), tuple("0123456789"))
CPU = torch.device("cpu")


def make_distill_data(settings: RunSettings) -> DistillationData:
    """Return the pipeline's data with random teacher logits."""
    data = load_data(settings)
    training, validation = (
        kd.DistillDataset(split, torch.randn(data.sizes[name], 10))
        for name, split in {"training": data.train_set, "validation": data.val_set}.items()
    )
    return DistillationData(training, validation, data.test_set, settings.batch_size)


def make_students(settings: RunSettings, count: int) -> dict[str, Student]:
    """Return ``count`` new students, control and distilled in turn."""
    objectives = (kd.supervised, kd.distilled(temperature=settings.temperature, alpha=settings.alpha))
    students = {}
    for number in range(count):
        variant = dataclasses.replace(settings, seed=number // 2)
        model = new_student(variant, MNIST, CPU)
        student = Student(model, objectives[number % 2], make_train(variant), settings.epochs)
        students[f"student-{number}"] = student
    return students


def time_one_by_one(data: DistillationData, make: Callable[[], Mapping[str, Student]], count: int) -> float:
    """Return the seconds to train all students one after another in this process with ``count`` threads."""
    students = make()
    with using_threads(count):
        return time_call(
            lambda: [train_student(data, name, student, tested=False) for name, student in students.items()]
        )


def time_pool(data: DistillationData, make: Callable[[], Mapping[str, Student]]) -> float:
    """Return the seconds to train all students in the pool, from starting its processes to their end."""
    students = make()
    return time_call(lambda: list(train_students([data], students, tested=False)))


def do_nothing(data: DistillationData, number: int) -> None:
    """Do nothing: the job of an idle pool."""


def time_start(data: DistillationData) -> float:
    """Return the seconds to start one process per core, send it the data and end it."""
    jobs = {str(number): number for number in range(usable_cores())}
    return time_call(lambda: list(run_in_pool(do_nothing, data, jobs, steps=dict.fromkeys(jobs, 1), title="starting")))


def measure(settings: RunSettings, count: int, rounds: int) -> dict[str, float]:
    """Return the median time of each way of training, in seconds."""
    data = make_distill_data(settings)

    def make() -> dict[str, Student]:
        return make_students(settings, count)

    return alternate(
        {
            "one_by_one": lambda: time_one_by_one(data, make, torch.get_num_threads()),
            "one_by_one_single": lambda: time_one_by_one(data, make, 1),
            "pool": lambda: time_pool(data, make),
            "start": lambda: time_start(data),
        },
        rounds=rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each way")
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only, to try the script")
    arguments = parser.parse_args()
    figures, rows = {}, []
    for width in arguments.widths:
        settings = RunSettings(student_width=width, epochs=arguments.epochs, limit=arguments.limit)
        times = figures[width] = measure(settings, arguments.students, arguments.rounds)
        names = ("one_by_one", "one_by_one_single", "pool", "start")
        best = min(times["one_by_one"], times["one_by_one_single"])
        ratios = [f"{best / seconds:.2f}" for seconds in (times["pool"] - times["start"], times["pool"])]
        rows.append([str(width), *(f"{times[name]:.1f} s" for name in names), *ratios])
    threaded = f"one by one, {torch.get_num_threads()} threads"
    header = ["width", threaded, "one by one, 1 thread", "pool", "of which starting", "ratio", "ratio with start"]
    print(format_table(header, rows))
    print(
        f"\n{arguments.students} students, {arguments.epochs} epochs, median of {arguments.rounds} rounds; "
        "ratio: time of the faster way one by one / time of the pool, without and with the start of its processes"
    )
    sizes = {name: value for name, value in vars(arguments).items() if name != "widths"}
    print_report(figures=figures, **sizes, machine=describe_machine())


if __name__ == "__main__":
    main()
