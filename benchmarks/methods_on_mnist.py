"""Compare methods on MNIST with the control and plain distillation: same training budget, paired seeds, one teacher.

    python benchmarks/methods_on_mnist.py --out run-mlp    # MLP students
    python benchmarks/methods_on_mnist.py --out run-cnn --student cnn --student-epochs 3 --without semckd
    python benchmarks/methods_on_mnist.py --out run-same --student cnn --student-epochs 4 \
        --teacher cnn:8 --block same --methods kd fsp semckd sdd cat-kd  # a teacher of the students' kind

All students of a seed share initial weights, batches and number of epochs, and are evaluated on the test images once,
after the last epoch. Each method has its authors' settings; none was tuned on these data. An interrupted run resumes.
Errors are saved in OUT/methods-BLOCK.json, from which benchmarks/methods_page.py writes the tables of docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro

import kd
from kd.commands.method_flags import format_method_settings
from kd.commands.models import new_student
from kd.commands.recipe import make_train
from kd.commands.settings import RunSettings
from kd.commands.steps import TeacherWithData, make_objective, open_command, prepare_distillation_data, record_settings
from kd.console import say
from kd.data.loaders import make_loader
from kd.methods import METHODS, settings_of
from kd.methods.objectives import supervised
from kd.training.students import Student, train_students
from measuring import describe_machine

CONTROL = "control"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Methods on MNIST with the same training budget."""

    methods: tuple[str, ...] = ()
    """names of the methods to compare (default: all that fit the pair)"""
    without: tuple[str, ...] = ()
    """names of methods to leave out"""
    block: str | None = None
    """name of the results (default: the student's name)"""
    student_epochs: int | None = None
    """epochs of each student (default: the teacher's number)"""
    pairs: int = 5
    """students per method; their seeds count up from SEED"""
    seed: int = 300
    """seed of the teacher and of the first student"""
    processes: int | None = None
    """students trained in parallel, one thread each (default: one per core)"""

    @property
    def needs_ids(self) -> bool:
        """Return whether batches carry ids: all methods share the data, so True if any method needs ids."""
        return any("ids" in METHODS[name].needs for name in self.methods or METHODS)

    def check(self) -> None:
        super().check()
        for name in (*self.methods, *self.without):
            settings_of(name)


def run(settings: Settings) -> dict[str, Any]:
    """Train and evaluate all students; return test errors by method and seed, settings and machine."""
    with open_command(settings) as device:
        teacher = prepare_distillation_data(settings, device)
        names = list(settings.methods) or find_usable_methods(settings, teacher, device)
        methods = [name for name in names if name not in settings.without]
        students = dict(plan_students(settings, methods, teacher, device))
        errors: dict[str, dict[int, int]] = {}
        for name, student in train_students([teacher.distill_data], students, processes=settings.processes):
            method, _, seed = name.rpartition("-seed-")
            assert student.test is not None
            count = int((student.test.logits.argmax(dim=1) != student.test.labels).sum())
            errors.setdefault(method, {})[int(seed)] = count
            say(f"{sum(map(len, errors.values()))}/{len(students)}  {name}: {count} errors")
    predictions = kd.predict(teacher.model, make_loader(teacher.data.test_set, batch_size=500))
    return {
        "teacher": int((predictions.logits.argmax(dim=1) != predictions.labels).sum()),
        "images": len(predictions.labels),
        "errors": {name: [errors[name][seed] for seed in sorted(errors[name])] for name in [CONTROL, *methods]},
        "settings": {name: format_method_settings(settings_of(name)) for name in methods},
        "config": record_settings(settings, device),
        "machine": describe_machine(),
    }


def find_usable_methods(settings: Settings, teacher: TeacherWithData, device: torch.device) -> list[str]:
    """Return the methods that fit the pair of models; print why the others do not."""
    names = []
    for name in METHODS:
        try:
            list(plan_students(dataclasses.replace(settings, pairs=1), [name], teacher, device))
        except ValueError as error:
            say(f"{name}: skipped: {error}")
        else:
            names.append(name)
    return names


def plan_students(
    settings: Settings, methods: Sequence[str], teacher: TeacherWithData, device: torch.device
) -> Iterator[tuple[str, Student]]:
    """Yield the control and every method's student, with equal initial weights per seed."""
    student_settings = dataclasses.replace(settings, epochs=settings.student_epochs or settings.epochs)
    loader = make_loader(teacher.distill_data.training, batch_size=settings.batch_size)
    for seed in range(settings.seed, settings.seed + settings.pairs):
        for name in (CONTROL, *methods):
            variant = dataclasses.replace(student_settings, seed=seed, method="kd" if name == CONTROL else name)
            student = new_student(variant, teacher.data.task, device)
            objective = supervised if name == CONTROL else make_objective(variant, student, teacher.model, loader)
            yield f"{name}-seed-{seed}", Student(student, objective, make_train(variant), variant.epochs)


def save(results: Mapping[str, Any], settings: Settings) -> None:
    """Save the results in the run folder."""
    content = (json.dumps(results, indent=1) + "\n").encode()
    kd.publish({settings.out / f"methods-{settings.block or settings.student}.json": content})


if __name__ == "__main__":
    arguments = tyro.cli(Settings, description=__doc__)
    save(run(arguments), arguments)
