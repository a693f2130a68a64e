"""``--teacher-input``: the inputs of loaded teachers, and the data as a teacher with a size of its own sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from kd.checks import DamagedDataError, naming_flag
from kd.commands.data import Data, Task, open_at_size
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import ModelChoice
from kd.console import say
from kd.data.datasets import ArrayDataset, Split
from kd.data.loaders import make_loader
from kd.storage.files import sha256
from kd.storage.weights import weights_bytes
from kd.teachers.contract import (
    InputContract,
    InputScale,
    OwnInputs,
    contract_of,
    find_scale,
    require_contract_fits,
    require_range,
    with_normalisation_of,
)
from kd.teachers.contract_sources import CONFIG, read_contract
from kd.teachers.ensemble import Ensemble
from kd.teachers.huggingface_teacher import find_folder
from kd.teachers.input_scale import ScaleChoice, choose_scale
from kd.teachers.onnx_teacher import takes_bytes

# What this command has found out and said, by teacher: choosing a scale takes time, and models are built several times.
_choices: dict[tuple[str, ...], ScaleChoice] = {}
_used: dict[str, str] = {}
_said: set[str] = set()
_decoded: dict[tuple[Any, ...], dict[str, Dataset[Any]]] = {}


class TeacherInputs(NamedTuple):
    """The inputs of one loaded teacher.

    Attributes:
        contract: None for the data's own inputs. If the normalisation is unknown, it is the data's own here.
        is_known: whether the normalisation was given; else it is chosen by accuracy when the weights are loaded.
        scale: how the data are normalised; None if that cannot be undone.
        task: the task, with the network's own inputs.
        choice: the teacher.
        data: the data of the run.
        name: of the teacher in messages.
    """

    contract: InputContract | None
    is_known: bool
    scale: InputScale | None
    task: Task
    choice: ModelChoice
    data: Data

    def wrap(self, network: nn.Module, members: Sequence[Sequence[int]] | None = None) -> nn.Module:
        """Return the loaded network behind its contract, or unchanged if its inputs are the data's own.

        Args:
            members: the network's outputs for each class of the data; None for one each, in the same order.
        """
        contract = self.contract
        if not self.is_known and self.scale is not None:
            contract = self._choose(network, members)
        if contract is None or self.scale is None:
            return network
        _used[str(self.choice)] = contract.describe()
        return OwnInputs(network, contract, self.scale)

    def _choose(self, network: nn.Module, members: Sequence[Sequence[int]] | None) -> InputContract | None:
        data, inputs = self.data, f"{self.contract} {members}"
        key = (str(self.choice), inputs, sha256(weights_bytes(network)), data.name, sha256(data.chosen))
        if key not in _choices:
            further = list_further(self.choice, data.task)
            _choices[key] = choose_scale(network, data.train_set, members=members, further=further, own=self.contract)
            if _choices[key].contract != self.contract:
                say(f"teacher {self.choice.spec}: normalised as {_choices[key].describe('training images')}")
        return _choices[key].contract


def find_inputs(settings: RunSettings, choice: ModelChoice, data: Data) -> TeacherInputs:
    """Return the inputs of a loaded teacher, from ``--teacher-input`` or from where its weights come from.

    Raises:
        ValueError: the contract is invalid or does not fit the data.
        OSError, MissingExtraError: a file or a library is missing.
    """
    scale, shape = find_scale(data.train_set), data.task.input_shape
    is_image = scale is not None and scale.is_image
    items = _complete_items(settings.teacher_input, choice, is_image=is_image, download=settings.download)
    if not items:
        return TeacherInputs(None, False, scale, data.task, choice, data)
    with naming_flag(f"--teacher-input {' '.join(items)}"):
        contract = read_contract(items, is_bytes=scale is None or scale.is_bytes)
        if contract is None:
            return TeacherInputs(None, True, scale, data.task, choice, data)
        if scale is None:
            raise ValueError(
                f"the teacher's inputs are prepared from stored images, and {data.name} yields samples that its own "
                "code or tokeniser has prepared. Omit the flag, and prepare them in the teacher's FILE.py:NAME."
            )
        require_contract_fits(contract, shape, scale)
        is_known = _has_normalisation(items)
        if not is_known and not is_image:  # how images are scaled says nothing about other inputs
            return TeacherInputs(None, False, scale, data.task, choice, data)
        if is_known:
            require_range(contract, data.train_set)
        else:
            contract = with_normalisation_of(scale, contract, shape)
    return TeacherInputs(contract, is_known, scale, _change_task(data.task, contract, scale), choice, data)


def load_with_inputs(inputs: TeacherInputs, load_for: Callable[[Task], nn.Module]) -> nn.Module:
    """Load a network for its own inputs; if its weights are for another number of channels, the error says so.

    Args:
        load_for: loads the network for a task.
    """
    try:
        return load_for(inputs.task)
    except ValueError as error:
        channels, *size = inputs.task.input_shape
        other = {1: 3, 3: 1}.get(channels) if len(size) == 2 else None
        try:
            if other is None:
                raise
            load_for(Task((other, *size), inputs.task.classes))
        except ValueError:
            raise error from None
        named = "channel" if other == 1 else "channels"
        known = "if they are known" if other == 1 else "or a name such as imagenet, if they are known"
        raise ValueError(
            f"{error} Its weights are for images with {other} {named}, and here they get {channels}. Give "
            f"--teacher-input channels={other}, with its mean=… and std=… {known}: grey images become RGB, and RGB "
            "images grey."
        ) from None


def _complete_items(given: Sequence[str], choice: ModelChoice, *, is_image: bool, download: bool) -> list[str]:
    """Return the given items, after those that come with the weights if no name is given."""
    if not all("=" in item for item in given):
        return list(given)
    return [*_find_source(choice, is_image=is_image, download=download), *given]


def _has_normalisation(items: Sequence[str]) -> bool:
    """Return whether the items say how inputs are normalised, and not only their size, channels or order."""
    return any("=" not in item or item.partition("=")[0] in ("mean", "std") for item in items)


def _find_source(choice: ModelChoice, *, is_image: bool, download: bool) -> list[str]:
    """Return the items of ``--teacher-input`` for weights that come with their contract; none for others."""
    if choice.is_pretrained:
        return [choice.spec]
    if choice.is_huggingface:
        folder = find_folder(choice.spec.removeprefix("hf:"), download=download)
        return [f"hf:{folder}"] if (folder / CONFIG).is_file() else []
    if choice.is_onnx and is_image and choice.file is not None and choice.file.is_file():
        return ["0-255"] if takes_bytes(choice.file) else []
    return []


def list_further(choice: ModelChoice, task: Task) -> Mapping[str, InputContract]:
    """Return the mean and standard deviation that timm states for this network, if it does, at the data's size."""
    if choice.spec.partition(":")[0] != "timm":
        return {}
    try:
        contract = read_contract([choice.spec])
    except ValueError:
        return {}
    fits = contract is not None and len(task.input_shape) == 3 and contract.shape_for(task.input_shape)[0] == 3
    return {choice.spec: dataclasses.replace(contract, size=None, crop=1.0)} if contract and fits else {}


