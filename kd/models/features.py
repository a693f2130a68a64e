"""Intermediate activations of a model, captured with forward hooks, and the layers that methods compare by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean
from kd.models.inference import evaluating

_INPUT = ":input"  # suffix of a layer's name: the input of the layer instead of its output


class Features(dict[str, Tensor]):
    """Captured activations by layer name. Access to a layer that did not run raises ``ValueError``."""

    def __missing__(self, layer: str) -> Tensor:
        raise ValueError(f"the layer {layer!r} did not run in the forward pass. Name a layer that does.")


@contextmanager
def capture(model: nn.Module, *layers: str) -> Iterator[Features]:
    """Capture the outputs of layers inside the block; yields a dictionary that each forward pass fills.

    After several passes the dictionary contains the last outputs. The hooks are removed at the end of the block.

    Args:
        model: the model whose layers are captured.
        layers: module paths as in ``model.named_modules()``. ``layer3`` captures the module's output, ``output:input``
            the input of the module ``output``.

    Raises:
        ValueError: a layer does not exist (the error suggests similar names), did not run in the pass, or does not
            return a single tensor. Also if a later in-place operation overwrote a captured output. In-place modules,
            such as torchvision's ReLUs, are allowed: outputs are then copied.
    """
    features, versions = Features(), dict[str, int]()
    has_inplace = any(getattr(module, "inplace", False) for module in model.modules())

    def store(name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"the layer {name!r} must return a tensor. Got a {type(output).__name__}. Name another layer."
            )
        # Copies only if needed: they take a tenth of a small network's training step.
        features[name] = output.clone() if has_inplace else output
        versions[name] = 0 if output.is_inference() else features[name]._version

    with ExitStack() as hooks:
        for name in layers:
            hooks.callback(_add_hook(model, name, store))
        yield features
    for name, output in features.items():
        if not output.is_inference() and output._version != versions[name]:
            raise ValueError(
                f"the output of {name!r} is overwritten by a later in-place operation. Name a later layer."
            )


class Stage(NamedTuple):
    """A layer whose output is feature maps.

    Attributes:
        layer: name of the layer, as in ``capture``.
        shape: [C, H, W].
    """

    layer: str
    shape: tuple[int, ...]


class _Maps(NamedTuple):
    stage: Stage
    place: int  # position in the order of execution
    depth: int  # number of enclosing blocks; see _count_blocks

    @property
    def pixels(self) -> int:
        return self.stage.shape[1] * self.stage.shape[2]


def find_stages(model: nn.Module, inputs: Tensor) -> list[Stage]:
    """Return the last layer for each size of feature maps, in forward order; empty if the model has no maps.

    A block (for example a residual block) can be a stage; the layers inside it cannot. Also excluded: maps of one
    pixel, upsampled maps, maps before a change of layout (channels last, tokens), dropout, and layers that run several
    times.

    Args:
        model: the model, run once in eval mode.
        inputs: [B, ...], an example batch.
    """
    outputs = _record_outputs(model, inputs)
    names = [name for name, _ in outputs]
    last: dict[tuple[int, int], _Maps] = {}
    other_layouts: list[tuple[int, int]] = []  # (place, depth) of outputs in another layout
    for place, (name, output) in enumerate(outputs):
        depth = _count_blocks(model, name)
        if not _is_feature_map(output, inputs):
            other_layouts += [(place, depth)] if output.ndim > 2 and len(output) == len(inputs) else []
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
        and not any(place > maps.place and depth <= maps.depth for place, depth in other_layouts)
    ]


def _is_feature_map(output: Tensor, inputs: Tensor) -> bool:
    """Return whether the output is [B, C, H, W] with the inputs' aspect ratio, unlike [B, H, W, C] or windows."""
    if output.ndim != 4 or len(output) != len(inputs):
        return False
    if inputs.ndim != 4:
        return True
    (height, width), (rows, columns) = output.shape[2:], inputs.shape[2:]
    return abs(height - width) <= 1 if rows == columns else 1 / 2 < height * columns / (width * rows) < 2


