"""Teachers that come with their own network and weights: FILE.onnx, hf:FOLDER, and published weights by name."""

from __future__ import annotations

from torch import nn

from kd.checks import similar_paths
from kd.commands.data import Task
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import FIT, ModelChoice
from kd.commands.teacher_inputs import TeacherInputs
from kd.commands.teacher_outputs import adapt_teacher, has_own_outputs
from kd.console import say
from kd.models.build import require_logits_output
from kd.teachers.huggingface_teacher import load_huggingface
from kd.teachers.onnx_teacher import load_onnx
from kd.teachers.published import load_published


def load_foreign(settings: RunSettings, inputs: TeacherInputs) -> nn.Module:
    """Load such a teacher, with outputs in the class order of the data (``adapt_teacher``), and try it on an example.

    Raises:
        OSError: the file or folder does not exist, or the model is not in the local cache.
        ValueError: it does not fit the data (``kd.teachers.onnx_teacher``, ``huggingface_teacher``, ``published``).
        MissingExtraError: an optional library is not installed.
    """
    task = inputs.data.task
    model = adapt_teacher(settings, _load(settings, inputs.choice, inputs.task), inputs)
    require_logits_output(model, str(inputs.choice), task.input_shape, len(task.classes), task.example)
    return model


def _load(settings: RunSettings, choice: ModelChoice, task: Task) -> nn.Module:
    assert choice.file is not None
    shape, classes = task.input_shape, None if has_own_outputs(settings) else len(task.classes)
    fits_head = settings.teacher_head == FIT
    if choice.is_huggingface:
        names = None if settings.label_order or classes is None else task.classes
        where = choice.spec.removeprefix("hf:")  # a path would lose ./, which no name has
        return load_huggingface(where, class_names=names, download=settings.download, needs_head=not fits_head)
    if choice.is_pretrained:
        return load_published(choice.spec, classes=classes, channels=shape[0], download=settings.download)
    if not choice.file.is_file():
        raise FileNotFoundError(f"there is no file {choice.file}. {similar_paths(choice.file) or 'Check its path.'}")
    if fits_head:
        say(f"teacher {choice}: the layers of an ONNX file cannot be reached, so the head is fitted on its outputs")
    return load_onnx(choice.file, input_shape=shape, classes=classes, output=choice.entry, example=task.example)
