"""What a model computes on its way to the logits: captured by hooks, which leave the model as it was."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.loop import evaluating

_INPUT = ":input"


@contextmanager
def capture(model: nn.Module, *layers: str) -> Iterator[dict[str, Tensor]]:
    """A dictionary of what these layers answer with, filled at each pass inside the block; of several, the last counts.

    Args:
        layers: paths as ``model.named_modules()`` has them. ``layer3`` is that module's output, ``output:input`` what
            is given to the module ``output``.

    Raises:
        ValueError: there is no such layer; the error names those that are called nearly so.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in layers:
            hooks.callback(_hook(model, name, found))
        yield found


class Stage(NamedTuple):
    """A layer that answers with maps.

    Attributes:
        layer: as ``capture`` takes it.
        shape: [C, H, W].
    """

    layer: str
    shape: tuple[int, ...]


def stages(model: nn.Module, inputs: Tensor) -> list[Stage]:
    """For each size of maps the last layer that has it, in the order of the pass; none where there are no maps.

    Not counted are maps of one pixel, dropout, and layers that are called several times.

    Args:
        inputs: [B, ...], an example.
    """
    called = [
        (name, output) for name, output in _outputs(model, inputs) if output.ndim == 4 and output[0, 0].numel() > 1
    ]
    names = [name for name, _ in called]
    once = [(name, output) for name, output in called if names.count(name) == 1]
    last = {tuple(output.shape[2:]): Stage(name, tuple(output.shape[1:])) for name, output in once}
    return sorted(last.values(), key=lambda stage: names.index(stage.layer))


def penultimate(model: nn.Module, inputs: Tensor) -> str:
    """The layer, as ``capture`` takes it, whose values the last linear layer turns into logits.

    Raises:
        ValueError: the model has no linear layer.
    """
    modules = dict(model.named_modules())
    linear = [name for name, _ in _outputs(model, inputs) if isinstance(modules[name], nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer at its end: name the layer to learn from.")
    return linear[-1] + _INPUT


def matched_stages(
    student: nn.Module, teacher: nn.Module, inputs: Tensor, *, student_layers: str = "", teacher_layers: str = ""
) -> list[tuple[str, str]]:
    """Layers of both, the student's first, that are to be compared: as named, or the last stages of both in pairs.

    Args:
        student_layers, teacher_layers: names with commas between; "" for those that are found.

    Raises:
        ValueError: there are no maps to compare, or the names are not as many on both sides.
    """
    named = [
        layers.split(",") if layers else [stage.layer for stage in stages(model, inputs)]
        for model, layers in ((student, student_layers), (teacher, teacher_layers))
    ]
    for who, layers, model in zip(("student", "teacher"), named, (student, teacher), strict=True):
        if not layers:
            raise ValueError(
                f"this method compares feature maps, and the {who}, {type(model).__name__}, has none. "
                "A student with --student cnn has."
            )
    count = min(map(len, named))
    if student_layers and teacher_layers and len(named[0]) != len(named[1]):
        raise ValueError(
            f"student_layers and teacher_layers must be as many. Got {len(named[0])} and {len(named[1])} instead."
        )
    return list(zip(*(layers[-count:] for layers in named), strict=True))


def _outputs(model: nn.Module, inputs: Tensor) -> list[tuple[str, Tensor]]:
    """Each module's output in one pass in eval mode, in the order in which they answer; dropout's are left out."""
    found: list[tuple[str, Tensor]] = []

    def note(name: str) -> Any:
        return lambda module, _, output: found.append((name, output)) if isinstance(output, Tensor) else None

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name, module in model.named_modules():
            if name and not isinstance(module, nn.modules.dropout._DropoutNd):
                hooks.callback(module.register_forward_hook(note(name)).remove)
        model(inputs)
    return found


def _hook(model: nn.Module, name: str, found: dict[str, Tensor]) -> Any:
    """Hook the layer; the function that takes the hook away again."""
    path, modules = name.removesuffix(_INPUT), dict(model.named_modules())
    if path not in modules:
        near = difflib.get_close_matches(path, modules, n=3) or [each for each in modules if each]
        raise ValueError(f"{type(model).__name__} has no layer {path!r}. It has {', '.join(near)}.")
    if name.endswith(_INPUT):
        return modules[path].register_forward_pre_hook(lambda _, inputs: found.update({name: inputs[0]})).remove
    return modules[path].register_forward_hook(lambda *answered: found.update({name: answered[2]})).remove


def shapes(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[tuple[int, ...]]:
    """What the layers answer with for one example, without the batch."""
    with evaluating(model), torch.no_grad(), capture(model, *layers) as found:
        model(inputs)
    return [tuple(found[layer].shape[1:]) for layer in layers]
