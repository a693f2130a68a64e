"""``--dry-run``: what a command would take, from its data, its models and a few measured steps. Nothing is written.

Sizes are counted. Times are those of some steps on this machine as it is now, scaled up: a rough guide.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from kd.commands.data import Data, load_data
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings
from kd.commands.models import combine_teachers, new_student, new_teachers
from kd.commands.settings import PairedSettings, RunSettings
from kd.commands.steps import make_objective, require_method, say_data
from kd.console import print_table, say
from kd.data.datasets import DistillDataset
from kd.data.loaders import first_batch, make_loader
from kd.devices import device_named, require_device
from kd.evaluation.cost import training_cost
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds
from kd.methods.objectives import in_bfloat16, supervised
from kd.teachers.cache import collect_logits
from kd.training.loop import fit
from kd.training.optimizers import adam
from kd.training.pool import usable_cores
from kd.types import Objective

STEPS = 8  # training steps that are timed, after as many that are not
RESULTS = 4_000_000  # bytes of pictures and report, in round numbers; predictions come on top
DRAWING = 80_000_000  # bytes of memory that drawing them takes on top of a training, as measured on MNIST


class Model(NamedTuple):
    """One of the two architectures.

    Attributes:
        multiply_adds: for one item.
        training: multiply-adds of a whole training.
        bytes: of its weights.
    """

    parameters: int
    multiply_adds: int
    training: int
    bytes: int


class Seconds(NamedTuple):
    """Of one training step of each kind, and of one item's answer."""

    teacher: float
    control: float
    distilled: float
    teacher_answer: float
    student_answer: float


class Plan(NamedTuple):
    """What a command would take.

    Attributes:
        sizes: items by part.
        steps: of one training, of ``teacher`` and ``student``.
        trainings: how many of each kind; ``longer`` ones count by their epochs.
        logits: bytes of the teacher's, all parts together.
        disk: bytes under OUT, at most, while it runs.
        memory: bytes.
        seconds: without the start of the program and its pictures.
    """

    sizes: Mapping[str, int]
    models: Mapping[str, Model]
    steps: Mapping[str, int]
    trainings: Mapping[str, float]
    logits: int
    disk: int
    memory: int
    seconds: float
    each: Seconds


def run(settings: RunSettings) -> None:
    """Print what the settings' command would take.

    Raises:
        ValueError: a setting is outside its range, or the method cannot work on this pair.
        OSError: the data cannot be read.
    """
    settings.check()
    device = device_named(settings.device)
    require_device(device, "--device")
    data = load_data(settings)
    say_data(data, device)
    require_method(settings, data, new_teachers(settings, data))
    say_method(settings.method, format_method_settings(settings.method_settings))
    _print(settings, plan(settings, data, device))


def plan(settings: RunSettings, data: Data, device: torch.device) -> Plan:
    """Count and measure. The models are made for it and thrown away."""
    teacher = combine_teachers([each.model for each in new_teachers(settings, data)], settings).to(device)
    student = new_student(settings, data.task, device)
    batch, classes = first_batch(data.train_loader), len(data.task.classes)
    cost = training_cost(
        teacher,
        student,
        batch,
        images=data.distill_size,
        labelled=data.sizes["training"],
        epochs=settings.epochs,
        served=settings.trainings["distilled"],
        views=data.views,
        asked_at_each_step=settings.asked_at_each_step,
    )
    models = {
        "teacher": _model(teacher, batch[0][:1], cost.teacher),
        "student": _model(student, batch[0][:1], cost.student),
    }
    trainings: dict[str, float] = dict(settings.trainings)
    if "longer" in trainings:
        trainings["longer"] *= cost.longer_epochs / settings.epochs
    each = _seconds(settings, data, teacher, student)
    logits = _asked(settings, data, trainings) * (4 * classes + 8)
    trained = trainings["teacher"] * models["teacher"].bytes + _students(trainings) * models["student"].bytes
    predictions = (1 + _students(trainings)) * data.sizes["test"] * (4 * classes + 8)
    return Plan(
        data.sizes,
        models,
        _steps(settings, data),
        trainings,
        round(logits),
        # Of each model its outcome, and before it two snapshots with two moments of every weight; predictions as text.
        round(8 * trained + logits + 2 * predictions + 100 * data.sizes["test"] + RESULTS),
        round(
            _memory(device) * _processes(settings) + DRAWING + 2 * logits + 4 * trained / max(1, _students(trainings))
        ),
        _all_seconds(settings, data, each, trainings),
        each,
    )


def _asked(settings: RunSettings, data: Data, trainings: Mapping[str, float]) -> float:
    """Answers of all teachers together that are kept."""
    rows = data.sizes["training"] * data.views + data.distill_size - data.sizes["training"] + data.sizes["validation"]
    return 0 if settings.live else max(1, trainings["teacher"]) * rows


