"""``--dry-run``: estimate memory, disk and time of a command from its data, models and a few steps; write no results.

Sizes are counted. Times are extrapolated from a few steps on this machine under its current load: a rough guide.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
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
from kd.commands.steps import make_objective, require_models, say_data
from kd.console import print_table, say
from kd.data.datasets import DistillDataset, unwrap_subsets
from kd.data.loaders import first_batch, make_loader
from kd.data.sources.image_dataset import DecodedImages
from kd.devices import device_named, require_device, usable_cores
from kd.evaluation.cost import training_cost
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds
from kd.methods.objectives import in_bfloat16, supervised
from kd.teachers.cache import collect_logits
from kd.training.loop import fit
from kd.training.optimizers import adam
from kd.types import Objective

STEPS = 8  # training steps per epoch of a timing; fewer if the dataset is smaller
RESULTS = 4_000_000  # bytes of plots and report, rounded; without predictions
DRAWING = 80_000_000  # bytes of memory for drawing plots, in addition to training; measured on MNIST


class Model(NamedTuple):
    """Size and cost of one of the two architectures.

    Attributes:
        multiply_adds: multiply-adds of one sample.
        training: multiply-adds of a whole training run.
        bytes: size of the weights.
    """

    parameters: int
    multiply_adds: int
    training: int
    bytes: int


class Seconds(NamedTuple):
    """Seconds per training step of each kind of training, and per sample at inference."""

    teacher: float
    control: float
    distilled: float
    teacher_inference: float
    student_inference: float


class Plan(NamedTuple):
    """Estimated resources of a command.

    Attributes:
        sizes: samples per split.
        steps: optimizer steps of one training run, for ``teacher`` and ``student``.
        trainings: number of training runs by kind; a ``longer`` run counts in proportion to its epochs.
        logits: bytes of the teacher's logits on all splits.
        disk: maximum bytes under OUT while the command runs.
        memory: peak memory in bytes.
        seconds: total time, without start-up and plots.
        timings: time of single steps and samples.
    """

    sizes: Mapping[str, int]
    models: Mapping[str, Model]
    steps: Mapping[str, int]
    trainings: Mapping[str, float]
    logits: int
    disk: int
    memory: int
    seconds: float
    timings: Seconds


def run(settings: RunSettings) -> None:
    """Print the estimated resources of the settings' command.

    Raises:
        ValueError: a setting is outside its range, or the method does not work with these models.
        OSError: the data cannot be read.
    """
    settings.check()
    device = device_named(settings.device)
    require_device(device, "--device")
    data = load_data(settings)
    say_data(data, device)
    require_models(settings, data, new_teachers(settings, data))
    say_method(settings.method, format_method_settings(settings.method_settings))
    _print_plan(settings, plan(settings, data, device))
    _say_decoded(data)


def plan(settings: RunSettings, data: Data, device: torch.device) -> Plan:
    """Count sizes and time a few steps, with models that are then discarded."""
    teacher = combine_teachers([teacher.model for teacher in new_teachers(settings, data)], settings).to(device)
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
        "teacher": _measure_model(teacher, batch[0][:1], cost.teacher),
        "student": _measure_model(student, batch[0][:1], cost.student),
    }
    trainings: dict[str, float] = dict(settings.trainings)
    if "longer" in trainings:
        trainings["longer"] *= cost.longer_epochs / settings.epochs
    seconds = _time_steps(settings, data, teacher, student)
    row_bytes = 4 * classes + 8  # float32 logits and an int64 label
    logits = _count_cached_rows(settings, data, trainings) * row_bytes
    students = _count_students(trainings)
    weights = trainings["teacher"] * models["teacher"].bytes + students * models["student"].bytes
    predictions = (1 + students) * data.sizes["test"] * row_bytes
    return Plan(
        data.sizes,
        models,
        _count_steps(settings, data),
        trainings,
        round(logits),
        # Eight times the weights: the result twice, and two snapshots that include Adam's two moments. Predictions are
        # also written as text, at about 100 bytes per test sample.
        round(8 * weights + logits + 2 * predictions + 100 * data.sizes["test"] + RESULTS),
        round(
            _measure_peak_memory(device) * _count_processes(settings)
            + DRAWING
            + 2 * logits
            + 4 * weights / max(1, students)
        ),
        _total_seconds(settings, data, seconds, trainings),
        seconds,
    )


def _count_cached_rows(settings: RunSettings, data: Data, trainings: Mapping[str, float]) -> float:
    """Return the number of rows of logits that are cached, over all teachers."""
    rows = data.sizes["training"] * data.views + data.distill_size - data.sizes["training"] + data.sizes["validation"]
    return 0 if settings.live else max(1, trainings["teacher"]) * rows


def _count_steps(settings: RunSettings, data: Data) -> dict[str, int]:
    per_epoch = {"teacher": len(data.train_loader), "student": -(-data.distill_size // settings.batch_size)}
    return {kind: settings.epochs * steps for kind, steps in per_epoch.items()}


def _count_students(trainings: Mapping[str, float]) -> float:
    return sum(count for kind, count in trainings.items() if kind != "teacher")


def _measure_model(model: nn.Module, example: torch.Tensor, training: int) -> Model:
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return Model(count_parameters(model), count_multiply_adds(model, example), training, size)


def _time_steps(settings: RunSettings, data: Data, teacher: nn.Module, student: nn.Module) -> Seconds:
    """Time a few steps of each kind of training, with the number of threads that the command would use."""
    size = settings.batch_size
    rows = range(min(STEPS * size, data.sizes["training"]))
    subset = Subset(data.train_loader.dataset, [row * data.views for row in rows])  # the first view of each sample
    loader = make_loader(subset, batch_size=size)
    started = time.perf_counter()
    predictions = collect_logits(teacher, subset)
    teacher_inference = (time.perf_counter() - started) / len(rows)
    teacher_objective = in_bfloat16(supervised) if settings.bfloat16 else supervised
    teacher_step = _time_step(teacher, teacher_objective, loader) if settings.trainings["teacher"] else 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if _count_processes(settings) == 1 else 1)
    try:
        distill_set = subset if settings.live else DistillDataset(subset, predictions.logits, ids=settings.needs_ids)
        distill_loader = make_loader(distill_set, batch_size=size)
        control = _time_step(student, supervised, loader)
        objective = make_objective(settings, student, teacher, distill_loader)
        distilled = _time_step(student, objective, distill_loader)
        started = time.perf_counter()
        collect_logits(student, subset)
        student_inference = (time.perf_counter() - started) / len(rows)
    finally:
        torch.set_num_threads(threads)
    return Seconds(teacher_step, control, distilled, teacher_inference, student_inference)


def _time_step(model: nn.Module, objective: Objective, loader: DataLoader[Any]) -> float:
    """Return the seconds per training step of a copy of the model: median of three epochs after a warm-up step."""
    timed_model, times = copy.deepcopy(model), [0.0]
    optimizer, _ = adam(timed_model, learning_rate=1e-6, steps=1 + 3 * len(loader), objective=objective)
    train = partial(fit, timed_model, objective, optimizer=optimizer, seed=0)
    size = loader.batch_size or 1
    rows = range(min(size, len(loader.dataset)))  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    train(make_loader(Subset(loader.dataset, rows), batch_size=size), None, epochs=1)
    train(loader, None, epochs=3, on_epoch=lambda _, history: times.append(history.seconds))
    epochs = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    return epochs[1] / len(loader)


def _total_seconds(settings: RunSettings, data: Data, seconds: Seconds, trainings: Mapping[str, float]) -> float:
    steps, sizes = _count_steps(settings, data), data.sizes
    validated = settings.epochs * sizes["validation"]  # samples per training
    teachers = trainings["teacher"] * (steps["teacher"] * seconds.teacher + validated * seconds.teacher_inference)
    logits = _count_cached_rows(settings, data, trainings) * seconds.teacher_inference
    kinds = {kind: count for kind, count in trainings.items() if kind != "teacher"}
    per_step = {kind: seconds.distilled if kind == "distilled" else seconds.control for kind in kinds}
    students = sum(
        count * (steps["student"] * per_step[kind] + (validated + sizes["test"]) * seconds.student_inference)
        for kind, count in kinds.items()
    )
    return teachers + logits + sizes["test"] * seconds.teacher_inference + students / _count_processes(settings)


def _count_processes(settings: RunSettings) -> int:
    """Return the number of students trained in parallel."""
    if not isinstance(settings, PairedSettings):
        return 1
    return min(settings.processes or usable_cores(), round(_count_students(settings.trainings)))


def _measure_peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes; call it after data and models are loaded and steps timed."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes


def _print_plan(settings: RunSettings, estimate: Plan) -> None:
    teacher, student = estimate.models["teacher"], estimate.models["student"]
    trainings = (estimate.trainings["teacher"], _count_students(estimate.trainings))
    rows = {
        "parameters": (f"{teacher.parameters:,}", f"{student.parameters:,}"),
        "multiply-adds per sample": (f"{teacher.multiply_adds:,}", f"{student.multiply_adds:,}"),
        "multiply-adds per training run, 10⁹": (f"{teacher.training / 1e9:,.1f}", f"{student.training / 1e9:,.1f}"),
        "weights, MB": (f"{teacher.bytes / 1e6:,.2f}", f"{student.bytes / 1e6:,.2f}"),
        "training runs": tuple(f"{count:,.4g}" for count in trainings),
        "steps per training run": tuple(f"{steps:,}" for steps in estimate.steps.values()),
        "time per step, ms": (
            f"{1000 * estimate.timings.teacher:.2f}",
            f"{1000 * estimate.timings.control:.2f} control, {1000 * estimate.timings.distilled:.2f} distilled",
        ),
    }
    names = " + ".join(choice.spec for choice in settings.teachers_chosen)
    title = f"Dry run of kd {settings.command}: no results were saved"
    print_table(title, ("", f"teacher {names}", f"student {settings.student}"), rows)
    free = shutil.disk_usage(_nearest_existing(settings.out)).free
    say(f"teacher logits: {estimate.logits / 1e6:,.1f} MB, cached under {settings.state_dir}")
    say(f"disk: at most about {estimate.disk / 1e6:,.0f} MB under {settings.out}; {free / 1e6:,.0f} MB are free")
    if estimate.memory:
        say(f"memory: about {estimate.memory / 1e6:,.0f} MB")
    say(f"time: about {_format_duration(estimate.seconds)} on this machine under its current load")
    if estimate.disk > free:
        say(f"not enough disk space: free another {(estimate.disk - free) / 1e6:,.0f} MB, or choose another --out.")


def _say_decoded(data: Data) -> None:
    """Print where decoded images were saved: they are all that a dry run writes."""
    for base in (unwrap_subsets(dataset)[0] for dataset in (data.train_set, data.unlabelled) if dataset is not None):
        if isinstance(base, DecodedImages):
            say(f"images: decoded into {base.folder}; the command will reuse them")


def _nearest_existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _format_duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(1, round(seconds))} s"
