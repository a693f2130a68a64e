"""The methods of the table on MNIST at equal budget: paired seeds, one teacher, the control and plain distillation.

    python benchmarks/methods_on_mnist.py --out run-mlp    # MLP students
    python benchmarks/methods_on_mnist.py --out run-cnn --student cnn --student-epochs 3 --without semckd
    python benchmarks/methods_on_mnist.py --out run-same --student cnn --student-epochs 4 \
        --teacher cnn:8 --block same --methods kd fsp semckd sdd  # a teacher of the students' kind

Every student of a seed starts from the same weights, sees the same batches for the same number of epochs, and is asked
for the test images once, after its last epoch. Each method has its authors' settings; none was tuned on these data.
Goes on where it was interrupted. OUT/methods-BLOCK.json has the errors; docs/methods.md is made from it by
benchmarks/methods_page.py.
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
from kd.commands.settings import RunSettings
from kd.commands.steps import (
    TeacherWithData,
    make_objective,
    make_train,
    open_command,
    prepare_distillation_data,
    record_settings,
)
from kd.console import say
from kd.data.loaders import make_loader
from kd.methods import METHODS, settings_of
from kd.methods.objectives import supervised
from kd.training.students import Student, train_students
from measuring import machine

CONTROL = "control"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """Methods at equal budget on MNIST."""

    methods: tuple[str, ...] = ()
    """to be compared, by name; all that can work on the pair unless given"""
    without: tuple[str, ...] = ()
    """of these, not to be compared"""
    block: str | None = None
    """name of the results; the student's kind unless given"""
    student_epochs: int | None = None
    """of each student; as many as the teacher has unless given"""
    pairs: int = 5
    """students of each method; their seeds count up from SEED"""
    seed: int = 300
    """of the teacher and of the first student"""
    processes: int | None = None
    """students trained at once, one thread each; one for each core unless given"""

    @property
    def ids(self) -> bool:
        """All methods have the same data, so it carries what any one of them needs."""
        return any("ids" in METHODS[name].needs for name in self.methods or METHODS)

    def check(self) -> None:
        super().check()
        for name in (*self.methods, *self.without):
            settings_of(name)


def run(settings: Settings) -> dict[str, Any]:
    """Errors on the test images by method and seed, and what they were measured with."""
    with open_command(settings) as device:
        taught = prepare_distillation_data(settings, device)
        wanted = list(settings.methods) or able(settings, taught, device)
        methods = [name for name in wanted if name not in settings.without]
        students = dict(planned(settings, methods, taught, device))
        errors: dict[str, dict[int, int]] = {}
        for name, done in train_students([taught.distill_data], students, processes=settings.processes):
            method, _, seed = name.rpartition("-seed-")
            assert done.test is not None
            wrong = int((done.test.logits.argmax(dim=1) != done.test.labels).sum())
            errors.setdefault(method, {})[int(seed)] = wrong
            say(f"{sum(map(len, errors.values()))}/{len(students)}  {name}: {wrong} errors")
    predictions = kd.predict(taught.model, make_loader(taught.data.test_set, batch_size=500))
    return {
        "teacher": int((predictions.logits.argmax(dim=1) != predictions.labels).sum()),
        "images": len(predictions.labels),
        "errors": {name: [errors[name][seed] for seed in sorted(errors[name])] for name in [CONTROL, *methods]},
        "settings": {name: format_method_settings(settings_of(name)) for name in methods},
        "config": record_settings(settings, device),
        "machine": machine(),
    }


def able(settings: Settings, taught: TeacherWithData, device: torch.device) -> list[str]:
    """The methods that can work on the pair; why the others cannot is said."""
    found = []
    for name in METHODS:
        try:
            list(planned(dataclasses.replace(settings, pairs=1), [name], taught, device))
        except ValueError as error:
            say(f"{name} is left out: {error}")
        else:
            found.append(name)
    return found


def planned(
    settings: Settings, methods: Sequence[str], taught: TeacherWithData, device: torch.device
) -> Iterator[tuple[str, Student]]:
    """The control and every method's student, for each seed from the same weights."""
    of_students = dataclasses.replace(settings, epochs=settings.student_epochs or settings.epochs)
    loader = make_loader(taught.distill_data.training, batch_size=settings.batch_size)
    for seed in range(settings.seed, settings.seed + settings.pairs):
        for name in (CONTROL, *methods):
            own = dataclasses.replace(of_students, seed=seed, method="kd" if name == CONTROL else name)
            student = new_student(own, taught.data.task, device)
            objective = supervised if name == CONTROL else make_objective(own, student, taught.model, loader)
            yield f"{name}-seed-{seed}", Student(student, objective, make_train(own), own.epochs)


def save(results: Mapping[str, Any], settings: Settings) -> None:
    """Publish them in the run's folder."""
    content = (json.dumps(results, indent=1) + "\n").encode()
    kd.publish({settings.out / f"methods-{settings.block or settings.student}.json": content})


if __name__ == "__main__":
    asked = tyro.cli(Settings, description=__doc__)
    save(run(asked), asked)
