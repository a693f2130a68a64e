"""The steps that commands are made of: an open run, the teacher, its logits, the objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from kd.commands.data import Data, load_data
from kd.commands.messages import say_layers, say_sizes
from kd.commands.method_flags import format_method_settings
from kd.commands.models import NamedTeacher, combine_teachers, new_student, new_teachers, with_seed_of
from kd.commands.settings import FLAGS_ALONE, RunSettings
from kd.console import say
from kd.data.loaders import first_batch, loader_like
from kd.data.unlabelled import repeated
from kd.devices import device_named, require_device
from kd.methods import METHODS, make, try_method
from kd.methods.objectives import in_bfloat16, live_teacher, supervised
from kd.models.inference import device_of, evaluating
from kd.seeding import seeded
from kd.storage.files import require_writable
from kd.storage.run_folder import open_run
from kd.teachers.cache import with_teacher_logits, with_unlabelled
from kd.teachers.load import teacher_accuracy
from kd.training import run_steps
from kd.training.history import History
from kd.training.optimizers import adam
from kd.training.students import DistillationData
from kd.types import Objective

UNLABELLED_TOO = (
    "the control has the labelled items, over and over, in as many steps as the distilled student takes with the "
    "unlabelled ones as well"
)


@contextmanager
def open_command(settings: RunSettings, *folders: Path, made: Sequence[str] | None = None) -> Iterator[torch.device]:
    """What a command starts with: settings checked, folders that can be written to, its run folder open. The device.

    Args:
        made: as ``kd.storage.run_folder.open_run`` has it.

    Raises:
        ValueError: a setting is outside its range.
        OSError: a folder cannot be written to or is in use by another run.
    """
    settings.check()
    device = device_named(settings.device)
    require_device(device, "--device")
    for folder in folders:
        require_writable(folder)
    with open_run(settings.state_dir, fresh=settings.fresh, interval=settings.snapshot_seconds, made=made):
        yield device


def say_data(data: Data, device: torch.device) -> None:
    """What there is to learn from."""
    say_sizes(data.name, data.sizes, device, noun=data.task.noun)
    if data.unlabelled is not None:
        say(f"{len(data.unlabelled):,} unlabelled items for the distilled student")  # type: ignore[arg-type]


def train_teacher(
    settings: RunSettings, data: Data, teachers: Sequence[NamedTeacher], device: torch.device, *, suffix: str = ""
) -> tuple[nn.Module, History | None]:
    """The teacher of the settings: trained on the labels, or loaded and measured anew; several as one.

    Args:
        teachers: as they start, those of the settings.
        suffix: tells one teacher's steps from another's in the run folder.

    Returns:
        the model, and its curves if it is one teacher that was trained here.
    """
    objective = in_bfloat16(supervised) if settings.bfloat16 else supervised
    models = [teacher.model.to(device) for teacher in teachers]
    histories: list[History] = []
    for number, (model, (_, trained)) in enumerate(zip(models, teachers, strict=True)):
        title = f"teacher{suffix}" + (f"-of-several-{number}" if number else "")
        if trained:
            teacher_accuracy(model, data.val_set, name=title)
        else:
            train = make_train(with_seed_of(settings, number))
            histories.append(train(title, model, objective, data.train_loader, data.val_loader))
    return combine_teachers(models, settings), histories[0] if len(models) == len(histories) == 1 else None


def make_distill_loaders(
    settings: RunSettings, teacher: nn.Module, data: Data, *, suffix: str = ""
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The loaders to train and to validate with, with the teacher's logits; unlabelled items are in the former.

    Where the teacher has to be asked at each step, they are the data's own.

    Args:
        suffix: tells one teacher's from another's in the run folder.
    """
    if settings.live:
        return data.train_loader, data.val_loader
    parts: dict[str, tuple[Dataset[Any], DataLoader[Any]]] = {
        f"training{suffix}": (data.train_loader.dataset, data.train_loader),
        f"validation{suffix}": (data.val_set, data.val_loader),
    }
    if data.unlabelled is not None:
        distill_data = with_unlabelled(teacher, data.train_set, data.unlabelled, suffix=suffix)
        del parts[f"training{suffix}"]
        (validation,) = with_teacher_logits(teacher, parts).values()
        return loader_like(data.train_loader, distill_data), validation
    training, validation = with_teacher_logits(teacher, parts, ids=settings.ids).values()
    return training, validation


