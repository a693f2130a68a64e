"""The manifest's entries on a run: its task, the preprocessing of its inputs, and the architectures of its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, unwrap_subsets
from kd.deploy.manifest import MODES, RESIZING, channel_axis
from kd.models.networks import CNN, MLP, ConvNet


def describe_task(dataset: Dataset[Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return the manifest's entries ``task`` and ``preprocessing``.

    ``preprocessing`` is None if the normalisation is not the same for all values of a channel or feature.

    Args:
        dataset: a split of the run, normalised; samples (input, …).
        classes: class names in label order.
    """
    base, _ = unwrap_subsets(dataset)
    example: Tensor = dataset[0][0]
    shape = tuple(example.shape)
    stored = base.inputs.dtype if isinstance(base, ArrayDataset) else example.dtype
    task = {
        "input_shape": list(shape),
        "input_dtype": str(stored).removeprefix("torch."),
        "noun": "images" if len(shape) == 3 else "items",
        "classes": list(classes),
    }
    return {"task": task, "preprocessing": _describe_preprocessing(base, shape)}


def _describe_preprocessing(base: object, shape: tuple[int, ...]) -> dict[str, Any] | None:
    # Users' own datasets and tokens are not normalised.
    is_bytes, moments = False, list[list[float] | None]([[], []])
    if isinstance(base, ArrayDataset) and base.inputs.dtype != torch.int64:
        is_bytes = base.inputs.dtype == torch.uint8
        moments = [_per_channel(base.mean, shape, 0.0), _per_channel(base.std, shape, 1.0)]
    if None in moments:
        return None
    mode = MODES.get(shape[0]) if is_bytes and len(shape) == 3 else None
    resize = {"height": shape[1], "width": shape[2], "how": RESIZING} if mode else None
    return {"scale": 255 if is_bytes else 1, "mean": moments[0], "std": moments[1], "mode": mode, "resize": resize}


def _per_channel(value: float | Tensor | None, shape: tuple[int, ...], otherwise: float) -> list[float] | None:
    """Return a value for each channel or feature; None if values differ within one."""
    value = otherwise if value is None else value
    full = torch.as_tensor(value).expand(shape)
    rows = full.movedim(channel_axis(shape), 0).flatten(1) if len(shape) > 1 else full[:, None]
    if not (rows == rows[:, :1]).all():
        return None
    return [value] * len(rows) if isinstance(value, float) else rows[:, 0].tolist()


def describe_architecture(model: nn.Module) -> str | None:
    """Return the specification of a built-in network for ``kd.models.build.build``; None for any other model."""
    for network in (MLP, ConvNet, CNN):
        if isinstance(model, network) and type(model).forward is network.forward:
            kind, widths = _list_widths(model)
            return f"{kind}:{','.join(map(str, widths))}"
    return None


def _list_widths(model: MLP | ConvNet | CNN) -> tuple[str, list[int]]:
    if isinstance(model, MLP):
        layers = [model.hidden, *(layer for layer in model.deeper if isinstance(layer, nn.Linear))]
        return "mlp", [layer.out_features for layer in layers]
    if isinstance(model, ConvNet):
        return "convnet", [layer.out_channels for layer in (model.conv1, model.conv2, model.conv3)]
    return "cnn", [len(next(model.layer1.parameters()))]
