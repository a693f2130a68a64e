"""Teachers that were trained elsewhere: their weights from a file, their classes in the data's order, their accuracy.

    teacher = load_teacher("torchvision:resnet18", "teacher.pth", input_shape=(3, 32, 32), classes=10)
    teacher_accuracy(teacher, validation)

A teacher of which only the logits are there is ``kd.teachers.logit_files``'; several are ``kd.teachers.ensemble``'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.console import say
from kd.models.build import build
from kd.storage.weights import naming_weights, read_state, require_fitting
from kd.teachers.cache import collect_logits
from kd.teachers.class_order import Reordered, find_columns
from kd.teachers.label_agreement import Agreement, explain_doubt, measure_agreement

# Megabytes beyond the model's own: a head for a thousand classes is to be told as such, not as a file too large.
_SPARE = 64


def load_teacher(
    spec: str,
    file: Path | str,
    *,
    input_shape: Sequence[int],
    classes: int,
    label_order: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """A trained teacher: the architecture by its spec, its weights from a file, its classes in the data's order.

    Args:
        spec: as ``kd.models.build.build`` takes it.
        file: its ``state_dict``, as ``torch.save`` has written it, or ``.safetensors`` (extra ``safetensors``).
        input_shape: of one example.
        classes: of the data.
        label_order: the names of the classes in the order of the teacher's outputs, where it is not the data's; the
            teacher is then a ``Reordered``.
        class_names: of the data, in its order; needed with ``label_order``.

    Raises:
        ValueError: no such architecture, the file does not fit it exactly, its head has another number of classes, or
            the names of the classes are not the same.
        OSError: the file cannot be read.
        MissingExtraError: a library of an extra is not installed.
    """
    columns = find_columns(label_order, class_names, classes=classes)
    model = build(spec, input_shape=input_shape, classes=classes, seed=0)  # the weights are replaced
    expected = model.state_dict()
    with naming_weights(model, file):
        state = read_state(file, expected, spare=_SPARE)
        _require_classes(state, expected, classes)
        require_fitting(state, expected)
    model.load_state_dict(state)
    return model if columns is None else Reordered(model, columns)


def teacher_accuracy(teacher: nn.Module, dataset: Dataset[Any], *, name: str = "teacher") -> Agreement:
    """Measure the teacher anew on these items (input, label), say what came out, and warn where it cannot be right.

    Args:
        dataset: for validation; the teacher is asked in eval mode.
        name: of the teacher, for messages.

    Raises:
        ValueError: its logits are not finite, or a label is none of its classes.
    """
    predictions = collect_logits(teacher, dataset)
    found = measure_agreement(predictions)
    right = f"{name}: {found.accuracy:.1%} right on {len(predictions.labels):,} validation items"
    say(f"{right}, measured now; in random order it would be {found.chance:.1%}")
    if reason := explain_doubt(found):
        warnings.warn(f"{right}, and {reason}", stacklevel=2)
    return found


def _require_classes(state: object, expected: Mapping[str, Tensor], classes: int) -> None:
    """Where all that does not fit is the number of the head's classes, say that instead of naming tensors."""
    if not isinstance(state, dict) or set(state) != set(expected):
        return
    pairs = [(state[name], tensor) for name, tensor in expected.items() if isinstance(state[name], Tensor)]
    other = [(tuple(found.shape), tuple(wanted.shape)) for found, wanted in pairs if found.shape != wanted.shape]
    heads = {found[:1] for found, wanted in other if found[:1] and wanted == (classes, *found[1:])}
    if len(heads) == 1 and all(found[:1] in heads for found, _ in other):
        ((answered,),) = heads
        raise ValueError(
            f"its head answers for {answered} classes, the data has {classes}. Take the teacher that was trained on "
            "these classes, or train its head anew"
        )
