"""Models from a short specification: built-in, from torchvision or timm, or from a user's file.

    teacher = build("torchvision:resnet18", input_shape=(3, 32, 32), classes=10, seed=0)
    student = build("cnn:32", input_shape=(3, 32, 32), classes=10, seed=0)

Initial weights are random and determined by the seed; nothing is downloaded. ``kd.teachers.load`` loads trained weights
from a file.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean, require
from kd.imports import is_plugin, load_plugin
from kd.models.inference import evaluating
from kd.models.main_output import OutputError, return_logits
from kd.models.networks import CNN, MLP, ConvNet
from kd.models.outputs import require_model_returns_logits
from kd.models.zoo import timm_model, torchvision_model
from kd.seeding import seeded
from kd.storage.resources import require_memory
from kd.storage.weights import require_dense_state

ALLOWED = "convnet, convnet:32,64,128, mlp:256, mlp:512,256, cnn:32, torchvision:NAME, timm:NAME or FILE.py:NAME"
_SIZED = ("convnet", "mlp", "cnn")  # built-in models, with widths that a user chooses
_KINDS = (*_SIZED, "torchvision", "timm")
_COPIES = 4  # weights, gradients and Adam's two moments


def build(
    spec: str,
    *,
    input_shape: Sequence[int],
    classes: int,
    seed: int,
    example: Tensor | None = None,
    own_outputs: bool = False,
) -> nn.Module:
    """Build a model with random weights, on the CPU, in training mode.

    Args:
        spec: one of

            - ``convnet``, ``convnet:32,64,128``: channels of three convolutions; images of at least 23 × 23 pixels.
            - ``mlp:512,256``: units of each hidden layer; inputs of any shape.
            - ``cnn:32``: channels of the first of three stages, ``layer1`` to ``layer3``.
            - ``torchvision:resnet18``, ``timm:resnet18`` (extra ``timm``).
            - ``file.py:Name``: a user's class or function, called as ``Name(input_shape=…, classes=…)`` with the
              arguments that it accepts. Runs the file's code and prints a line about it.
        input_shape: shape of one sample: [C, H, W], [features], …
        classes: K, at least 2.
        seed: at least 0; the same seed gives the same weights. The caller's random state is restored.
        example: an input of the data, of shape ``input_shape``, on which the model is tried; needed for models of
            integer inputs, such as tokens. None uses random numbers.
        own_outputs: a model of the user's may return any number of outputs, logits or not.

    Raises:
        ValueError: the specification is invalid, or the model's output for one sample is not K finite logits.
        MemoryError: training a built-in model of these widths needs more memory than is available.
        MissingExtraError: an optional library is not installed.
        OSError: the user's file cannot be read.
    """
    shape = tuple(input_shape)
    require(
        bool(shape) and min(shape) >= 1,
        "input_shape",
        shape,
        "one or more integers above 0",
        "without the batch dimension",
    )
    require(classes >= 2, "classes", classes, "an integer of at least 2")
    if spec.partition(":")[0] in _SIZED:
        _require_memory_for(spec, shape, classes)
    with seeded(seed):
        model = _build_from_spec(spec, shape, classes)
        require_dense_state(spec, model)
        require_logits_output(model, spec, shape, None if own_outputs else classes, example)
    if is_plugin(spec):
        _require_copyable(spec, model, torch.zeros(shape) if example is None else example)
    return model


def require_logits_output(
    model: nn.Module, spec: str, input_shape: Sequence[int], classes: int | None, example: Tensor | None = None
) -> None:
    """Check the model's output for one sample, in eval mode so that weights and statistics do not change.

    Args:
        classes: K; None allows any number of outputs, also of other kinds than logits.
        example: the sample, without a batch dimension; None uses random numbers.

    Raises:
        ValueError: the model fails, or its output is not finite logits [1, classes]; the error shows the output.
    """
    if example is None:
        example = torch.randn(*input_shape, generator=torch.Generator().manual_seed(0))
    shape = list(example.shape)
    require(shape == list(input_shape), "the shape of the example", shape, f"the input shape {list(input_shape)}")
    batch = example[None].clone()  # a model may change its input in place
    sample = f"one sample {list(batch.shape)}" + ("" if batch.is_floating_point() else f" of {batch.dtype}")
    try:
        with evaluating(model), torch.no_grad():
            output = model(batch)
    except OutputError as error:
        raise ValueError(f"{spec}: {error}") from error
    except Exception as error:  # user code can raise anything
        reason = str(error).split("\n", 1)[0].removesuffix(".")
        raise ValueError(
            f"{spec} failed on {sample} ({type(error).__name__}: {reason}). {_advise(spec, batch)}"
        ) from error
    is_row = isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1 and output.shape[1] > 0
    if not is_row or (classes is not None and output.shape[1] != classes):
        advice = "Sequences of outputs [B, T, K], several labels per sample and regression are not supported."
        if is_row:
            advice = "A trained teacher of other classes needs --label-map FILE.csv or --teacher-head fit."
        allowed = "outputs [1, N]" if classes is None else f"logits [1, {classes}]"
        raise ValueError(f"{spec} must return {allowed} for {sample}. Got {_describe_output(output)} instead. {advice}")
    if not output.isfinite().all():
        raise ValueError(f"{spec} must return finite logits for {sample}. Got {output.tolist()} instead.")
    if classes is not None:
        require_model_returns_logits(f"outputs of {spec}", output, model, batch)


def _require_copyable(spec: str, model: nn.Module, example: Tensor) -> None:
    """Check that copies of a user's model compute the same: students start as copies of each other."""
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # of any attribute
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0].removesuffix(".")
        raise ValueError(
            f"{spec} cannot be copied ({type(error).__name__}: {reason}). Compute tensors from parameters in forward, "
            "and keep locks, files and sessions of other libraries out of the attributes."
        ) from error
    inputs = torch.stack([example, torch.zeros_like(example)])

    def run(instance: nn.Module) -> Tensor:
        with evaluating(instance), torch.no_grad(), seeded(0):
            output: Tensor = instance(inputs.clone())
        return output

    def is_close(first: Tensor, second: Tensor) -> bool:
        return torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True)

    try:
        expected = run(model)
        is_repeatable = is_close(run(model), expected)
    except Exception:  # a batch of two is tried where models are trained
        return
    try:
        is_same = not is_repeatable or is_close(run(copied), expected)
    except Exception:  # user code can raise anything
        is_same = False
    if not is_same:
        raise ValueError(
            f"{spec} returns other outputs in a copy. A hook or function that it keeps probably uses the original, "
            "such as lambda module, inputs, output: setattr(self, …). Compute such values in forward."
        )