def _count_blocks(model: nn.Module, name: str) -> int:
    """Return the number of modules that contain this one, without the model itself and plain containers."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    path = name.split(".")
    ancestors = (model.get_submodule(".".join(path[:length])) for length in range(1, len(path)))
    return sum(not isinstance(module, containers) for module in ancestors)


def find_penultimate(model: nn.Module, inputs: Tensor) -> str:
    """Return the name for ``capture`` of the penultimate features: the input of the last linear layer.

    Raises:
        ValueError: the model has no linear layer.
    """
    modules = dict(model.named_modules())
    linear = [name for name, _ in _record_outputs(model, inputs) if isinstance(modules[name], nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer. Name the layer to compare.")
    return linear[-1] + _INPUT


def match_stages(
    student: nn.Module, teacher: nn.Module, inputs: Tensor, *, student_layers: str = "", teacher_layers: str = ""
) -> list[tuple[str, str]]:
    """Return pairs of layers to compare, (student, teacher): the named layers, or the last common stages.

    Args:
        inputs: an example batch, to find stages.
        student_layers, teacher_layers: comma-separated layer names; "" uses the stages from ``find_stages``.

    Raises:
        ValueError: a model has no maps to compare, or the numbers of names differ.
    """
    layers_by_model = [
        layers.split(",") if layers else [stage.layer for stage in find_stages(model, inputs)]
        for model, layers in ((student, student_layers), (teacher, teacher_layers))
    ]
    for role, layers, model in zip(("student", "teacher"), layers_by_model, (student, teacher), strict=True):
        if not layers:
            raise ValueError(
                f"this method compares feature maps, and none were found in the {role}, {type(model).__name__}. "
                f"Use a model with feature maps, such as --student cnn, or name layers: --set {role}_layers=NAME,NAME."
            )
    count = min(map(len, layers_by_model))
    if student_layers and teacher_layers and len(layers_by_model[0]) != len(layers_by_model[1]):
        raise ValueError(
            "student_layers and teacher_layers must name the same number of layers. "
            f"Got {len(layers_by_model[0])} and {len(layers_by_model[1])} instead."
        )
    return list(zip(*(layers[-count:] for layers in layers_by_model), strict=True))


def _record_outputs(model: nn.Module, inputs: Tensor) -> list[tuple[str, Tensor]]:
    """Run the model once in eval mode and return the output of each module in order of execution, without dropout."""
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str) -> Any:
        return lambda module, _, output: outputs.append((name, output)) if isinstance(output, Tensor) else None

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name, module in model.named_modules():
            if name and not isinstance(module, nn.modules.dropout._DropoutNd):
                hooks.callback(module.register_forward_hook(record(name)).remove)
        model(inputs)
    return outputs


def _add_hook(model: nn.Module, name: str, store: Callable[[str, Any], None]) -> Any:
    """Add a hook that stores the layer's outputs, and return the function that removes it."""
    path, modules = name.removesuffix(_INPUT), dict(model.named_modules())
    if path not in modules:
        hint = did_you_mean(path, modules, f"It has {', '.join(filter(None, modules))}.")  # "" is the model itself
        raise ValueError(f"{type(model).__name__} has no layer {path!r}. {hint}")
    if name.endswith(_INPUT):
        return modules[path].register_forward_pre_hook(lambda _, inputs: store(name, inputs[0])).remove
    return modules[path].register_forward_hook(lambda *call: store(name, call[2])).remove


def layer_shapes(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[tuple[int, ...]]:
    """Return the output shapes of layers, without the batch dimension."""
    with evaluating(model), torch.no_grad(), capture(model, *layers) as features:
        model(inputs)
    return [tuple(features[layer].shape[1:]) for layer in layers]
