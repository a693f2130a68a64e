"""``kd run``: the documented pipeline built from the toolkit, with all output in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from kd.arms import ARMS, CONTROL, DISTILLED, TEACHER
from kd.commands.auto_network import choose_network
from kd.commands.before_training import require_models
from kd.commands.data import Data, Task, load_data
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings
from kd.commands.models import new_student, new_teachers
from kd.commands.publish import plot_files, quick_run_stamp
from kd.commands.recipe import add_label_options, make_train, say_recipe
from kd.commands.run import files, text
from kd.commands.run.plots import run_figures, teacher_figure
from kd.commands.run.results import Run
from kd.commands.run.validation import predict_validation
from kd.commands.settings import RunSettings
from kd.commands.settings_file import to_toml
from kd.commands.steps import (
    UNLABELLED_TOO,
    make_control_loader,
    make_distill_loaders,
    make_objective,
    open_command,
    record_settings,
    say_data,
    train_teacher,
)
from kd.commands.students import describe_start
from kd.commands.teacher_flags import AUTO
from kd.commands.teacher_inputs import data_for_teacher
from kd.commands.teacher_outputs import is_adapted
from kd.evaluation.unlike import Validation
from kd.methods.objectives import supervised
from kd.models.inference import Predictions
from kd.storage.files import publish
from kd.training import run_steps
from kd.training.history import History
from kd.training.tracking import track_test


class TrainedModels(NamedTuple):
    """Data and trained models before evaluation on the test split. Mappings are keyed by model name.

    Attributes:
        histories: training curves; none for a loaded teacher.
    """

    data: Data
    models: dict[str, nn.Module]
    histories: dict[str, History]


def run(settings: RunSettings) -> None:
    """Train teacher, control and distilled student and save models and results; resume an interrupted run.

    Raises:
        ValueError: a setting is outside its range.
        OSError: a folder is not writable or is in use by another run; data cannot be read.
        FloatingPointError: a loss is not finite.
    """
    with open_command(settings, *files.folders(settings.models_dir, settings.results_dir)) as device:
        publish({settings.file: to_toml(settings, command=settings.command)})
        finish(settings, device, train(settings, device))


def train(settings: RunSettings, device: torch.device) -> TrainedModels:
    """Train all three models; make no prediction on the test split."""
    data = load_data(settings)
    say_data(data, device)
    say_recipe(settings, data.sizes["training"])
    teachers = new_teachers(settings, data)
    require_models(settings, data, teachers)
    teacher, history = train_teacher(settings, data, teachers, device)
    histories = {} if history is None else {TEACHER: history}
    publish(plot_files(settings.results_dir, teacher_figure(histories, quick_run_stamp(settings.limit))))
    pair = _train_students(settings, data, teacher, device)
    models = {TEACHER: teacher, CONTROL: pair.control, DISTILLED: pair.distilled}
    return TrainedModels(data, models, histories | {CONTROL: pair.control_history, DISTILLED: pair.distilled_history})


def finish(settings: RunSettings, device: torch.device, trained: TrainedModels) -> None:
    """Evaluate the models on the test split, once; print the results and save all files."""
    predictions = _predict(settings, trained)
    for name, predicted in predictions.items():
        track_test(name, predicted)
    validation = predict_validation(_seeing_students_images(settings, trained), trained.data.val_loader)
    results = _collect_results(settings, device, trained, predictions, validation)
    text.print_evaluation(results, limit=settings.limit)
    # The documented pipeline allows no further files, and RANDOM_STATE alone determines the split of MNIST.
    split = {} if settings.data == "mnist" else {settings.results_dir / "metrics" / "split.json": trained.data.chosen}
    _save(settings, results, trained, split)


def _seeing_students_images(settings: RunSettings, trained: TrainedModels) -> dict[str, nn.Module]:
    """Return the models by name, without a teacher that sees the images at a size of its own."""
    teacher = trained.models[TEACHER]
    has_own = data_for_teacher(settings, trained.data, teacher) is not trained.data
    return {name: model for name, model in trained.models.items() if not (has_own and model is teacher)}


def _predict(settings: RunSettings, trained: TrainedModels) -> dict[str, Predictions]:
    """Return the predictions on the test split; a teacher with a size of its own sees images of that size."""
    models = _seeing_students_images(settings, trained)
    predictions = run_steps.predict_models(models, trained.data.test_loader)
    if TEACHER in models:
        return predictions
    teacher = {TEACHER: trained.models[TEACHER]}
    own = data_for_teacher(settings, trained.data, trained.models[TEACHER])
    return run_steps.predict_models(teacher, own.test_loader, title="evaluation-teacher") | predictions


def _train_students(settings: RunSettings, data: Data, teacher: nn.Module, device: torch.device) -> run_steps.Pair:
    student, loaders = new_student(settings, data.task, device), make_distill_loaders(settings, teacher, data)
    say_method(settings.method, format_method_settings(settings.method_settings))
    notes = describe_start(settings, data.task)
    pair = run_steps.train_pair(
        student,
        add_label_options(settings, data, make_objective(settings, student, teacher, loaders[0]), device),
        (make_control_loader(data, loaders[0]), data.val_loader),
        loaders,
        train=make_train(settings),
        seed=settings.seed,
        on_purpose=None if data.unlabelled is None else UNLABELLED_TOO,
        control_objective=add_label_options(settings, data, supervised, device),
    )
    for history in (pair.control_history, pair.distilled_history):
        history.notes += notes
    return pair


def _collect_results(
    settings: RunSettings,
    device: torch.device,
    trained: TrainedModels,
    predictions: dict[str, Predictions],
    validation: Validation,
) -> Run:
    data = trained.data
    return Run(
        histories=trained.histories,
        logits={name: prediction.logits for name, prediction in predictions.items()},
        labels=predictions[TEACHER].labels,
        test=data.test_set,
        config=record_settings(settings, device),
        temperature=settings.temperature,
        toy=quick_run_stamp(settings.limit),
        classes=data.task.names,
        validation_size=data.sizes["validation"],
        ids=data.test_ids,
        validation=validation,
    )


def _save(settings: RunSettings, results: Run, trained: TrainedModels, extra_files: Mapping[Path, bytes]) -> None:
    models, task = trained.models, trained.data.task
    plots = plot_files(settings.results_dir, run_figures(results))
    files.save(
        results,
        models,
        {**plots, **extra_files},
        models_dir=settings.models_dir,
        results_dir=settings.results_dir,
        state_dir=settings.state_dir,
        architectures=name_architectures(settings, teacher=models[TEACHER], task=task),
    )


def name_architectures(settings: RunSettings, *, teacher: nn.Module, task: Task) -> dict[str, str]:
    """Return the specification of each model by file name; of the teacher only if it builds exactly this network.

    It does not for an ensemble, precomputed logits, a foreign network, or a network whose inputs or outputs are
    adapted: all these are modules of ``kd.teachers``, around the network if there is one.
    """
    students = dict.fromkeys((ARMS[CONTROL].file, ARMS[DISTILLED].file), settings.student_choice.spec)
    (choice, *more) = settings.teachers_chosen
    if more or choice.is_precomputed or choice.is_foreign or is_adapted(teacher):
        return students
    return students | {ARMS[TEACHER].file: choose_network(task) if choice.spec == AUTO else choice.spec}
