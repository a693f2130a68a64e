"""Steps shared by the commands: open the run folder, train the teacher, cache its logits, make the objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from kd.checks import naming_flag
from kd.commands.auto_network import forget_chosen_networks, list_chosen_networks
from kd.commands.before_training import require_models
from kd.commands.class_weights import digest_of_class_weights
from kd.commands.data import Data, load_data, make_training_loader
from kd.commands.messages import say_sizes
from kd.commands.method_flags import format_method_settings
from kd.commands.models import Teacher, combine_teachers, digest_models, new_teachers
from kd.commands.publish import result_folders
from kd.commands.recipe import add_label_options, make_train, say_recipe
from kd.commands.recipe_settings import teacher_settings
from kd.commands.settings import RunSettings
from kd.commands.students import (
    digest_of_file,
    forget_files,
)
from kd.commands.subject import require_same_subject
from kd.commands.teacher_inputs import data_for_teacher, describe_inputs, forget_inputs
from kd.console import say
from kd.data.loaders import first_batch, loader_like, make_loader
from kd.data.unlabelled import repeated
from kd.devices import device_named, require_device
from kd.imports import is_plugin
from kd.methods import make, method_named
from kd.methods.objectives import live_teacher, supervised
from kd.methods.own import load_method, pin_methods
from kd.models.inference import device_of, evaluating
from kd.storage.files import require_writable
from kd.storage.run_folder import open_run
from kd.teachers.cache import with_teacher_logits, with_unlabelled
from kd.teachers.class_map import digest_of_class_map
from kd.teachers.fitted_head import FittedHead, fit_head
from kd.teachers.load import teacher_accuracy
from kd.teachers.saturation import explain_saturation
from kd.training.history import History
from kd.training.students import DistillationData
from kd.training.tracking import track
from kd.types import Objective

# Settings that do not affect results.
UNRECORDED = frozenset({"out", "config", "fresh", "snapshot_seconds", "processes", "workers", "track", "trust"})
UNLABELLED_TOO = (
    "the control repeats the labelled samples, for the same number of steps as the distilled student, which also has "
    "the unlabelled samples"
)


@contextmanager
def open_command(
    settings: RunSettings, *folders: Path, made: Sequence[str] | None = None, program: str = ""
) -> Iterator[torch.device]:
    """Check the settings and folders, open the run folder, and yield the device.

    Args:
        folders: folders that the command writes to, besides OUT and its results folder. All must be writable, and are
            locked.
        made, program: see ``kd.storage.run_folder.open_run``; the program defaults to the command that the settings
            belong to.

    Raises:
        ValueError: a setting is outside its range, or the folder holds a run on other data or models.
        OSError: a folder is not writable or is in use by another run.
    """
    settings.check()
    forget_files()
    forget_inputs()
    forget_chosen_networks()
    device = device_named(settings.device)
    require_device(device, "--device")
    with ExitStack() as stack:
        stack.enter_context(pin_methods())
        stack.enter_context(track(settings.track, settings.track_dir))
        with naming_flag(f"--out {settings.out}"):
            for folder in folders:
                require_writable(folder)
            run = open_run(
                settings.state_dir,
                fresh=settings.fresh,
                interval=settings.snapshot_seconds,
                made=made,
                places=[settings.out, settings.results_dir, *folders, *result_folders(settings.out)],
                program=program or settings.command,
            )
            stack.enter_context(run)
        require_same_subject(settings)
        yield device


def say_data(data: Data, device: torch.device) -> None:
    """Print the sizes of the splits and of any unlabelled data."""
    say_sizes(data.name, data.sizes, device, noun=data.task.noun)
    if data.unlabelled is not None:
        say(f"{len(data.unlabelled):,} unlabelled samples for the distilled student")  # type: ignore[arg-type]


def train_teacher(
    settings: RunSettings, data: Data, teachers: Sequence[Teacher], device: torch.device, *, suffix: str = ""
) -> tuple[nn.Module, History | None]:
    """Train each teacher on the labels, or measure its accuracy if it is loaded; combine several.

    Args:
        teachers: the teachers of the settings, before training.
        suffix: appended to step names in the run folder, to distinguish teachers.

    Returns:
        The model, and its history if it is a single teacher trained here.
    """
    own = teacher_settings(settings)
    loaders = data.train_loader, data.val_loader
    if own.batch_size != settings.batch_size:  # both its own, so that another size for the students repeats no training
        loaders = (
            make_training_loader(own, data.train_set, data.mix),
            make_loader(data.val_set, batch_size=own.batch_size),
        )
    objective = add_label_options(settings, data, supervised, device)
    models = [teacher.model.to(device) for teacher in teachers]
    histories: list[History] = []
    seen = data_for_teacher(settings, data, *models)
    for number, (model, teacher) in enumerate(zip(models, teachers, strict=True)):
        title = f"teacher{suffix}" + (f"-of-several-{number}" if number else "")
        if isinstance(model, FittedHead):
            fit_head(model, seen.train_set, seen.val_set, title=title)
        if teacher.trained:
            teacher_accuracy(model, seen.val_set, name=title)
        else:
            if not number and teacher.seed != settings.seed:
                say(
                    f"{title}: it has the student's architecture, so it takes seed {teacher.seed}; with seed "
                    f"{settings.seed} it would be the control itself"
                )
            train = make_train(dataclasses.replace(own, seed=teacher.seed))
            histories.append(train(title, model, objective, *loaders))
    return combine_teachers(models, settings), histories[0] if len(models) == len(histories) == 1 else None


def make_distill_loaders(
    settings: RunSettings, teacher: nn.Module, data: Data, *, suffix: str = ""
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return training and validation loaders with the teacher's cached logits; the first includes unlabelled samples.

    If the teacher runs at every step, return the loaders of ``data`` unchanged.

    Args:
        suffix: appended to step names in the run folder, to distinguish teachers.
    """
    if settings.live:
        return data.train_loader, data.val_loader
    splits: dict[str, tuple[Dataset[Any], DataLoader[Any]]] = {
        f"training{suffix}": (data.train_loader.dataset, data.train_loader),
        f"validation{suffix}": (data.val_set, data.val_loader),
    }
    if data.unlabelled is not None:
        distill_data = with_unlabelled(teacher, data.train_set, data.unlabelled, suffix=suffix)
        del splits[f"training{suffix}"]
        (validation,) = with_teacher_logits(teacher, splits).values()
        _say_saturation(settings, distill_data.logits)
        return loader_like(data.train_loader, distill_data), validation
    own = data_for_teacher(settings, data, teacher)
    seen = {f"training{suffix}": own.train_loader.dataset, f"validation{suffix}": own.val_set}
    training, validation = with_teacher_logits(teacher, splits, ids=settings.needs_ids, seen=seen).values()
    _say_saturation(settings, training.dataset.logits)  # type: ignore[attr-defined]  # a DistillDataset
    return training, validation


