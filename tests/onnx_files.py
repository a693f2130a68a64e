"""Tiny ONNX classifiers for the tests: a linear layer, with what real files have around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn


def linear(features: int, classes: int, *, seed: int = 0) -> nn.Linear:
    """Return a linear layer with weights that the seed determines."""
    layer = nn.Linear(features, classes)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer


def write_onnx(
    path: Path,
    layer: nn.Linear,
    *,
    shape: tuple[int | str, ...],
    after: str = "",
    kind: str = "FLOAT",
    transpose: tuple[int, ...] | None = None,
    outputs: tuple[str, ...] = ("scores",),
    domain: str = "",
) -> Path:
    """Write ``after(layer(flatten(transpose(x))))``.

    Args:
        shape: of the input, with the batch dimension first; texts are dimensions of any length.
        after: operator after the layer, such as Softmax; "" for none.
        kind: of the input.
        transpose: permutation of the input's dimensions before it is flattened.
        outputs: names of outputs; the first is the result, ``features`` the flattened input, ``copy`` the result again.
        domain: of the operator ``after``.
    """
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Cast", ["x"], ["cast"], to=types.FLOAT)]
    nodes += [helper.make_node("Transpose", ["cast"], ["moved"], perm=transpose or range(len(shape)))]
    nodes += [helper.make_node("Flatten", ["moved"], ["features"], axis=1)]
    nodes += [helper.make_node("Gemm", ["features", "w", "b"], ["raw"], transB=1)]
    nodes += [helper.make_node(after or "Identity", ["raw"], [outputs[0]], domain=domain)]
    nodes += [helper.make_node("Identity", [outputs[0]], [name]) for name in outputs[1:] if name != "features"]
    weights = [("w", layer.weight), ("b", layer.bias)]
    widths = {"features": layer.in_features}
    batch = shape[0] if isinstance(shape[0], int) else "n"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", getattr(types, kind), shape)],
        [
            helper.make_tensor_value_info(name, types.FLOAT, [batch, widths.get(name, layer.out_features)])
            for name in outputs
        ],
        [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in weights],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


def edit(path: Path, change: Any) -> Path:
    """Apply a function to the model of a file, and write it again."""
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
    model = onnx.ModelProto()
    model.ParseFromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def log_shares(values: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return log-probabilities in float64, the same for logits that differ by a constant per row."""
    return np.asarray(values.double().log_softmax(dim=1).detach())
