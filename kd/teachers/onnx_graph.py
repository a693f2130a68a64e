"""ONNX graphs: the checks of an untrusted file, its single input, and the output that holds the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from kd.checks import did_you_mean
from kd.imports import import_extra

# Types of inputs as ONNX Runtime writes them.
DTYPES: Mapping[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_CHANNELS = (1, 3, 4)
_PASSED = ("Identity", "Cast")  # operators after a softmax that change no value


class Graph(NamedTuple):
    """Input and output of a classifier.

    Attributes:
        input: name of the input.
        input_type: a key of ``DTYPES``.
        input_shape: of one input, channels first; None where any length is accepted.
        is_channels_last: whether the graph itself takes images [N, H, W, C].
        batch_size: samples of each run if the graph fixes it; None if any number is accepted.
        output: name of the tensor of logits or probabilities.
        softmax: name of the output whose softmax is left out, judging by the operators; "" if there is none.
    """

    input: str
    input_type: str
    input_shape: tuple[int | None, ...]
    is_channels_last: bool
    batch_size: int | None
    output: str
    softmax: str = ""

    @property
    def whole(self) -> Graph:
        """The graph with the output of the file, softmax included."""
        return self._replace(output=self.softmax or self.output, softmax="")

    @property
    def layout_note(self) -> str:
        """Words about the order of dimensions, to follow a shape."""
        if len(self.input_shape) != 3:
            return ""
        return " (channels first here, last in the file)" if self.is_channels_last else " (channels first)"


def read_graph(content: bytes, *, input_shape: tuple[int, ...], classes: int | None, output: str = "") -> Graph:
    """Check an ONNX file, and find its input and the output that holds the logits.

    Args:
        content: of the file.
        input_shape: of one input of the data; decides the layout if both are possible.
        classes: number of the data's classes; decides between several outputs [N, K]. None if unknown.
        output: name of the output; "" chooses it.

    Raises:
        ValueError: the file is damaged, refers to other files, has operators that ONNX Runtime lacks, several inputs,
            or no output that can be chosen.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    model = parse_model(content)
    session = make_session(content, "", threads=1)
    name, kind, shape, batch_size = _find_input(session)
    is_channels_last = _is_channels_last(shape, input_shape)
    ordered = (shape[-1], *shape[:-1]) if is_channels_last else shape
    chosen = _find_output(session, classes, output)
    before = _find_softmax_input(model, chosen)
    return Graph(name, kind, ordered, is_channels_last, batch_size, before or chosen, chosen if before else "")


def parse_model(content: bytes) -> Any:
    """Return the ``onnx.ModelProto`` of a file after checking that all its tensors are inside.

    Raises:
        ValueError: the content is no ONNX model, or refers to other files.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    onnx = import_extra("onnx", library="ONNX", name="onnx", needed_for="--teacher FILE.onnx")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # of protobuf, whose implementations have their own types
        raise ValueError("it is no ONNX model, or damaged. Export it again.") from error
    if not model.graph.node:
        raise ValueError("it is no ONNX model, or one without operators. Export it again.")
    names = [tensor.name for tensor in _list_tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if names:
        raise ValueError(
            f"{len(names)} of its tensors are in other files, such as {names[0]!r}. Save the model as one file: "
            "onnx.save_model(onnx.load(FILE), NEW_FILE, save_as_external_data=False), or torch.onnx.export(…, "
            "external_data=False)."
        )
    return model


def _list_tensors(message: Any) -> Iterator[Any]:
    """Yield all tensors inside a protobuf message of ONNX, including nested graphs and functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        items = value if isinstance(value, (list, tuple)) or hasattr(value, "add") else [value]
        for item in items:
            if type(item).__name__ == "TensorProto":
                yield item
            elif hasattr(item, "ListFields"):
                yield from _list_tensors(item)