def _advise(spec: str, batch: Tensor) -> str:
    """Return a remedy for a model that fails on a batch."""
    if not batch.is_floating_point():
        return (
            "Integer inputs are tokens: choose a model with an embedding (FILE.py:NAME), or store quantities as "
            "float32."
        )
    own = "Its forward gets this tensor alone, float32 on the CPU, and may cast it to the type of its weights."
    general = "Choose a model for inputs of this shape: cnn:32 takes images of any size, mlp:256 inputs of any shape."
    return (
        f"{own if is_plugin(spec) else general} A model of integers, such as tokens, needs an example of the data: "
        "example=dataset[0][0]."
    )


def _build_from_spec(spec: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    if is_plugin(spec):
        model = build_from_class(load_plugin(spec), spec, input_shape=shape, classes=classes)
        return model if isinstance(model, torch.jit.ScriptModule) else return_logits(model, classes=classes)
    kind, colon, name = spec.partition(":")
    match kind:
        case "convnet" if not colon:
            return ConvNet(shape, classes)
        case "convnet":
            maps = _parse_widths(spec, name)
            require(len(maps) == 3, "the channels in convnet:A,B,C", name, "three integers above 0")
            return ConvNet(shape, classes, (maps[0], maps[1], maps[2]))
        case "mlp":
            return MLP(*_parse_widths(spec, name), input_shape=shape, classes=classes)
        case "cnn":
            (width, *more) = _parse_widths(spec, name)
            require(not more, "the width in cnn:WIDTH", name, "one integer above 0", "cnn:32 is usual")
            return CNN(width, shape, classes)
        case "torchvision":
            return torchvision_model(name, shape, classes)
        case "timm":
            return timm_model(name, shape, classes)
    raise ValueError(f"there is no model {spec!r}. {_suggest(spec)} Allowed: {ALLOWED}.")


def _suggest(spec: str) -> str:
    """Return ``Did you mean …?`` with similar kinds, or torchvision's models if the name lacks its prefix."""
    kind, colon, _ = spec.partition(":")
    hint = did_you_mean(kind, _KINDS)
    if hint or colon:
        return hint or "Choose another."
    from torchvision import models  # slow, so only if needed

    names = {f"torchvision:{name}": name for name in models.list_models(module=models)}
    similar = [full for full, name in names.items() if did_you_mean(spec, [name])]
    return did_you_mean(f"torchvision:{spec}", similar, "Choose another.")


def _require_memory_for(spec: str, shape: tuple[int, ...], classes: int) -> None:
    """Check the memory for training a built-in model, on torch's device without memory."""
    try:
        with torch.device("meta"):
            parameters = list(_build_from_spec(spec, shape, classes).parameters())
    except RuntimeError as error:  # more values than an integer of 64 bits counts
        raise MemoryError(f"{spec} for inputs {list(shape)} and {classes:,} classes has too many weights.") from error
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    require_memory(_COPIES * size, f"training {spec}", "Choose smaller widths.")


def _parse_widths(spec: str, text: str) -> list[int]:
    widths = [int(width) if width.isdecimal() else 0 for width in text.split(",")]
    if min(widths) < 1:
        raise ValueError(
            f"{spec!r} must contain widths, integers above 0: mlp:256, mlp:512,256, cnn:32 or convnet:32,64,128."
        )
    return widths


def _describe_output(output: Any) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"


def build_from_class(factory: Any, spec: str, *, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build a model by a user's class or function; it gets ``input_shape`` and ``classes`` if it accepts them.

    Raises:
        ValueError: the class or function requires other arguments, fails, or does not return an ``nn.Module``.
    """
    available = {"input_shape": input_shape, "classes": classes}
    signature = _inspect_signature(factory, spec)
    arguments = {name: value for name, value in available.items() if name in signature.parameters}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{spec} must take (input_shape, classes) or no arguments. Got {signature} instead."
        ) from error
    try:
        model = factory(**arguments)
    except Exception as error:  # user code can raise anything
        raise ValueError(f"{spec} failed when called ({type(error).__name__}: {error}). Correct the file.") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must return a torch.nn.Module. Got a {type(model).__name__} instead.")
    return model


def _inspect_signature(factory: Any, spec: str) -> inspect.Signature:
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ValueError(
            f"{spec} must be a class or a function that returns a model. Got a {type(factory).__name__} instead."
        )
    return inspect.signature(factory)
