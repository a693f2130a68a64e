"""The models of a run, built from its settings: the student, and teachers to train or to load."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from kd.checks import naming_flag, require, similar_paths
from kd.commands.auto_network import choose_network, say_chosen_network
from kd.commands.data import Data, Task
from kd.commands.foreign_teachers import load_foreign
from kd.commands.settings import RunSettings
from kd.commands.students import start_student
from kd.commands.teacher_flags import AUTO, EMBEDDINGS, PRETRAINED, TRAINED_HERE, ModelChoice
from kd.commands.teacher_inputs import find_inputs, load_with_inputs
from kd.commands.teacher_outputs import adapt_teacher, embedding_teacher, has_own_outputs, require_one_numbering
from kd.console import printable_name, say
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.manifest import read_manifest
from kd.imports import digest_source, is_plugin
from kd.models.build import build
from kd.storage.files import sha256
from kd.storage.resources import require_memory
from kd.storage.weights import load_weights, weights_bytes
from kd.teachers.ensemble import Ensemble
from kd.teachers.load import load_teacher
from kd.teachers.logit_files import read_logits
from kd.teachers.lookup import build_lookup

OWN_SEED = 500_009  # added to the seed of a teacher that would otherwise start from the student's weights
_OBJECT_BYTES = 10_000  # of a model without its weights
AVERAGED = "probabilities"  # outputs of the teachers that an ensemble averages; see kd.teachers.ensemble


class Teacher(NamedTuple):
    """A teacher on the CPU.

    Attributes:
        trained: whether it is already trained because it was loaded from a file.
        seed: of its initial weights and of its training, if it is not trained.
    """

    model: nn.Module
    trained: bool
    seed: int = 0


def new_student(settings: RunSettings, task: Task, device: torch.device) -> nn.Module:
    """Return an untrained student; the same seed gives the same weights."""
    return start_student(settings, task).model.to(device)


def require_memory_for_students(settings: RunSettings, task: Task, count: int) -> None:
    """Check the memory for this number of untrained students, which are made before the first is trained."""
    student = new_student(settings, task, torch.device("cpu"))
    size = sum(tensor.numel() * tensor.element_size() for tensor in student.state_dict().values())
    require_memory(count * (size + _OBJECT_BYTES), f"training {count:,} students", "Train fewer.")


def build_network(
    settings: RunSettings, spec: str, task: Task, *, outputs: int | None = None, own_outputs: bool = False
) -> nn.Module:
    """Build an untrained network by name for this task; the same seed gives the same weights.

    Args:
        outputs: number of outputs, if not the task's number of classes.
        own_outputs: see ``kd.models.build.build``.
    """
    spec = choose_network(task) if spec == AUTO else spec
    shape, classes = task.input_shape, outputs or len(task.classes)
    own = own_outputs or outputs is not None
    return build(spec, input_shape=shape, classes=classes, seed=settings.seed, example=task.example, own_outputs=own)


def new_teacher(settings: RunSettings, choice: ModelChoice, data: Data) -> Teacher:
    """Build a teacher by name, and load its weights or its logits if they are in a file.

    Raises:
        ValueError, OSError, MissingExtraError: see ``kd.models.build.build``, ``kd.teachers.load.load_teacher`` and
            ``kd.teachers.logit_files.read_logits``.
    """
    names = data.task.classes
    if choice.file is None:
        return _new_teacher_without_file(settings, choice, data)
    if choice.spec == EMBEDDINGS:
        return Teacher(embedding_teacher(choice, data, **_match_ids(settings, data)), True)
    if choice.is_precomputed:
        predictions = read_logits(
            choice.file,
            labels=data.all_labels,
            classes=len(names),
            kind=choice.spec,
            **_match_ids(settings, data),
            label_order=settings.label_order or None,
            class_names=names,
            label_map=settings.label_map,
        )
        splits = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
        rows = [(split, data.rows[name]) for name, split in splits.items()]
        return Teacher(build_lookup(rows, predictions.logits), True)
    if choice.is_foreign:
        return Teacher(load_foreign(settings, find_inputs(settings, choice, data)), True)
    if not choice.file.is_file():
        hint = similar_paths(choice.file) or "Check its path."
        raise FileNotFoundError(f"there is no file {choice.file} with weights. {hint}")
    _require_same_table(choice.file, data)
    inputs = find_inputs(settings, choice, data)

    def load(task: Task) -> nn.Module:
        return load_teacher(
            choice.spec,
            choice.file or "",
            input_shape=task.input_shape,
            classes=len(names),
            example=task.example,
            entry=choice.entry,
            own_outputs=has_own_outputs(settings),
        )

    return Teacher(adapt_teacher(settings, load_with_inputs(inputs, load), inputs), True)


def _require_same_table(file: Path, data: Data) -> None:
    """Raise ``ValueError`` if the manifest beside a weights file encodes a table's columns otherwise than the data."""
    encoding, path = data.encoding, file.parent / MANIFEST
    if encoding is None or not path.is_file():
        return
    try:
        table = read_manifest(path).table
    except ValueError:  # of another program, or of an earlier version, which stated no tables
        return
    if table is None:
        return
    used, trained = ([c for c in columns if c.kind != "unused"] for columns in (encoding.columns, table.columns))
    names = {column.name for column in used}
    differing = [c.name for c in used if c not in trained] + [c.name for c in trained if c.name not in names]
    if used != trained:
        listed = ", ".join(repr(printable_name(name)) for name in differing[:10]) or "their order"
        raise ValueError(
            f"{file} was trained on a table whose columns became other inputs ({path}). It differs in {listed}. Give "
            "the same file, --random-state and --limit as for that run, or use kd compare in the folder of that run."
        )