def count_weights(content: bytes) -> int:
    """Return the number of weights in an ONNX file: the values of floating-point tensors that are no single numbers.

    Quantized weights count too: 8-bit and 4-bit integers of two or more dimensions.

    Raises:
        ValueError, MissingExtraError: see ``parse_model``.
    """
    onnx = import_extra("onnx", library="ONNX", name="onnx", needed_for="--teacher FILE.onnx")
    kinds = onnx.TensorProto
    floats = {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    integers = {kinds.INT8, kinds.UINT8, kinds.INT4, kinds.UINT4}
    return sum(
        math.prod(tensor.dims)
        for tensor in _list_tensors(parse_model(content))
        if (tensor.data_type in floats and tensor.dims) or (tensor.data_type in integers and len(tensor.dims) > 1)
    )


def make_session(content: bytes, output: str, threads: int) -> Any:
    """Return a session of ONNX Runtime on the CPU, with deterministic kernels and no files written.

    Args:
        output: name of the tensor to return; an inner tensor is made an output. "" keeps the graph's outputs.
        threads: of each operator.

    Raises:
        ValueError: ONNX Runtime cannot run the graph, for example because of custom operators.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    runtime = import_extra("onnxruntime", library="ONNX Runtime", name="onnx", needed_for="--teacher FILE.onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False  # it would keep the memory of the largest batch
    options.log_severity_level = 4  # errors are raised as exceptions
    try:
        return runtime.InferenceSession(_expose(content, output), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own types, one for each kind of failure
        reason = " ".join(str(error).split()).rpartition(" : ")[2].removesuffix(".")
        raise ValueError(
            f"ONNX Runtime cannot run it ({reason}). Custom operators and newer ones than its own are not supported; "
            "export the model with standard operators."
        ) from error


def _expose(content: bytes, output: str) -> bytes:
    """Return the file with this tensor among the outputs."""
    model = parse_model(content)
    if not output or output in {value.name for value in model.graph.output}:
        return content
    model.graph.output.add().name = output
    exposed: bytes = model.SerializeToString()
    return exposed


def _find_input(session: Any) -> tuple[str, str, tuple[int | None, ...], int | None]:
    """Return name, type and shape of the input, and its batch size if it is fixed."""
    inputs = session.get_inputs()
    names = ", ".join(f"{value.name} {_describe_value(value)}" for value in inputs)
    if len(inputs) != 1:
        raise ValueError(f"it must have one input. Got {len(inputs)}: {names}. Export a model of one input.")
    (value,) = inputs
    if value.type not in DTYPES:
        raise ValueError(f"its input must be of one of {', '.join(DTYPES)}. Got {names}. Export it with another type.")
    lengths = [length if isinstance(length, int) and length > 0 else None for length in value.shape]
    if len(lengths) < 2:
        raise ValueError(f"its input must be a batch [N, ...] of known rank. Got {names}. Export it for batches.")
    return value.name, value.type, tuple(lengths[1:]), lengths[0]


def _is_channels_last(shape: tuple[int | None, ...], input_shape: tuple[int, ...]) -> bool:
    """Return whether images [a, b, c] have their channels last: by the data's shape, else by numbers of channels."""
    if len(shape) != 3:
        return False
    if len(input_shape) == 3:
        channels, *sides = input_shape
        first, last = (_fits(shape, order) for order in ((channels, *sides), (*sides, channels)))
        if first != last:
            return last
    return shape[2] in _CHANNELS and shape[0] not in _CHANNELS


def _fits(shape: tuple[int | None, ...], lengths: tuple[int, ...]) -> bool:
    return all(own in (None, given) for own, given in zip(shape, lengths, strict=True))


def _find_output(session: Any, classes: int | None, chosen: str) -> str:
    """Return the name of the output that holds the logits: the chosen one, ``logits``, or the only one [N, K]."""
    outputs = {value.name: value for value in session.get_outputs()}
    described = ", ".join(f"{name} {_describe_value(value)}" for name, value in outputs.items())
    if chosen:
        if chosen not in outputs:
            hint = did_you_mean(chosen, outputs, "Choose one of these.")
            raise ValueError(f"it has no output {chosen!r}. It has {described}. {hint}")
        if outputs[chosen].type not in _FLOATS:
            raise ValueError(f"output {chosen!r} cannot be logits [N, K]. It has {described}. Choose another.")
        return chosen
    tables = {name: value for name, value in outputs.items() if value.type in _FLOATS and _count_columns(value) != 0}
    if "logits" in tables:
        return "logits"
    fitting = [name for name, value in tables.items() if classes is not None and _count_columns(value) == classes]
    candidates = fitting if len(fitting) == 1 else list(tables)
    if len(candidates) == 1:
        return str(candidates[0])
    if not candidates:
        advice = "Export it with an output of numbers [N, K]"
        advice += ", without ZipMap (options={'zipmap': False} of skl2onnx)" if "seq(" in described else ""
        raise ValueError(f"none of its outputs can be logits [N, K]. It has {described}. {advice}.")
    raise ValueError(f"several of its outputs could be the logits: {described}. Choose one with FILE.onnx::OUTPUT.")


def _count_columns(value: Any) -> int | None:
    """Return K of an output [N, K], also with further dimensions of length 1; None if unknown, 0 if it has others."""
    shape = list(value.shape)
    if not shape:
        return None  # of unknown rank
    if len(shape) < 2 or any(length != 1 for length in shape[2:]):
        return 0
    return shape[1] if isinstance(shape[1], int) else None


def _describe_value(value: Any) -> str:
    shape = ", ".join("?" if not isinstance(length, int) else str(length) for length in value.shape)
    return f"[{shape}] of {value.type}"


def _find_softmax_input(model: Any, output: str) -> str:
    """Return the name of the tensor whose softmax seems to be the output; "" if there is none.

    A softmax is one operator, or exp(z) / sum as JAX writes it. Its axis and the sum are not checked here.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in _PASSED:
        node = producers.get(node.input[0])
    if node is not None and node.op_type == "Div":
        node = producers.get(node.input[0])
    if node is None or node.op_type not in ("Softmax", "Exp"):
        return ""
    return str(node.input[0]) if node.input[0] in producers else ""  # not an input of the graph
