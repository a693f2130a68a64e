"""Conversion of a trained network to the formats of ``kd export``. Every result is a file's content."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from kd.deploy.deployed import Deployed
from kd.imports import import_extra

# File of each format. ONNX files hold preprocessing and softmax too; .safetensors holds the weights only.
FILES: Mapping[str, str] = {
    "onnx": "model.onnx",
    "int8": "model.int8.onnx",
    "safetensors": "model.safetensors",
    "pt2": "model.pt2",
}
INPUTS, PROBABILITIES, LOGITS = "inputs", "probabilities", "logits"  # names in the graph
_CALIBRATION_BATCH = 32
# Layers with weights, and layers that pass 8-bit values on. The others stay in float32: softmax, and the normalisation
# of inputs (Cast, Mul, Sub), whose range differs from that of all layers.
_QUANTISED = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool"),
    *("GlobalAveragePool", "Reshape", "Flatten", "Transpose"),
]

# By a part of the exporter's error.
_REMEDIES = {
    "DataDependent": "Its forward branches on values of its inputs: compute both branches, and choose with torch.where",
    "specialized it to be a constant": "Its forward fixes the size of the batch, for example by int(x.shape[0]): use "
    "x.shape[0] itself, or x.flatten(1)",
}


class ConversionError(ValueError):
    """A network cannot be converted to a format. The message names the format and the exporter's reason."""


def to_onnx(deployed: nn.Module, example: Tensor) -> bytes:
    """Return an ONNX file in float32, with a dynamic batch dimension.

    Args:
        deployed: a ``Deployed``, or a copy of one with other layers (``kd.deploy.quantised.for_onnx``).
        example: [N, …], a batch of at least two raw inputs.

    Raises:
        ConversionError: the network cannot be converted.
        MissingExtraError: the extra ``export`` is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        _import(module)
    batch = {"inputs": {0: torch.export.Dim("batch")}}
    with _explain("onnx"), quiet():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUTS],
            output_names=[PROBABILITIES, LOGITS],
            dynamic_shapes=batch,
        )
        assert program is not None
        return _without_traces(program.model_proto)


def _without_traces(model: Any) -> bytes:
    """Return the model without the exporter's notes, among them paths of source files on this machine."""
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    content: bytes = model.SerializeToString()
    return content


def to_int8(onnx: bytes, calibration: Tensor) -> bytes:
    """Return an ONNX file with 8-bit weights and activations: QDQ format, weights per channel, static ranges.

    Weights use 7 of their 8 bits. With 8 bits, sums would saturate on processors without VNNI instructions, and the
    file may run on another machine than the one that checked it.

    Args:
        onnx: content from ``to_onnx``.
        calibration: [N, …], raw training inputs, which determine the ranges of the activations.

    Raises:
        ConversionError: the network cannot be quantised.
        MissingExtraError: the extra ``export`` is not installed.
    """
    quantization, preprocess = (_import(f"onnxruntime.quantization{name}") for name in ("", ".shape_inference"))
    with _explain("int8"), quiet(), TemporaryDirectory() as name:
        folder = Path(name)
        source, fused, target = (folder / f"{name}.onnx" for name in ("source", "fused", "target"))
        source.write_bytes(onnx)
        preprocess.quant_pre_process(str(source), str(fused), skip_symbolic_shape=True)  # fuses batch norms
        quantization.quantize_static(
            str(fused),
            str(target),
            _Reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Logits of 8 bits would tie. Inputs of the next layer are quantised anyway.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        return target.read_bytes()


class _Reader:
    """Calibration inputs in batches, as onnxruntime's ``CalibrationDataReader``."""

    def __init__(self, inputs: Tensor) -> None:
        starts = range(0, len(inputs), _CALIBRATION_BATCH)
        self._batches = (inputs.numpy()[start : start + _CALIBRATION_BATCH] for start in starts)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUTS: batch}


def to_safetensors(network: nn.Module) -> bytes:
    """Return the network's weights, without preprocessing, as a ``.safetensors`` file.

    Raises:
        MissingExtraError: the extra ``safetensors`` is not installed.
    """
    library = import_extra("safetensors.torch", library="safetensors", name="export", needed_for="safetensors")
    # Copies: the library refuses tensors that share memory, such as tied weights.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    content: bytes = library.save(state)
    return content


def to_pt2(deployed: Deployed, example: Tensor) -> bytes:
    """Return a program of ``torch.export``, with a dynamic batch dimension.

    Args:
        example: see ``to_onnx``.

    Raises:
        ConversionError: the network cannot be converted.
    """
    with _explain("pt2"), quiet():
        program = torch.export.export(deployed, (example,), dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}})
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names source files of this machine
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return buffer.getvalue()


def _import(module: str) -> Any:
    library = module.partition(".")[0]
    return import_extra(module, library=library, name="export", needed_for="kd export to ONNX")


@contextmanager
def _explain(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the exporters raise errors of any type
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outer errors name only the exporter's step
            cause = cause.__cause__
        reason = next((line for line in str(cause).splitlines() if line.strip()), "").strip()
        remedy = next(
            (f". {text}" for part, text in _REMEDIES.items() if part in f"{type(cause).__name__} {cause}"), ""
        )
        raise ConversionError(
            f"this network cannot be converted to {name} ({type(cause).__name__}: {reason[:300]}){remedy}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Discard prints, warnings and log records inside the block: the exporters report every step."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
