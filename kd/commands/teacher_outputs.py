"""Trained teachers behind their own inputs, with an output per class of the data: reordered, mapped or fitted."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.checks import naming_flag
from kd.commands.data import Data, Task
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import FIT, ModelChoice
from kd.commands.teacher_inputs import TeacherInputs, task_of
from kd.console import say
from kd.models.features import find_network
from kd.models.inference import evaluating
from kd.storage.tables import read_table
from kd.teachers.class_map import (
    MappedOutputs,
    find_members,
    find_output_names,
    read_class_map,
    uses_indices,
)
from kd.teachers.class_order import Reordered, find_columns
from kd.teachers.embeddings import read_embeddings
from kd.teachers.fitted_head import FittedHead, attach_head
from kd.teachers.lookup import build_lookup


def has_own_outputs(settings: RunSettings) -> bool:
    """Return whether loaded teachers are built with their own outputs, which ``adapt_teacher`` then adapts."""
    return settings.label_map is not None or settings.teacher_head == FIT


def adapt_teacher(settings: RunSettings, network: nn.Module, inputs: TeacherInputs) -> nn.Module:
    """Return a loaded network behind its own inputs, with an output for each class of the data.

    A fitted head is not fitted yet.

    Raises:
        ValueError, OSError: see ``kd.teachers.class_order``, ``class_map`` and ``fitted_head``.
    """
    task = inputs.data.task
    if settings.teacher_head == FIT:
        # Without the data's classes no accuracy tells which inputs the network was trained on.
        model = inputs._replace(is_known=True).wrap(network)
        with naming_flag("--teacher-head fit"):
            return attach_head(model, _example(task), classes=len(task.classes))
    if settings.label_map is not None:
        members = _read_members(settings.label_map, network, inputs)
        return MappedOutputs(inputs.wrap(network, members), members)
    columns = find_columns(settings.label_order or None, task.classes, classes=len(task.classes))
    if columns is None:
        return inputs.wrap(network)
    return Reordered(inputs.wrap(network, [[column] for column in columns]), columns)


def _read_members(label_map: Path, network: nn.Module, inputs: TeacherInputs) -> list[list[int]]:
    """Return the network's outputs for each class of the data."""
    classes, spec, outputs = inputs.data.task.classes, inputs.choice.spec, count_outputs(network, inputs.task)
    with naming_flag(f"--label-map {label_map}"):
        names = find_output_names(network, spec, outputs)
        if names is not None and not hasattr(network, "class_names") and not inputs.choice.is_pretrained:
            say(
                f"teacher {spec}: its {outputs:,} outputs are assumed to be ImageNet's classes in torchvision's order, "
                f"such as 0 {names[0]!r} and {outputs - 1} {names[-1]!r}"
            )
        members = find_members(read_class_map(label_map), classes, outputs=outputs, output_names=names)
    mapped = sum(map(len, members))
    say(f"teacher {spec}: {mapped:,} of its {outputs:,} outputs are mapped to the {len(members)} classes of the data")
    return members


def require_one_numbering(
    settings: RunSettings, choices: Sequence[ModelChoice], models: Sequence[nn.Module], data: Data
) -> None:
    """Check that the indices in a class map mean the same outputs of each of several teachers.

    Args:
        models: the teachers, with mapped outputs.

    Raises:
        ValueError: teachers to which the map applies by index have different numbers of outputs.
    """
    if settings.label_map is None or len(choices) < 2:
        return
    rows, outputs = read_class_map(settings.label_map), {}
    for choice, model in zip(choices, models, strict=True):
        count, names = _list_outputs(settings, choice, model, data)
        if uses_indices(rows, names):
            outputs[str(choice)] = count
    if len(set(outputs.values())) > 1:
        counts = ", ".join(f"{name} has {count:,}" for name, count in outputs.items())
        raise ValueError(
            f"--label-map {settings.label_map} has indices of outputs, which cannot be right for teachers with "
            f"different numbers of them: {counts}. Give names of classes if the teachers have names (attribute "
            "class_names, id2label, header of a .csv file), or save the logits of each teacher for the data's classes "
            "in a file, and average these: --teacher logits=FILE --teacher logits=FILE without the map."
        )


def _list_outputs(
    settings: RunSettings, choice: ModelChoice, model: nn.Module, data: Data
) -> tuple[int, list[str] | None]:
    """Return the number of a teacher's outputs before they are mapped, and their names if they are known."""
    if choice.is_precomputed:
        assert choice.file is not None
        table = read_table(choice.file, name=choice.spec, id_column=settings.ids, check_shape=lambda _: None)
        return table.values.shape[1], table.columns
    network = model.get_submodule(find_network(model))
    count = count_outputs(network, task_of(model, data.task))
    return count, find_output_names(network, choice.spec, count)


def embedding_teacher(choice: ModelChoice, data: Data, **ids: object) -> FittedHead:
    """Return a teacher that looks up the embeddings of a file, with a head that is not fitted yet.

    Args:
        ids: arguments of ``read_embeddings`` that match rows with samples by name.
    """
    assert choice.file is not None
    embeddings = read_embeddings(choice.file, samples=len(data.all_labels), **ids)  # type: ignore[arg-type]
    splits = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
    lookup = build_lookup([(split, data.rows[name]) for name, split in splits.items()], embeddings)
    return attach_head(lookup, data.train_set[0][0][None], classes=len(data.task.classes))


def count_outputs(network: nn.Module, task: Task) -> int:
    """Return the number of a network's outputs for one sample."""
    with evaluating(network), torch.no_grad():
        return int(network(_example(task)).shape[1])


def _example(task: Task) -> Tensor:
    """Return a batch of one input."""
    example = torch.zeros(task.input_shape) if task.example is None else task.example
    return example[None].clone()


def rebuild_around(model: nn.Module, network: nn.Module) -> nn.Module:
    """Return a copy of a model with another network inside its wrappers."""
    path = find_network(model)
    if not path:
        return network
    result = copy.deepcopy(model)
    parent, _, name = path.rpartition(".")
    setattr(result.get_submodule(parent), name, network)
    return result


def is_adapted(model: nn.Module) -> bool:
    """Return whether a teacher is more than a network by name: a module of ``kd.teachers``, which wraps networks to
    change their inputs or outputs, averages several, or has no network.
    """
    return type(model).__module__.startswith("kd.teachers.")