def _steps(settings: RunSettings, data: Data) -> dict[str, int]:
    per_epoch = {"teacher": len(data.train_loader), "student": -(-data.distill_size // settings.batch_size)}
    return {kind: settings.epochs * steps for kind, steps in per_epoch.items()}


def _students(trainings: Mapping[str, float]) -> float:
    return sum(count for kind, count in trainings.items() if kind != "teacher")


def _model(model: nn.Module, example: torch.Tensor, training: int) -> Model:
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return Model(count_parameters(model), count_multiply_adds(model, example), training, size)


def _seconds(settings: RunSettings, data: Data, teacher: nn.Module, student: nn.Module) -> Seconds:
    """Time a few steps of each kind of training, with as many threads as it will have."""
    size = settings.batch_size
    rows = range(min(STEPS * size, data.sizes["training"]))
    few = Subset(data.train_loader.dataset, [row * data.views for row in rows])
    loader = make_loader(few, batch_size=size)
    started = time.perf_counter()
    predictions = collect_logits(teacher, few)
    teacher_answer = (time.perf_counter() - started) / len(rows)
    labelled = in_bfloat16(supervised) if settings.bfloat16 else supervised
    teacher_step = _step(teacher, labelled, loader) if settings.trainings["teacher"] else 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if _processes(settings) == 1 else 1)
    try:
        distill_set = few if settings.live else DistillDataset(few, predictions.logits, ids=settings.ids)
        with_logits = make_loader(distill_set, batch_size=size)
        control = _step(student, supervised, loader)
        distilled = _step(student, make_objective(settings, student, teacher, with_logits), with_logits)
        started = time.perf_counter()
        collect_logits(student, few)
        student_answer = (time.perf_counter() - started) / len(rows)
    finally:
        torch.set_num_threads(threads)
    return Seconds(teacher_step, control, distilled, teacher_answer, student_answer)


def _step(model: nn.Module, objective: Objective, loader: DataLoader[Any]) -> float:
    """Seconds of one training step of a copy of the model: the median epoch of three, after a first one."""
    own, times = copy.deepcopy(model), [0.0]
    optimizer, _ = adam(own, learning_rate=1e-6, steps=4 * len(loader), objective=objective)
    fit(
        own,
        objective,
        loader,
        None,
        optimizer=optimizer,
        epochs=4,
        seed=0,
        on_epoch=lambda _, history: times.append(history.seconds),
    )
    epochs = sorted(later - earlier for earlier, later in itertools.pairwise(times[1:]))
    return epochs[1] / len(loader)


def _all_seconds(settings: RunSettings, data: Data, each: Seconds, trainings: Mapping[str, float]) -> float:
    steps, sizes = _steps(settings, data), data.sizes
    checked = settings.epochs * sizes["validation"]
    teachers = trainings["teacher"] * (steps["teacher"] * each.teacher + checked * each.teacher_answer)
    logits = _asked(settings, data, trainings) * each.teacher_answer
    kinds = {kind: count for kind, count in trainings.items() if kind != "teacher"}
    per_step = {kind: each.distilled if kind == "distilled" else each.control for kind in kinds}
    students = sum(
        count * (steps["student"] * per_step[kind] + (checked + sizes["test"]) * each.student_answer)
        for kind, count in kinds.items()
    )
    return teachers + logits + sizes["test"] * each.teacher_answer + students / _processes(settings)


def _processes(settings: RunSettings) -> int:
    """Trainings at once."""
    if not isinstance(settings, PairedSettings):
        return 1
    return min(settings.processes or usable_cores(), round(_students(settings.trainings)))


def _memory(device: torch.device) -> int:
    """Bytes at the peak of this process: it has the data, the models, and has taken steps with them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1000 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):  # only Linux tells it so
        return 0


def _print(settings: RunSettings, found: Plan) -> None:
    teacher, student = found.models["teacher"], found.models["student"]
    own = {"teacher": found.trainings["teacher"], "student": _students(found.trainings)}
    rows = {
        "parameters": (f"{teacher.parameters:,}", f"{student.parameters:,}"),
        "multiply-adds an item": (f"{teacher.multiply_adds:,}", f"{student.multiply_adds:,}"),
        "multiply-adds a training, 10⁹": (f"{teacher.training / 1e9:,.1f}", f"{student.training / 1e9:,.1f}"),
        "weights, MB": (f"{teacher.bytes / 1e6:,.2f}", f"{student.bytes / 1e6:,.2f}"),
        "trainings": tuple(f"{count:,.4g}" for count in own.values()),
        "steps of each": tuple(f"{steps:,}" for steps in found.steps.values()),
        "a step, ms": (
            f"{1000 * found.each.teacher:.2f}",
            f"{1000 * found.each.control:.2f} alone, {1000 * found.each.distilled:.2f} distilled",
        ),
    }
    names = " + ".join(choice.spec for choice in settings.teachers_chosen)
    title = f"Plan of kd {settings.command}: nothing was trained, nothing written"
    print_table(title, ("", f"teacher {names}", f"student {settings.student}"), rows)
    free = shutil.disk_usage(_existing(settings.out)).free
    say(f"teacher's logits: {found.logits / 1e6:,.1f} MB, kept under {settings.state_dir}")
    say(f"disk: at most about {found.disk / 1e6:,.0f} MB under {settings.out}; {free / 1e6:,.0f} MB are free")
    if found.memory:
        say(f"memory: about {found.memory / 1e6:,.0f} MB")
    say(f"time: about {_duration(found.seconds)} on this machine, beside whatever else it does now")
    if found.disk > free:
        say(f"there is not enough disk. Choose another --out, or make room for {(found.disk - free) / 1e6:,.0f} MB.")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f"{hours:,.1f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{max(1, round(seconds))} s"
