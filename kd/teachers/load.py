"""Pretrained teachers: weights from a file, outputs in the class order of the data, accuracy on validation data.

    teacher = load_teacher("torchvision:resnet18", "teacher.pth", input_shape=(3, 32, 32), classes=10)
    teacher_accuracy(teacher, validation)

See ``kd.teachers.logit_files`` for precomputed logits and ``kd.teachers.ensemble`` for several teachers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.console import say
from kd.data.datasets import collate
from kd.models.build import build
from kd.models.outputs import require_model_returns_logits
from kd.models.pretrained import SPARE, find_other_head
from kd.storage.weights import add_file_to_errors, read_weights, require_fitting, say_stripped
from kd.teachers.cache import collect_logits
from kd.teachers.class_map import MappedOutputs, describe_share_outside, map_outputs, measure_share_outside
from kd.teachers.class_order import ONE_OUTPUT, Reordered, find_columns
from kd.teachers.contract import contract_of
from kd.teachers.input_scale import explain_input_scale
from kd.teachers.label_agreement import Agreement, explain_doubt, measure_agreement

_PROBED = 32  # inputs of a model whose outputs may not be logits


def load_teacher(
    spec: str,
    file: Path | str,
    *,
    input_shape: Sequence[int],
    classes: int,
    label_order: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    example: Tensor | None = None,
    entry: str = "",
    own_outputs: bool = False,
) -> nn.Module:
    """Load a trained teacher with outputs in the class order of the data, or with its own outputs.

    Args:
        spec: architecture, see ``kd.models.build.build``.
        file: ``state_dict`` written by ``torch.save``, or ``.safetensors`` (requires the extra ``safetensors``), or the
            checkpoint of a training program that contains one (``kd.storage.checkpoints``).
        input_shape: shape of one example.
        classes: number of classes in the data.
        label_order: class names in the order of the teacher's outputs, if it differs from the data; the result is then
            a ``Reordered`` model.
        class_names: class names in the order of the data; required with ``label_order``.
        example: see ``kd.models.build.build``.
        entry: name of the weights if the checkpoint holds several, such as ``state_dict_ema``.
        own_outputs: build the network with as many outputs as the head in the file, for ``MappedOutputs``
            (``kd.teachers.class_map``) or ``attach_head`` (``kd.teachers.fitted_head``).

    Raises:
        ValueError: the architecture is unknown, the weights do not fit it exactly, the head has a different number of
            classes without ``own_outputs``, or the class names differ.
        OSError: the file cannot be read.
        MissingExtraError: an optional dependency is not installed.
    """
    columns = find_columns(label_order, class_names, classes=classes)
    # The seed does not matter: the weights are replaced.
    model = build(spec, input_shape=input_shape, classes=classes, seed=0, example=example, own_outputs=own_outputs)
    expected = model.state_dict()
    with add_file_to_errors(model, file):
        found = read_weights(file, expected, entry=entry, spare=SPARE)
        if head := find_other_head(found.state, expected, classes):
            if not own_outputs:
                raise ValueError(_explain_other_head(head.classes, classes))
            model = build(
                spec, input_shape=input_shape, classes=head.classes, seed=0, example=example, own_outputs=True
            )
            expected = model.state_dict()
        require_fitting(found.state, expected)
    model.load_state_dict(found.state)
    say_stripped(file, found)
    return model if columns is None else Reordered(model, columns)


def teacher_accuracy(teacher: nn.Module, dataset: Dataset[Any], *, name: str = "teacher") -> Agreement:
    """Measure and print the accuracy of a teacher; warn if its input scale or class order looks wrong.

    Args:
        dataset: validation samples (input, label).
        name: name of the teacher in messages.

    Raises:
        ValueError: the logits are not finite or are probabilities, or a label is not one of the teacher's classes.
    """
    # All outputs of a mapped teacher: restricted probabilities no longer look like probabilities.
    model = teacher.model if isinstance(teacher, MappedOutputs) else teacher
    predictions = collect_logits(model, dataset)
    inputs = collate([dataset[row] for row in range(min(_PROBED, len(predictions.labels)))])[0]
    require_model_returns_logits(f"outputs of the {name}", predictions.logits, model, inputs)
    if isinstance(teacher, MappedOutputs):
        members = teacher.members.cpu()
        share = measure_share_outside(predictions.logits, members)
        say(f"{name}: {describe_share_outside(share)} ({len(predictions.labels):,} validation samples)")
        predictions = predictions._replace(logits=map_outputs(predictions.logits, members))
    agreement = measure_agreement(predictions)
    accuracy = f"{name}: accuracy {agreement.accuracy:.1%} on {len(predictions.labels):,} validation samples"
    contract = contract_of(teacher)
    own_inputs = f"; its inputs: {contract.describe()}" if contract else ""
    say(f"{accuracy} (chance {agreement.chance:.1%}){own_inputs}")
    if reason := explain_input_scale(teacher, dataset) or explain_doubt(agreement):
        warnings.warn(f"{accuracy}; {reason}", stacklevel=2)
    return agreement


def _explain_other_head(found: int, classes: int) -> str:
    if found == 1 and classes == 2:
        return f"its head has 1 output, the data has 2 classes. {ONE_OUTPUT}: in a FILE.py:NAME around the network"
    return (
        f"its head has {found} classes, the data has {classes}. Use a teacher trained on these classes, map its "
        "classes to the data's with --label-map FILE.csv, or fit a new head with --teacher-head fit (in Python, "
        "own_outputs=True)"
    )
