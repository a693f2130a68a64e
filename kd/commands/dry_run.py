"""``--dry-run``: estimate memory, disk and time of a command from its data, models and a few steps; write no results.

Sizes are counted. Times are extrapolated from a few steps on this machine under its current load: a rough guide.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from kd.checks import naming_flag
from kd.commands.before_training import require_models
from kd.commands.data import Data, load_data
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings
from kd.commands.models import combine_teachers, new_student, new_teachers
from kd.commands.paired_settings import PairedSettings, count_pilots
from kd.commands.recipe import say_recipe
from kd.commands.recipe_settings import teacher_settings
from kd.commands.settings import RunSettings
from kd.commands.step_times import Seconds, time_steps
from kd.commands.steps import say_data
from kd.console import print_table, say
from kd.data.datasets import unwrap_subsets
from kd.data.loaders import first_batch
from kd.data.sources.image_dataset import DecodedImages
from kd.devices import device_named, require_device, usable_cores
from kd.evaluation.cost import training_cost
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds

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


class Plan(NamedTuple):
    """Estimated resources of a command.

    Attributes:
        sizes: samples per split.
        steps: batches of one training run, at most, for ``teacher`` and ``student``.
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
    if getattr(settings, "shifts", False):
        from kd.data.shifts import require_images  # imports torchvision, which takes a second

        with naming_flag("--shifts"):
            require_images(data.test_set)
    say_data(data, device)
    say_recipe(settings, data.sizes["training"])
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
        teacher_epochs=settings.teacher_epochs,
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
    if "pilot" in trainings and isinstance(settings, PairedSettings):
        trainings["pilot"] *= count_pilots(data.deciding_quantity(getattr(settings, "decide", "auto")))
    seconds = time_steps(settings, data, teacher, student, is_parallel=_count_processes(settings) > 1)
    row_bytes = 4 * classes + 8  # float32 logits and an int64 label
    logits = _count_cached_rows(settings, data, trainings) * row_bytes
    students = _count_students(trainings)
    own = teacher_settings(settings)
    weights = trainings["teacher"] * models["teacher"].bytes + students * models["student"].bytes
    copies = trainings["teacher"] * models["teacher"].bytes * _count_copies(own)
    copies += students * models["student"].bytes * _count_copies(settings)
    predictions = (1 + students) * data.sizes["test"] * row_bytes
    memory = _measure_peak_memory(device) * _count_processes(settings) + DRAWING + 2 * logits
    return Plan(
        data.sizes,
        models,
        _count_steps(settings, data),
        trainings,
        round(logits),
        # Predictions are also written as text, at about 100 bytes per test sample.
        round(copies + logits + 2 * predictions + 100 * data.sizes["test"] + RESULTS),
        round(memory + 4 * weights / max(1, students)),
        _total_seconds(settings, data, seconds, trainings),
        seconds,
    )


def _count_cached_rows(settings: RunSettings, data: Data, trainings: Mapping[str, float]) -> float:
    """Return the number of rows of logits that are cached, over all teachers."""
    rows = data.sizes["training"] * data.views + data.distill_size - data.sizes["training"] + data.sizes["validation"]
    return 0 if settings.live else max(1, trainings["teacher"]) * rows


def _count_copies(settings: RunSettings) -> int:
    """Return the number of copies of a model's weights on the disk: the result twice, and two snapshots."""
    kept = (settings.ema > 0) + (settings.accumulate > 1) + (settings.keep == "best")  # average, gradients, best epoch
    return 2 + 2 * (3 + kept)  # Adam has two moments


def _count_steps(settings: RunSettings, data: Data) -> dict[str, int]:
    """Return the number of batches in a training of each kind."""
    own = teacher_settings(settings)
    samples = {"teacher": (own, data.sizes["training"]), "student": (settings, data.distill_size)}
    return {kind: recipe.epochs * -(-count // recipe.batch_size) for kind, (recipe, count) in samples.items()}


def _count_students(trainings: Mapping[str, float]) -> float:
    return sum(count for kind, count in trainings.items() if kind != "teacher")


def _measure_model(model: nn.Module, example: torch.Tensor, training: int) -> Model:
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return Model(count_parameters(model), count_multiply_adds(model, example), training, size)


def _total_seconds(settings: RunSettings, data: Data, seconds: Seconds, trainings: Mapping[str, float]) -> float:
    steps, sizes = _count_steps(settings, data), data.sizes
    validated = settings.epochs * sizes["validation"]  # samples per training
    teacher_validated = (settings.teacher_epochs or settings.epochs) * sizes["validation"]
    teachers = trainings["teacher"] * (
        steps["teacher"] * seconds.teacher + teacher_validated * seconds.teacher_inference
    )
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
        "parameters": (f"{teacher.parameters:,}" if teacher.parameters else "–", f"{student.parameters:,}"),
        "multiply-adds per sample": (
            f"{teacher.multiply_adds:,}" if teacher.multiply_adds else "–",
            f"{student.multiply_adds:,}",
        ),
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