def _change_task(task: Task, contract: InputContract, scale: InputScale) -> Task:
    if task.example is None:
        return dataclasses.replace(task, input_shape=contract.shape_for(task.input_shape))
    example = OwnInputs(nn.Identity(), contract, scale).prepare(task.example[None])[0]
    return dataclasses.replace(task, input_shape=tuple(example.shape), example=example)


def task_of(model: nn.Module, task: Task) -> Task:
    """Return the task of the network inside a model's wrappers."""
    own = next((module for module in model.modules() if isinstance(module, OwnInputs)), None)
    if own is None or task.example is None:
        return task
    example = own.prepare(task.example[None].to(own.scale.device))[0].cpu()
    return dataclasses.replace(task, input_shape=tuple(example.shape), example=example)


def data_for_teacher(settings: RunSettings, data: Data, *teachers: nn.Module) -> Data:
    """Return the data as the teacher sees them: decoded at its own size if it has one, the same rows in each split.

    A teacher that runs on the students' batches gets their images, scaled. So do several teachers of several sizes.

    Args:
        teachers: all teachers of the run, or their ensemble.

    Raises:
        DamagedDataError: the files changed meanwhile.
    """
    sizes = _find_sizes(teachers)
    if settings.image_size is None or sizes <= {None, (settings.image_size, settings.image_size)}:
        return data
    if len(sizes) > 1:
        _say_once(
            "teachers: they have inputs of different sizes, so the students' images of "
            f"{settings.image_size} × {settings.image_size} pixels are scaled for each"
        )
        return data
    (size,) = sizes
    assert size is not None
    if settings.augment or settings.unlabelled or settings.asked_at_each_step:
        _say_once(
            f"teacher: its {size[0]} × {size[1]} pixels are scaled from the students' {settings.image_size} × "
            f"{settings.image_size}, because it runs on their images"
        )
        return data
    key = (settings.data, settings.data_dir, settings.columns, size, sha256(data.chosen))
    if key not in _decoded:
        _decoded[key] = _decode(settings, data, size)
        _say_once(f"teacher: images are decoded for it at {size[0]} × {size[1]} pixels")
    train, val, test = (_decoded[key][name] for name in ("train", "val", "test"))
    return data._replace(
        train_set=train,
        val_set=val,
        test_set=test,
        train_loader=make_loader(train, batch_size=settings.batch_size),
        val_loader=make_loader(val, batch_size=settings.batch_size),
        test_loader=make_loader(test, batch_size=settings.batch_size),
    )


def _find_sizes(teachers: Sequence[nn.Module]) -> set[tuple[int, int] | None]:
    """Return the sizes before the centre crop of all teachers; None is the students'."""
    members = [member for model in teachers for member in (model.teachers if isinstance(model, Ensemble) else [model])]
    contracts = [contract_of(member) for member in members]
    return {contract.scaled_size if contract else None for contract in contracts}


def _decode(settings: RunSettings, data: Data, size: tuple[int, int]) -> dict[str, Dataset[Any]]:
    """Open the source at another size, and return its splits, normalised like the students' images."""
    source = open_at_size(settings, size)
    scale = find_scale(data.train_set)
    parts = {name: part for name, part in source.parts.items() if isinstance(part, ArrayDataset)}
    labels = torch.cat([part.labels for part in parts.values()])
    if scale is None or source.all_ids != data.source.all_ids or not torch.equal(labels, data.all_labels):
        raise DamagedDataError(f"the images of {data.name} changed while this command ran. Run it again.")
    mean, std = scale.mean, scale.std
    normalised = {name: part.normalised(mean, std) for name, part in parts.items()}
    return {
        name: normalised[name]
        if name in normalised and name != "train"
        else Split(normalised["train"], list(data.rows[name]))
        for name in ("train", "val", "test")
    }


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        say(text)


def describe_inputs() -> list[str]:
    """Return the contracts that this command's teachers use, for the recorded settings."""
    return [f"{teacher}: {text}" for teacher, text in sorted(_used.items())]


def forget_inputs() -> None:
    """Forget the results of an earlier command in the same process."""
    for memory in (_choices, _used, _said, _decoded):
        memory.clear()