def make_control_loader(data: Data, distilled: DataLoader[Any]) -> DataLoader[Any]:
    """What the control is trained with: the labelled items, over and over where the other has unlabelled ones as well.

    Args:
        distilled: the loader that the distilled student is trained with.
    """
    if data.unlabelled is None:
        return data.train_loader
    return loader_like(data.train_loader, repeated(data.train_set, len(distilled.dataset)))  # type: ignore[arg-type]


def make_objective(settings: RunSettings, student: nn.Module, teacher: nn.Module, loader: DataLoader[Any]) -> Objective:
    """What the settings' method trains the student towards, on batches like those of the loader."""
    example, ask = first_batch(loader), settings.live and "logits" in METHODS[settings.method].needs
    if ask:
        with torch.no_grad(), evaluating(teacher):
            example = (*example, teacher(example[0].to(device_of(teacher))).float().cpu())
    objective = make(settings.method, student, teacher, example, settings.method_settings)
    return live_teacher(teacher, objective) if ask else objective


def require_method(settings: RunSettings, data: Data, teachers: Sequence[NamedTeacher]) -> None:
    """Refuse, before anything is trained, a method that cannot work on this pair; say which layers it compares.

    Raises:
        ValueError: as the method has it.
    """
    student = new_student(settings, data.task, torch.device("cpu"))
    teacher = combine_teachers([teacher.model for teacher in teachers], settings)
    with seeded(settings.seed):
        layers = try_method(settings.method, student, teacher, first_batch(data.val_loader), settings.method_settings)
    say_layers(layers)


def make_train(settings: RunSettings) -> run_steps.Train:
    """How every model is trained: Adam, with these settings."""

    def train(
        title: str, model: nn.Module, objective: Objective, train_loader: DataLoader[Any], val_loader: DataLoader[Any]
    ) -> History:
        steps = settings.epochs * len(train_loader)
        optimizer, scheduler = adam(model, learning_rate=settings.learning_rate, steps=steps, objective=objective)
        return run_steps.train(
            title,
            model,
            objective,
            train_loader,
            val_loader,
            optimizer=optimizer,
            scheduler=scheduler,
            epochs=settings.epochs,
            seed=settings.seed,
        )

    return train


def record_settings(settings: RunSettings, device: torch.device) -> dict[str, Any]:
    """The settings that count for a result, under the names by which ``python main.py`` records them."""
    values = dataclasses.asdict(settings) | {"device": str(device)}
    values["set"] = format_method_settings(settings.method_settings)
    uncounted = {"out", "config", "fresh", "snapshot_seconds", "processes"}
    # What is a flag alone, and not a constant of the documented pipeline, is told where it was given.
    defaults = {field.name: field.default for field in dataclasses.fields(RunSettings) if field.name in FLAGS_ALONE}
    uncounted |= {name for name, default in defaults.items() if values[name] == default}
    kept = {name: value for name, value in values.items() if name not in uncounted}
    return {name.upper(): str(value) if isinstance(value, Path) else value for name, value in kept.items()}


class TeacherWithData(NamedTuple):
    """A trained teacher, the data it was trained on, and the data to train students with.

    Attributes:
        distill_data: with the teacher's logits.
        control_data: for students that learn from the labels alone.
    """

    model: nn.Module
    data: Data
    distill_data: DistillationData
    control_data: DistillationData


def prepare_distillation_data(
    settings: RunSettings, device: torch.device, *, number: int = 0, test_seed: int | None = None
) -> TeacherWithData:
    """Train the teacher of these settings and collect its logits, or take up what is kept; no test image is asked.

    Args:
        number: which one it is where there are several; 0 is that of ``kd run`` in the same folder.
        test_seed: as ``kd.data.sources.split_source`` has it.
    """
    data = load_data(settings, test_seed=test_seed)
    if not number:
        say_data(data, device)
    teachers = new_teachers(settings, data)
    if not number:
        require_method(settings, data, teachers)
    suffix = f"-{number}" if number else ""
    model, _ = train_teacher(settings, data, teachers, device, suffix=suffix)
    loaders = make_distill_loaders(settings, model, data, suffix=suffix)
    training, validation = (loader.dataset for loader in loaders)
    distill_data = DistillationData(training, validation, data.test_set, settings.batch_size, data.views)
    if data.unlabelled is None:
        return TeacherWithData(model, data, distill_data, distill_data)
    return TeacherWithData(
        model, data, distill_data, distill_data._replace(training=make_control_loader(data, loaders[0]).dataset)
    )