def digest_models(settings: RunSettings, teachers: Sequence[Teacher]) -> dict[str, str]:
    """Return hashes of what the settings only name: the weights of loaded teachers and the code of Python files.

    Args:
        teachers: the teachers of the settings, before training.
    """
    loaded = {f"teacher {n}": sha256(weights_bytes(t.model)) for n, t in enumerate(teachers) if t.trained}
    specs = [*(choice.spec for choice in settings.teachers_chosen), settings.student_choice.spec]
    return loaded | {spec: digest_source(spec) for spec in specs if is_plugin(spec)}


def _match_ids(settings: RunSettings, data: Data) -> dict[str, Any]:
    """Return the arguments of ``read_logits`` that match rows with samples by name; none without ``--ids``."""
    if settings.ids is None:
        return {}
    if data.source.all_ids is None:
        raise ValueError(
            f"--ids {settings.ids} needs data with a name for each sample: a folder of images, wds: shards, or a .npz "
            f"file with arrays ids_train, …; {data.name} has none. Sort the rows in the order of the data, and omit it."
        )
    (name, count), *_ = Counter(data.source.all_ids).most_common(1)
    if count > 1:
        raise ValueError(f"--ids {settings.ids} needs a different name for each sample. Got {name!r} {count} times.")
    return {"ids": data.source.all_ids, "id_column": settings.ids}


def _new_teacher_without_file(settings: RunSettings, choice: ModelChoice, data: Data) -> Teacher:
    """Build a teacher to train, or one that comes with its own weights, which its file has loaded."""
    if not is_plugin(choice.spec):
        if choice.spec.startswith(("timm:", "torchvision:")):
            say(f"teacher {choice.spec}: trained from random weights; {choice.spec}={PRETRAINED} takes published ones")
        return Teacher(build_network(settings, choice.spec, data.task), False, settings.seed)
    inputs, own = find_inputs(settings, choice, data), has_own_outputs(settings)
    model = build_network(settings, choice.spec, inputs.task, own_outputs=own)
    other_settings = dataclasses.replace(settings, seed=settings.seed + 1)
    other = build_network(other_settings, choice.spec, inputs.task, own_outputs=own)
    # Built with different seeds: if the weights are equal, none were drawn.
    if _have_equal_weights(model, other) and not settings.train_teacher:
        say(f"teacher {choice.spec}: used with its own weights, the same for every seed; --train-teacher trains it")
        return Teacher(adapt_teacher(settings, model, inputs), True)
    for flag, value in settings.output_flags.items():
        require(False, flag, value, "omitted", TRAINED_HERE)
    if settings.teacher_input:
        advice = "a teacher trained here sees the students' inputs"
        require(False, "--teacher-input", " ".join(settings.teacher_input), "omitted", advice)
    return Teacher(model, False, settings.seed)