def _say_saturation(settings: RunSettings, logits: torch.Tensor) -> None:
    """Print that the method's soft targets are hardly softer than labels, if they are."""
    values = settings.method_settings
    temperature = values.get("temperature")
    if "logits" not in method_named(settings.method).needs or not isinstance(temperature, (int, float)):
        return
    if temperature > 0 and (reason := explain_saturation(logits, temperature)):
        say(reason)


def make_control_loader(data: Data, distilled: DataLoader[Any]) -> DataLoader[Any]:
    """Return the control's training loader: labelled samples, repeated to the epoch length of the distilled student.

    Args:
        distilled: training loader of the distilled student.
    """
    if data.unlabelled is None:
        return data.train_loader
    return loader_like(data.train_loader, repeated(data.train_set, len(distilled.dataset)))  # type: ignore[arg-type]


def make_objective(settings: RunSettings, student: nn.Module, teacher: nn.Module, loader: DataLoader[Any]) -> Objective:
    """Make the objective of the settings' method, for batches structured like those of the loader."""
    example, needs_logits = first_batch(loader), settings.live and "logits" in method_named(settings.method).needs
    if needs_logits:
        with torch.no_grad(), evaluating(teacher):
            example = (*example, teacher(example[0].clone().to(device_of(teacher))).float().cpu())
    objective = make(settings.method, student, teacher, example, settings.method_settings)
    return live_teacher(teacher, objective) if needs_logits else objective


