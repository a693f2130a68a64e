"""A model from a short text: the toolkit's own, torchvision's, timm's, or one from a user's file.

    teacher = build("torchvision:resnet18", input_shape=(3, 32, 32), classes=10, seed=0)
    student = build("cnn:32", input_shape=(3, 32, 32), classes=10, seed=0)

Weights are always random, from the seed: nothing is downloaded. ``kd.teachers.load`` loads trained ones from a file.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean, require
from kd.imports import is_plugin, load_plugin
from kd.models.inference import evaluating
from kd.models.networks import CNN, MLP, ConvNet
from kd.models.zoo import timm_model, torchvision_model
from kd.seeding import seeded

ALLOWED = "convnet, mlp:256, mlp:512,256, cnn:32, torchvision:NAME, timm:NAME or FILE.py:NAME"
_KINDS = ("convnet", "mlp", "cnn", "torchvision", "timm")


def build(spec: str, *, input_shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The named model with random weights, for these inputs and classes, on the CPU, in training mode.

    Args:
        spec: ``convnet`` (images of at least 23 × 23 pixels), ``mlp:512,256`` (units of each hidden layer; inputs of
            any shape), ``cnn:32`` (maps of the first of three stages, ``layer1`` to ``layer3``),
            ``torchvision:resnet18``, ``timm:resnet18`` (extra ``timm``), or ``file.py:Name``: a class or function of
            the user's, called as ``Name(input_shape=…, classes=…)``, or without what it does not ask for. The file's
            code is run, and a line on the screen says so.
        input_shape: of one example: [C, H, W], [features], …
        classes: K, at least 2.
        seed: at least 0; the same seed gives the same weights. No generator of the caller's is touched.

    Raises:
        ValueError: the spec is none of these, or the model does not answer one example with K finite logits.
        MissingExtraError: a library of an extra is not installed.
        OSError: the user's file cannot be read.
    """
    shape = tuple(input_shape)
    require(
        bool(shape) and min(shape) >= 1, "input_shape", shape, "one or more whole numbers above 0", "no batch in it"
    )
    require(classes >= 2, "classes", classes, "a whole number of at least 2")
    with seeded(seed):
        model = _made(spec, shape, classes)
        require_logits_output(model, spec, shape, classes)
    return model


def require_logits_output(model: nn.Module, spec: str, input_shape: Sequence[int], classes: int) -> None:
    """Try the model on one random example in eval mode, which changes neither its weights nor its statistics.

    Raises:
        ValueError: it fails, or its output is not [1, classes] and finite; says what came out.
    """
    example = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    shown = f"{spec} was tried on one example {list(example.shape)}"
    try:
        with evaluating(model), torch.no_grad():
            output = model(example)
    except Exception as error:  # a model is anyone's code
        reason = str(error).split("\n", 1)[0].removesuffix(".")
        raise ValueError(
            f"{shown} and failed ({type(error).__name__}: {reason}). Choose a model for inputs of this shape, or "
            "change the data's: cnn:32 takes images of any size, mlp:256 inputs of any shape."
        ) from error
    if not isinstance(output, Tensor) or list(output.shape) != [1, classes]:
        raise ValueError(f"{shown} and must answer with logits [1, {classes}]. Got {_came_out(output)} instead.")
    if not output.isfinite().all():
        raise ValueError(f"{shown} and must answer with finite logits. Got {output.tolist()} instead.")


def _made(spec: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    if is_plugin(spec):
        return build_from_class(load_plugin(spec), spec, input_shape=shape, classes=classes)
    kind, colon, name = spec.partition(":")
    match kind:
        case "convnet" if not colon:
            return ConvNet(shape, classes)
        case "mlp":
            return MLP(*_numbers(spec, name), input_shape=shape, classes=classes)
        case "cnn":
            (width, *more) = _numbers(spec, name)
            require(not more, "the width in cnn:WIDTH", name, "one whole number above 0", "cnn:32 is usual")
            return CNN(width, shape, classes)
        case "torchvision":
            return torchvision_model(name, shape, classes)
        case "timm":
            return timm_model(name, shape, classes)
    raise ValueError(f"there is no model {spec!r}. {did_you_mean(kind, _KINDS, 'Choose another.')} Allowed: {ALLOWED}.")


def _numbers(spec: str, text: str) -> list[int]:
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(f"{spec!r} must name widths, whole numbers above 0: mlp:256, mlp:512,256 or cnn:32.")
    return numbers


def _came_out(output: Any) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"


def build_from_class(maker: Any, spec: str, *, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The model that a user's class or function makes: told ``input_shape`` and ``classes`` if it asks for them.

    Raises:
        ValueError: it cannot be called so, fails, or makes no ``nn.Module``.
    """
    told = {"input_shape": input_shape, "classes": classes}
    signature = _signature(maker, spec)
    asked = {name: value for name, value in told.items() if name in signature.parameters}
    try:
        signature.bind(**asked)
    except TypeError as error:
        raise ValueError(
            f"{spec} must take (input_shape, classes) or no arguments. Got {signature} instead."
        ) from error
    try:
        model = maker(**asked)
    except Exception as error:  # anyone's code
        raise ValueError(
            f"{spec} failed as it was called ({type(error).__name__}: {error}). Correct the file."
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must make a torch.nn.Module. Got a {type(model).__name__} instead.")
    return model


def _signature(maker: Any, spec: str) -> inspect.Signature:
    if not callable(maker) or isinstance(maker, nn.Module):
        raise ValueError(
            f"{spec} must be a class or a function that makes a model. Got a {type(maker).__name__} instead."
        )
    return inspect.signature(maker)