def _have_equal_weights(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two models, of which at least one has parameters, have the same weights."""
    state, other_state = model.state_dict(), other.state_dict()
    tensors = [(value, other_state.get(name)) for name, value in state.items() if isinstance(value, torch.Tensor)]
    equal = all(
        isinstance(b, torch.Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(a, b)
        for a, b in tensors
    )
    return equal and state.keys() == other_state.keys() and any(True for _ in model.parameters())


def new_teachers(settings: RunSettings, data: Data) -> list[Teacher]:
    """Build all teachers of the settings, at least one.

    A teacher that would start from the student's weights takes another seed: with the same initial weights and batches,
    it would be the control.
    """
    teachers = []
    for number, choice in enumerate(settings.teachers_chosen):
        with naming_flag(f"--teacher {choice}"):
            if choice.spec == AUTO:
                say_chosen_network(data.task)
            teachers.append(new_teacher(with_teacher_seed(settings, number), choice, data))
            if not number and not teachers[0].trained and _is_like_student(teachers[0].model, settings, data.task):
                own_settings = dataclasses.replace(settings, seed=settings.seed + OWN_SEED)
                say(
                    f"teacher {choice.spec}: seed {own_settings.seed} in place of {settings.seed}, with which it would "
                    "be the control: the same network, initial weights and batches"
                )
                teachers[0] = new_teacher(own_settings, choice, data)
    require_one_numbering(settings, settings.teachers_chosen, [teacher.model for teacher in teachers], data)
    if all(teacher.trained for teacher in teachers):  # also one whose file loads its weights
        settings.require_no_teacher_flags()
    return teachers


def with_teacher_seed(settings: RunSettings, number: int) -> RunSettings:
    """Return the settings with the seed of teacher ``number``: teachers with the same name need different seeds."""
    return dataclasses.replace(settings, seed=settings.seed + 1_000_003 * number) if number else settings


def _is_like_student(teacher: nn.Module, settings: RunSettings, task: Task) -> bool:
    return _have_equal_weights(teacher, new_student(settings, task, torch.device("cpu")))


def combine_teachers(teachers: list[nn.Module], settings: RunSettings) -> nn.Module:
    """Return a single teacher unchanged, or an ensemble of several.

    The ensemble averages the teachers' probabilities, softened by the method's temperature.

    Raises:
        ValueError: a user's method has a setting called temperature that is not a number above 0.
    """
    if len(teachers) == 1:
        return teachers[0]
    temperature = settings.method_settings.get("temperature", settings.temperature)
    is_valid = isinstance(temperature, (int, float)) and temperature > 0
    advice = f"several teachers are averaged at the temperature of {settings.method}"
    require(is_valid, "--set temperature", temperature, "a number above 0 with more than one --teacher", advice)
    return Ensemble(teachers, how=AVERAGED, temperature=float(temperature))


def saved_teacher(settings: RunSettings, data: Data) -> nn.Module:
    """Load the teacher saved by a run, on the CPU.

    Raises:
        ValueError, OSError: see ``kd.storage.weights.load_weights``.
    """
    model = combine_teachers([teacher.model for teacher in new_teachers(settings, data)], settings)
    load_weights(model, settings.models_dir / "teacher_model.pth")
    return model