def record_settings(settings: RunSettings, device: torch.device) -> dict[str, Any]:
    """Return the settings that affect the results, under the names that ``python main.py`` uses."""
    values = dataclasses.asdict(settings) | {"device": str(device)}
    values["bfloat16"] = teacher_settings(settings).precision == "bfloat16"  # a constant of the documented pipeline
    values["set"] = format_method_settings(settings.method_settings)
    if is_plugin(settings.method):  # a method whose file was edited is another method
        values["method_source"] = load_method(settings.method).source
    omitted = {*UNRECORDED}
    # Flags without a constant in the documented pipeline are recorded only if they differ from their default, so that
    # ``kd run`` and ``python main.py`` record the same settings.
    defaults = {f.name: f.default for f in dataclasses.fields(settings) if f.name in settings.recorded_if_set}
    omitted |= {name for name, default in defaults.items() if values[name] == default}
    recorded = {name: value for name, value in values.items() if name not in omitted}
    if digest := digest_of_file(settings):
        recorded["student_sha256"] = digest  # of the file, which the name alone does not identify
    if (networks := list_chosen_networks()) and networks != ["convnet"]:  # the documented pipeline's
        recorded["teacher_network"] = networks
    if inputs := describe_inputs():
        recorded["teacher_inputs_used"] = inputs  # also those that nobody gave
    if digest := digest_of_class_weights(settings.class_weights):
        recorded["class_weights_sha256"] = digest
    if digest := digest_of_class_map(settings.label_map):
        recorded["label_map_sha256"] = digest
    return {name.upper(): str(value) if isinstance(value, Path) else value for name, value in recorded.items()}


class TeacherWithData(NamedTuple):
    """A trained teacher, the data it was trained on, and the data for its students.

    Attributes:
        distill_data: data with the teacher's logits.
        control_data: data of students that are trained on the labels alone.
        digests: see ``kd.commands.models.digest_models``.
    """

    model: nn.Module
    data: Data
    distill_data: DistillationData
    control_data: DistillationData
    digests: Mapping[str, str] = MappingProxyType({})


def prepare_distillation_data(
    settings: RunSettings, device: torch.device, *, number: int = 0, data: Data | None = None
) -> TeacherWithData:
    """Train the teacher and cache its logits, or reuse saved ones; make no prediction on the test split.

    Args:
        number: index of the teacher; 0 is the teacher that ``kd run`` trains in the same folder.
        data: the data of the settings if they are loaded already.
    """
    data = data or load_data(settings)
    if not number:
        say_data(data, device)
        say_recipe(settings, data.sizes["training"])
    teachers = new_teachers(settings, data)
    if not number:
        require_models(settings, data, teachers)
    suffix, digests = f"-{number}" if number else "", digest_models(settings, teachers)  # the files may change later
    model, _ = train_teacher(settings, data, teachers, device, suffix=suffix)
    loaders = make_distill_loaders(settings, model, data, suffix=suffix)
    training, validation = (loader.dataset for loader in loaders)
    distill_data = DistillationData(training, validation, data.test_set, settings.batch_size, data.views, mix=data.mix)
    if data.unlabelled is None:
        return TeacherWithData(model, data, distill_data, distill_data, digests)
    control_data = distill_data._replace(training=make_control_loader(data, loaders[0]).dataset)
    return TeacherWithData(model, data, distill_data, control_data, digests)
