"""Students built from the settings: their initial weights, random or pretrained, and their frozen parameters."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from kd.checks import naming_flag, require, similar_paths
from kd.commands.data import Task
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import ModelChoice
from kd.methods import make
from kd.methods.factory import make_example
from kd.models.build import build
from kd.models.freezing import freeze
from kd.models.inference import evaluating
from kd.models.pretrained import Pretrained, read_pretrained, use_weights
from kd.storage.checkpoints import FoundWeights
from kd.storage.weights import add_file_to_errors
from kd.types import Batch

# Weights that this command has read, by path, entry and model: all its students must start from the same ones, but some
# are only built hours later, when the file may have changed.
_read: dict[tuple[Path, str, str], FoundWeights] = {}


class Start(NamedTuple):
    """An untrained student, and how it starts.

    Attributes:
        pretrained: None without a file.
        frozen: names of its frozen parameters.
    """

    model: nn.Module
    pretrained: Pretrained | None
    frozen: list[str]


def start_student(settings: RunSettings, task: Task) -> Start:
    """Build an untrained student on the CPU, load its pretrained weights if there are any, and freeze parameters.

    Raises:
        ValueError, OSError, MissingExtraError: see ``kd.models.build.build``, ``kd.models.pretrained.load_pretrained``
            and ``kd.models.freezing.freeze``.
    """
    choice, pretrained = settings.student_choice, None
    with naming_flag(f"--student {settings.student}"):
        shape, classes = task.input_shape, len(task.classes)
        model = build(choice.spec, input_shape=shape, classes=classes, seed=settings.seed, example=task.example)
        if choice.file is not None:
            pretrained = _load(model, choice.file, choice, classes)
    with naming_flag(f"--freeze {' '.join(settings.freeze)}"):
        frozen = freeze(model, settings.freeze)
    if pretrained and (clash := sorted(set(frozen) & set(pretrained.replaced))):
        advice = "the file's head is for other classes, so this one is new and must be trained"
        require(False, "--freeze", " ".join(settings.freeze), f"patterns that do not match {clash[0]}", advice)
    return Start(model, pretrained, frozen)


def _load(model: nn.Module, file: Path, choice: ModelChoice, classes: int) -> Pretrained:
    key = _key(file, choice)
    if key not in _read:
        if not file.is_file():
            hint = similar_paths(file) or "Check its path."
            raise FileNotFoundError(f"there is no file {file} with weights. {hint}")
        with add_file_to_errors(model, file):
            _read[key] = read_pretrained(file, model, entry=choice.entry)
    return use_weights(model, _read[key], file, classes=classes)


def _key(file: Path, choice: ModelChoice) -> tuple[Path, str, str]:
    return file.absolute(), choice.entry, choice.spec


def forget_files() -> None:
    """Read students' files again: for a new command in the same process."""
    _read.clear()


def digest_of_file(settings: RunSettings) -> str | None:
    """Return the SHA-256 of the student's file, as read by this command; None without a file."""
    choice = settings.student_choice
    found = _read.get(_key(choice.file, choice)) if choice.file else None
    return found.sha256 if found else None


def describe_start(settings: RunSettings, task: Task) -> list[str]:
    """Return sentences on how all students start, if they are pretrained or have frozen parameters."""
    return _describe(start_student(settings, task), settings) if _has_own_start(settings) else []


def _has_own_start(settings: RunSettings) -> bool:
    return settings.student_choice.file is not None or bool(settings.freeze)


def _describe(start: Start, settings: RunSettings) -> list[str]:
    file, sentences = settings.student_choice.file, list[str]()
    if start.pretrained:
        changing = ["the order of batches", *(["dropout"] if _has_dropout(start.model) else [])]
        changing += ["the new head"] if start.pretrained.replaced else []
        changing += ["augmentation"] if settings.augment else []
        changing += ["mixtures"] if settings.mixing_flags else []
        only = " only" if len(changing) == 1 else ""
        sentences = [
            f"The control is fine-tuned from {file}, and the distilled student starts from the same weights, so "
            "the verdict compares distillation with fine-tuning alone.",
            f"All seeds share these weights; they differ in {', '.join(changing)}{only}.",
        ]
    if start.frozen:
        total = sum(1 for _ in start.model.parameters())
        patterns = " ".join(settings.freeze)
        sentences.append(f"In all students {len(start.frozen)} of {total} parameter tensors are frozen ({patterns}).")
    return sentences


def list_start_messages(settings: RunSettings, task: Task) -> list[str]:
    """Return lines on what was loaded, stripped, replaced and frozen, for the screen."""
    if not _has_own_start(settings):
        return []
    start, lines = start_student(settings, task), []
    if start.pretrained:
        details = list(start.pretrained.stripped)
        if start.pretrained.replaced:
            details.append(
                f"its head ({', '.join(start.pretrained.replaced)}) is for {start.pretrained.file_classes} classes: "
                f"replaced by a new one for {len(task.classes)}"
            )
        lines.append(f"student: weights from {'; '.join([str(settings.student_choice.file), *details])}")
    return [*lines, *_describe(start, settings)]


def require_reached(settings: RunSettings, student: nn.Module, teacher: nn.Module, batch: Batch) -> None:
    """Raise ``ValueError`` if no trained parameter gets a gradient from the method: distillation would have no effect.

    Args:
        batch: inputs and labels.
    """
    with torch.no_grad(), evaluating(teacher):
        example = make_example(settings.method, teacher, *batch[:2])
    objective = make(settings.method, student, teacher, example, settings.method_settings)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    others, reached = 0, False
    for epoch in {0, settings.epochs - 1}:  # a method with two phases may train the student in one of them only
        if set_epoch := getattr(objective, "set_epoch", None):
            set_epoch(epoch, settings.epochs)
        with evaluating(student):
            _, terms = objective(student, example)
        for name, term in terms.items():
            others += name != "hard"
            if name != "hard" and term.requires_grad:
                gradients = torch.autograd.grad(term, trained, allow_unused=True, retain_graph=True)
                reached = reached or any(gradient is not None for gradient in gradients)
    if others and not reached:
        raise ValueError(
            f"--freeze {' '.join(settings.freeze)} must leave a parameter that --method {settings.method} trains. All "
            "layers that it compares lie in or before frozen ones, so distillation would have no effect. Freeze fewer "
            "layers, or choose another method"
        )


def require_no_label_options(settings: RunSettings) -> None:
    """Raise ``ValueError`` for options of the label term, which this method does not read."""
    given = {"--class-weights": settings.class_weights, "--label-smoothing": settings.label_smoothing}
    if flags := " and ".join(f"{name} {value}" for name, value in given.items() if value):
        raise ValueError(
            f"{flags} must be omitted with --method {settings.method}: its objective computes no label term of kd, so "
            "only the teacher and the control would be trained with it. Or take the label term from "
            "kd.methods.objectives.supervised_where_labelled, which applies it."
        )


def _has_dropout(model: nn.Module) -> bool:
    """Return whether the model has a layer that is random in training, such as dropout or stochastic depth."""
    names = [type(module).__name__.lower() for module in model.modules() if _probability(module) > 0]
    return any("drop" in name or "stochastic" in name for name in names)


def _probability(module: nn.Module) -> float:
    return float(next((value for name in ("p", "drop_prob") if (value := getattr(module, name, None)) is not None), 1))
