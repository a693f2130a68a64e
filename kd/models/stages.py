"""Stages of a network: the layers that methods compare by default, found from the outputs of all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.models.inference import evaluating, running_hooks

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


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
    level: int  # 0 for a plain layer, 1 or 2 for a block; see _block_level

    @property
    def pixels(self) -> int:
        return self.stage.shape[1] * self.stage.shape[2]

    def replaces(self, earlier: _Maps) -> bool:
        """Return whether this layer, rather than an earlier one of the same size, is the stage."""
        if bool(self.level) != bool(earlier.level):
            return self.level > earlier.level
        return self.depth <= earlier.depth or self.level > earlier.level


def find_stages(model: nn.Module, inputs: Tensor) -> list[Stage]:
    """Return the last block for each size of feature maps, in forward order; empty if the model has no maps.

    The stages are those that authors of distillation methods compare, such as ``layer1`` to ``layer4`` of a ResNet:

    - A block is a module with its own ``forward`` that contains layers with weights, such as a residual block; a
      ``Sequential`` counts as its last module. At a size without blocks, the last plain layer is the stage.
    - The stem is left out: plain layers before the first block, unless they are most of the stages, and first blocks of
      a single convolution before blocks of several, unless they are in the same container. Of several first blocks of a
      single convolution, only if two stages remain.
    - The output of a layer that returns a tuple, a dictionary or a ``ModelOutput`` is its ``main_tensor``.
    - Layers inside a block that is a stage, maps of one pixel, upsampled maps, maps before a change of layout (channels
      last, tokens), dropout, recurrent layers, layers that return maps of several sizes, and layers that run several
      times are left out.
    - Of several names of the same output, such as ``stages`` and ``stages.3``, the one next to the other stages counts.

    Args:
        model: the model, run once in eval mode.
        inputs: [B, ...], an example batch.
    """
    outputs = record_outputs(model, inputs)
    stages = _select_maps(model, outputs, inputs)
    stages = stages[_count_stem(model, stages) :]
    layers = _choose_names(stages, outputs)
    inner = _find_inner(layers)
    named = zip(stages, layers, strict=True)
    return [maps.stage._replace(layer=layer) for maps, layer in named if layer not in inner]


def find_last_maps(model: nn.Module, inputs: Tensor) -> str:
    """Return the last layer whose output is maps of more than one pixel; "" if there is none.

    It precedes the pooling of a classifier and need not be a stage, such as the last 1 × 1 convolution of a MobileNet.

    Args:
        model: the model, run once in eval mode.
        inputs: [B, ...], an example batch.
    """
    outputs = record_outputs(model, inputs)
    maps = [name for name, output in outputs if _is_feature_map(output, inputs) and output[0, 0].numel() > 1]
    return maps[-1] if maps else ""


def _select_maps(model: nn.Module, outputs: Sequence[tuple[str, Tensor]], inputs: Tensor) -> list[_Maps]:
    """Return one layer for each size of maps, the stem included, in order of execution."""
    names = [name for name, _ in outputs]
    best: dict[tuple[int, int], _Maps] = {}
    other_layouts: list[tuple[int, int]] = []  # (place, depth) of outputs in another layout
    for place, (name, output) in enumerate(outputs):
        depth = _count_blocks(model, name)
        if not _is_feature_map(output, inputs):
            other_layouts += [(place, depth)] if output.ndim > 2 and len(output) == len(inputs) else []
        elif names.count(name) == 1:
            height, width = output.shape[2:]
            maps = _Maps(Stage(name, tuple(output.shape[1:])), place, depth, _block_level(model, name))
            if (height, width) not in best or maps.replaces(best[height, width]):
                best[height, width] = maps
    in_order = sorted(best.values(), key=lambda maps: maps.place)
    return [
        maps
        for row, maps in enumerate(in_order)
        if maps.pixels > 1
        and all(maps.pixels < earlier.pixels or maps.depth < earlier.depth for earlier in in_order[:row])
        and not any(place > maps.place and depth <= maps.depth for place, depth in other_layouts)
    ]


def _count_stem(model: nn.Module, stages: Sequence[_Maps]) -> int:
    """Return the number of leading stages that belong to the stem."""
    plain = next((row for row, maps in enumerate(stages) if maps.level), 0)
    blocks = stages[plain:]
    if plain > len(blocks):
        return 0
    single = next((row for row, maps in enumerate(blocks) if maps.level > 1), 0)
    if not single or (single > 1 and len(blocks) - single < 2):
        return plain
    last, first = (_parent(maps.stage.layer) for maps in blocks[single - 1 : single + 1])
    are_alike = last == first and isinstance(model.get_submodule(last), _CONTAINERS)
    return plain if are_alike else plain + single


def _choose_names(stages: Sequence[_Maps], outputs: Sequence[tuple[str, Tensor]]) -> list[str]:
    """Return a name for each stage; among all names of its output, one in the module of most other stages."""
    all_names = [name for name, _ in outputs]
    names = [
        [name for name, tensor in outputs if tensor is outputs[maps.place][1] and all_names.count(name) == 1]
        for maps in stages
    ]
    parents = [parent for same in names for parent in sorted({_parent(name) for name in same})]
    common = min(parents, key=lambda parent: (-parents.count(parent), len(parent)), default="")
    layers = []
    for maps, same in zip(stages, names, strict=True):
        layer = maps.stage.layer
        siblings = [name for name in same if _parent(name) == common]
        layers.append(siblings[-1] if siblings and _parent(layer) != common else layer)
    return layers


def _find_inner(layers: Sequence[str]) -> set[str]:
    """Return the layers inside a block that is a stage; all stages but one may be inside a backbone."""
    inside = {outer: [layer for layer in layers if layer.startswith(f"{outer}.")] for outer in layers}
    return {layers_of[0] for layers_of in inside.values() if len(layers_of) == 1 and len(layers) > 2}


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _block_level(model: nn.Module, name: str) -> int:
    """Return 0 for a plain layer, 1 for a block with one layer that has weights, 2 for a block with several."""
    module = model.get_submodule(name)
    while isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module):
        module = module[-1]
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        return 0  # its children, if any, are parametrisations
    with_weights = [part for part in module.modules() if any(p.ndim > 1 for p in part.parameters(recurse=False))]
    return min(2, len(with_weights)) if any(module.children()) else 0


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
    path = name.split(".")
    ancestors = (model.get_submodule(".".join(path[:length])) for length in range(1, len(path)))
    return sum(not isinstance(module, _CONTAINERS) for module in ancestors)


def main_tensor(output: Any) -> Tensor | None:
    """Return the tensor that represents the output of a layer, or None if there is none.

    A tensor represents itself. In a dictionary or dataclass, such as the ``ModelOutput`` of Hugging Face, it is
    ``last_hidden_state`` if this is a tensor. Otherwise, in a tuple, list or dictionary, it is the first tensor with
    positions, such as maps or tokens, of three or more dimensions; without one, the first tensor. Nested outputs are
    searched in the same way, in order.
    """
    tensors = _list_tensors(output)
    return next((tensor for tensor in tensors if tensor.ndim > 2), tensors[0] if tensors else None)


def _list_tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(last := _to_dict(output).get("last_hidden_state"), Tensor):
        return [last]
    return [tensor for part in _list_parts(output) for tensor in _list_tensors(part)]


def _to_dict(output: Any) -> Mapping[Any, Any]:
    if isinstance(output, Mapping):
        return output
    return vars(output) if is_dataclass(output) and not isinstance(output, type) else {}


def _list_parts(output: Any) -> list[Any]:
    return list(output) if isinstance(output, (tuple, list)) else list(_to_dict(output).values())


def record_outputs(model: nn.Module, inputs: Tensor) -> list[tuple[str, Tensor]]:
    """Run the model once in eval mode and return the output of each module in order of execution.

    Without dropout, and without recurrent layers, which may read maps as a sequence.
    """
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str) -> Any:
        def add(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = main_tensor(output)
            if tensor is not None and not _has_several_sizes(output):
                outputs.append((name, tensor))

        return add

    with ExitStack() as hooks, evaluating(model), torch.no_grad(), running_hooks(model):
        for name, module in model.named_modules():
            if name and not isinstance(module, (nn.modules.dropout._DropoutNd, nn.RNNBase)):
                hooks.callback(module.register_forward_hook(record(name)).remove)
        model(inputs.clone())  # some models change it in place
    return outputs


def _has_several_sizes(output: Any) -> bool:
    """Return whether the output contains feature maps of several sizes, like those of a backbone for detection."""
    return len({part.shape[2:] for part in _list_parts(output) if isinstance(part, Tensor) and part.ndim == 4}) > 1
