"""Intermediate activations of a model, captured with forward hooks, and the layers that methods compare by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean
from kd.models.inference import evaluating, running_hooks
from kd.models.stages import Stage as Stage
from kd.models.stages import find_stages as find_stages
from kd.models.stages import main_tensor, record_outputs

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
            the first input of the module ``output``. For a tuple, dictionary or ``ModelOutput``, ``main_tensor`` is
            captured.

    Raises:
        ValueError: a layer does not exist (the error suggests similar names), did not run in the pass, or does not
            return a tensor. Also if a later in-place operation overwrote a captured output. In-place modules, such as
            torchvision's ReLUs, are allowed: outputs are then copied.
    """
    features, versions = Features(), dict[str, int]()
    has_inplace = any(getattr(module, "inplace", False) for module in model.modules())

    def store(name: str, value: Any) -> None:
        output = main_tensor(value)
        if output is None:
            raise ValueError(
                f"the layer {name!r} must return a tensor, or a tuple or dictionary with one. Got a "
                f"{type(value).__name__}. Name another layer."
            )
        # Copies only if needed: they take a tenth of a small network's training step.
        features[name] = output.clone() if has_inplace else output
        versions[name] = 0 if output.is_inference() else features[name]._version

    with ExitStack() as hooks:
        hooks.enter_context(running_hooks(model))
        for name in layers:
            hooks.callback(_add_hook(model, name, store))
        yield features
    for name, output in features.items():
        if not output.is_inference() and output._version != versions[name]:
            raise ValueError(
                f"the output of {name!r} is overwritten by a later in-place operation. Name a later layer."
            )


@contextmanager
def detach_at(model: nn.Module, layer: str) -> Iterator[None]:
    """Detach the output of a layer inside the block, so that the model's output trains only what comes after it.

    For ``output:input`` all inputs of the module ``output`` are detached. Activations that an enclosing ``capture``
    records keep their gradients; enter ``capture`` first.

    Raises:
        ValueError: the layer does not exist, or returns something else than a tensor.
    """
    module = model.get_submodule(_find_path(model, layer))

    def detach_inputs(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return tuple(map(_detach, inputs)), {name: _detach(value) for name, value in named.items()}

    def detach_output(*call: Any) -> Tensor:
        if not isinstance(call[2], Tensor):
            raise ValueError(
                f"the layer {layer!r} must return a tensor. Got a {type(call[2]).__name__}. Name another layer."
            )
        return call[2].detach()

    is_input = layer.endswith(_INPUT)
    hook: Any = (
        module.register_forward_pre_hook(detach_inputs, with_kwargs=True)
        if is_input
        else module.register_forward_hook(detach_output)
    )
    try:
        with running_hooks(model):
            yield
    finally:
        hook.remove()


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def average_positions(features: Tensor) -> Tensor:
    """Return maps [B, C, H, W, …] or tokens [B, T, D] averaged over their positions, [B, D]; others unchanged."""
    if features.ndim >= 4:
        return features.flatten(2).mean(dim=2)
    return features.mean(dim=1) if features.ndim == 3 else features


def find_penultimate(model: nn.Module, inputs: Tensor) -> str:
    """Return the name for ``capture`` of the penultimate features: the input of the last linear layer.

    Raises:
        ValueError: the model has no linear layer.
    """
    modules = dict(model.named_modules())
    linear = [name for name, _ in record_outputs(model, inputs) if isinstance(modules[name], nn.Linear)]
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


def _add_hook(model: nn.Module, name: str, store: Callable[[str, Any], None]) -> Any:
    """Add a hook that stores the layer's outputs, and return the function that removes it."""
    module = model.get_submodule(_find_path(model, name))
    if name.endswith(_INPUT):
        # The input may be passed by keyword, as in models of Hugging Face.
        def store_input(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            store(name, [*inputs, *named.values()])

        return module.register_forward_pre_hook(store_input, with_kwargs=True).remove
    return module.register_forward_hook(lambda *call: store(name, call[2])).remove


def _find_path(model: nn.Module, layer: str) -> str:
    """Return the path of a layer's module, also if it is named as in the network inside wrappers."""
    path, modules = layer.removesuffix(_INPUT), dict(model.named_modules())
    if path not in modules and (prefix := find_network(model)) and f"{prefix}.{path}" in modules:
        path = f"{prefix}.{path}"
    if path not in modules:
        hint = did_you_mean(path, modules, f"It has {', '.join(filter(None, modules))}.")  # "" is the model itself
        raise ValueError(f"{type(model).__name__} has no layer {path!r}. {hint}")
    return path


def find_network(model: nn.Module) -> str:
    """Return the path of the network inside wrappers, "" without any.

    A wrapper names the module that it wraps in its class attribute ``wraps``, so that users name the layers of the
    network itself.
    """
    path: list[str] = []
    while name := getattr(model, "wraps", ""):
        path.append(name)
        model = model.get_submodule(name)
    return ".".join(path)


def layer_shapes(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[tuple[int, ...]]:
    """Return the output shapes of layers, without the batch dimension."""
    with evaluating(model), torch.no_grad(), capture(model, *layers) as features:
        model(inputs.clone())
    return [tuple(features[layer].shape[1:]) for layer in layers]
