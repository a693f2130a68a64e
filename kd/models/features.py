"""What a model computes on its way to the logits: captured by hooks, which leave the model as it was."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.models.inference import evaluating

_INPUT = ":input"


class Features(dict[str, Tensor]):
    """What layers have answered with in a pass, by name."""

    def __missing__(self, layer: str) -> Tensor:
        raise ValueError(f"the layer {layer!r} had no part in the pass: name one that has.")


@contextmanager
def capture(model: nn.Module, *layers: str) -> Iterator[Features]:
    """A dictionary of what these layers answer with, filled at each pass inside the block; of several, the last counts.

    Args:
        layers: paths as ``model.named_modules()`` has them. ``layer3`` is that module's output, ``output:input`` what
            is given to the module ``output``.

    Raises:
        ValueError: there is no such layer; the error names those that are called nearly so. Or it answers with
            something else than one tensor, or is asked for though it had no part in the pass, or its answer was
            overwritten by a function that works in place. (Modules may, as torchvision's ReLUs do: then copies are
            kept.)
    """
    found, versions = Features(), dict[str, int]()
    in_place = any(getattr(module, "inplace", False) for module in model.modules())

    def keep(name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"the layer {name!r} answers with a {type(output).__name__}, no tensor: name another.")
        found[name] = output.clone() if in_place else output  # a copy takes a tenth of a small network's step
        versions[name] = 0 if output.is_inference() else found[name]._version

    with ExitStack() as hooks:
        for name in layers:
            hooks.callback(_hook(model, name, keep))
        yield found
    for name, output in found.items():
        if not output.is_inference() and output._version != versions[name]:
            raise ValueError(f"what the layer {name!r} answers with is overwritten by what follows: name a later one.")


class Stage(NamedTuple):
    """A layer that answers with maps.

    Attributes:
        layer: as ``capture`` takes it.
        shape: [C, H, W].
    """

    layer: str
    shape: tuple[int, ...]


class _Maps(NamedTuple):
    stage: Stage
    place: int  # in the order in which layers answer
    depth: int  # blocks that it lies in; a chain of modules is no block

    @property
    def pixels(self) -> int:
        return self.stage.shape[1] * self.stage.shape[2]


def find_stages(model: nn.Module, inputs: Tensor) -> list[Stage]:
    """For each size of maps the last layer that has it, in the order of the pass; none where there are no maps.

    The last one outside of blocks: what a residual block computes on its way is no stage. Not counted are maps of one
    pixel, maps that have been made larger again, maps before the model goes on in another layout (channels last,
    tokens), dropout, and layers that are called several times.

    Args:
        inputs: [B, ...], an example.
    """
    outputs = _outputs(model, inputs)
    names = [name for name, _ in outputs]
    last: dict[tuple[int, int], _Maps] = {}
    others: list[tuple[int, int]] = []  # places and depths of answers in another layout
    for place, (name, output) in enumerate(outputs):
        depth = _depth(model, name)
        if not _are_maps(output, inputs):
            others += [(place, depth)] if output.ndim > 2 and len(output) == len(inputs) else []
        elif names.count(name) == 1:
            height, width = output.shape[2:]
            maps = _Maps(Stage(name, tuple(output.shape[1:])), place, depth)
            if depth <= last.get((height, width), maps).depth:
                last[height, width] = maps
    in_order = sorted(last.values(), key=lambda maps: maps.place)
    return [
        maps.stage
        for row, maps in enumerate(in_order)
        if maps.pixels > 1
        and all(maps.pixels < earlier.pixels or maps.depth < earlier.depth for earlier in in_order[:row])
        and not any(place > maps.place and depth <= maps.depth for place, depth in others)
    ]


def _are_maps(output: Tensor, inputs: Tensor) -> bool:
    """Whether this is [B, C, H, W] of the inputs' proportions, which [B, H, W, C] and what is in windows are not."""
    if output.ndim != 4 or len(output) != len(inputs):
        return False
    if inputs.ndim != 4:
        return True
    (height, width), (rows, columns) = output.shape[2:], inputs.shape[2:]
    return abs(height - width) <= 1 if rows == columns else 1 / 2 < height * columns / (width * rows) < 2


def _depth(model: nn.Module, name: str) -> int:
    """How many modules this one lies in, besides the model itself and chains and lists of modules."""
    chains = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    parts = name.split(".")
    around = (model.get_submodule(".".join(parts[:length])) for length in range(1, len(parts)))
    return sum(not isinstance(module, chains) for module in around)


def find_penultimate(model: nn.Module, inputs: Tensor) -> str:
    """The layer, as ``capture`` takes it, whose values the last linear layer turns into logits.

    Raises:
        ValueError: the model has no linear layer.
    """
    modules = dict(model.named_modules())
    linear = [name for name, _ in _outputs(model, inputs) if isinstance(modules[name], nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer at its end: name the layer to learn from.")
    return linear[-1] + _INPUT


def match_stages(
    student: nn.Module, teacher: nn.Module, inputs: Tensor, *, student_layers: str = "", teacher_layers: str = ""
) -> list[tuple[str, str]]:
    """Layers of both, the student's first, that are to be compared: as named, or the last stages of both in pairs.

    Args:
        student_layers, teacher_layers: names with commas between; "" for those that are found.

    Raises:
        ValueError: there are no maps to compare, or the names are not as many on both sides.
    """
    named = [
        layers.split(",") if layers else [stage.layer for stage in find_stages(model, inputs)]
        for model, layers in ((student, student_layers), (teacher, teacher_layers))
    ]
    for who, layers, model in zip(("student", "teacher"), named, (student, teacher), strict=True):
        if not layers:
            raise ValueError(
                f"this method compares feature maps, and the {who}, {type(model).__name__}, has none. "
                "A student with --student cnn has. Maps that are not found by themselves can be named: "
                f"--set {who}_layers=NAME,NAME."
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


def _hook(model: nn.Module, name: str, keep: Callable[[str, Any], None]) -> Any:
    """Have the layer's answers kept; the function that takes the hook away again."""
    path, modules = name.removesuffix(_INPUT), dict(model.named_modules())
    if path not in modules:
        near = difflib.get_close_matches(path, modules, n=3) or [each for each in modules if each]
        raise ValueError(f"{type(model).__name__} has no layer {path!r}. It has {', '.join(near)}.")
    if name.endswith(_INPUT):
        return modules[path].register_forward_pre_hook(lambda _, inputs: keep(name, inputs[0])).remove
    return modules[path].register_forward_hook(lambda *answered: keep(name, answered[2])).remove


def shapes(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[tuple[int, ...]]:
    """What the layers answer with for one example, without the batch."""
    with evaluating(model), torch.no_grad(), capture(model, *layers) as found:
        model(inputs)
    return [tuple(found[layer].shape[1:]) for layer in layers]
