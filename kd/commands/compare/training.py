"""Training of the pairs of ``kd compare``: all at once, or in rounds until the differences decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kd.arms import ARMS, CONTROL, DISTILLED, SMOOTHED
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.students import Arm, list_data, make_students, name_student
from kd.commands.compare.teachers import Teacher
from kd.console import say
from kd.devices import usable_cores
from kd.evaluation.quantities import Quantity, item_losses
from kd.evaluation.sequential import FEWEST, describe_evidence, find_stop, measure_evidence
from kd.training.students import TrainedStudent, train_students
from kd.training.tracking import track_training

Trained = dict[str, TrainedStudent]


def train_pairs(
    settings: CompareSettings, methods: Mapping[str, Sequence[Teacher]], arms: Mapping[str, Arm], device: torch.device
) -> Trained:
    """Train the students of all methods, teachers, seeds and arms; return them by name, ordered by seed."""
    students = dict(make_students(methods, arms, device))
    finished: Trained = {}
    for name, student in train_students(list_data(methods), students, processes=settings.processes):
        finished[name] = student
        track_training(name, student.history, student.test)  # its process has no tracker
        seconds, accuracy = student.history.seconds, student.history.final("val_acc")
        say(f"{len(finished):>3}/{len(students)}  {name}: validation accuracy {accuracy:.2%}, {seconds:.0f} s")
    return {name: finished[name] for name in students}  # training finishes in any order


def train_until_decided(
    settings: CompareSettings,
    teacher: Teacher,
    arms: Mapping[str, Arm],
    device: torch.device,
    *,
    quantity: Quantity,
    threshold: float,
) -> tuple[Teacher, Trained]:
    """Train pairs until control and label smoothing both have an e-value of at least ``threshold``.

    The differences are looked at after every pair in the order of the seeds, so the result does not depend on the
    number of processes. Students of later seeds, trained in the same round, are not used.

    Returns:
        The teacher with the seeds that are used, and their students by name.
    """
    trained: Trained = {}
    used = teacher
    for count in _list_counts(settings, len(teacher.seeds)):
        used = teacher._replace(seeds=teacher.seeds[:count])
        new = used._replace(seeds=used.seeds[len(trained) // len(arms) :])
        trained |= train_pairs(settings, {settings.method: [new]}, arms, device)
        contributions = {arm: _subtract(trained, used, arm, quantity) for arm in (CONTROL, SMOOTHED) if arm in arms}
        stop = find_stop(list(contributions.values()), threshold)
        used = used._replace(seeds=used.seeds[:stop])
        evidence = ", ".join(
            describe_evidence(measure_evidence(rows[:stop]), ARMS[arm].label, float(rows[:stop].sum()))
            for arm, rows in contributions.items()
        )
        say(f"e-values after {len(used.seeds)} of at most {settings.pairs} pairs: {evidence}; {threshold:g} decide")
        if stop is not None:
            break
    names = [name_student(arm, used, seed) for seed in used.seeds for arm in arms]
    return used, {name: trained[name] for name in names}


def _list_counts(settings: CompareSettings, most: int) -> Iterator[int]:
    """Yield the numbers of pairs after each round: as many pairs per round as processes, at first at least FEWEST."""
    size = settings.processes or usable_cores()
    first = -(-FEWEST // size) * size
    yield from range(min(first, most), most, size)
    yield most


def _subtract(trained: Trained, teacher: Teacher, against: str, quantity: Quantity) -> NDArray[np.float64]:
    """Return what each test item adds to the difference of each pair, distilled minus another arm: [pairs, items]."""

    def losses(arm: str, seed: int) -> NDArray[np.float64]:
        predictions = trained[name_student(arm, teacher, seed)].test
        assert predictions is not None
        return item_losses(quantity, *predictions)

    return np.stack([losses(DISTILLED, seed) - losses(against, seed) for seed in teacher.seeds])
