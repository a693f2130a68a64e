"""Classifiers in ONNX files as teachers: run by ONNX Runtime on the CPU, without gradients; needs the extra ``onnx``.

    teacher = load_onnx("teacher.onnx", input_shape=(3, 32, 32), classes=10)

See ``kd.teachers.onnx_graph`` for the checks of the file and the choice of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from kd.checks import require_finite_logits
from kd.console import say
from kd.losses.logit_kind import are_probabilities
from kd.storage.files import sha256
from kd.storage.untrusted import read_bytes
from kd.teachers.class_order import require_same_classes
from kd.teachers.onnx_graph import DTYPES, Graph, count_weights, make_session, parse_model, read_graph

SIZE_LIMIT = 2**31 - 1  # bytes; no ONNX file without external data can be larger
FLOOR = 1e-6  # lower bound of probabilities before the logarithm, as in files of probabilities
LARGEST_BATCH = 32  # samples of one run; larger ones are hardly faster on a CPU, and need more memory
_UINT8 = 2  # onnx.TensorProto.UINT8
_PROBED = 8  # samples of random numbers, by which probabilities are recognised

# Sessions hold memory outside of Python and cannot be pickled. They are not stored in the model, so that its copies,
# pickles and keys of steps depend only on the file's content.
_SESSIONS: WeakKeyDictionary[nn.Module, tuple[int, Any]] = WeakKeyDictionary()


class OnnxTeacher(nn.Module):
    """A classifier in an ONNX file, without parameters of torch: inputs [B, ...] to logits [B, K] float32.

    The bytes of the file are a buffer and therefore part of ``state_dict()``. The graph runs on the CPU with torch's
    number of threads; gradients do not pass through it.

    Args:
        content: the ONNX file.
        graph: its input and its output (``kd.teachers.onnx_graph.read_graph``).
        is_probability: whether the output holds probabilities, whose logarithm is returned, clipped at ``FLOOR``.
    """

    def __init__(self, content: bytes, graph: Graph, *, is_probability: bool = False) -> None:
        super().__init__()
        self.graph, self.is_probability = graph, is_probability
        self.file: Tensor
        self.register_buffer("file", torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()))

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one input as this model takes it, channels first; None where any length is accepted."""
        return self.graph.input_shape

    @property
    def stored_parameters(self) -> int:
        """Number of weights in the file; see ``kd.evaluation.metrics.count_parameters``."""
        return count_weights(bytes(self.file.cpu().numpy()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [B, K] of inputs [B, ...], on the device of the inputs.

        Raises:
            ValueError: the graph does not accept inputs of this shape or type, or fails on them.
        """
        rows = self._arrange(inputs.detach().cpu())
        size = self.graph.batch_size or LARGEST_BATCH
        outputs = torch.cat([self._run(chunk, size) for chunk in rows.split(size)])  # type: ignore[no-untyped-call]
        logits = outputs.clamp(min=FLOOR).log() if self.is_probability else outputs
        return logits.to(inputs.device)

    def _arrange(self, inputs: Tensor) -> Tensor:
        """Return the inputs in the graph's shape and dtype."""
        expected, dtype = self.graph.input_shape, DTYPES[self.graph.input_type]
        if len(expected) == 2 and inputs.ndim == 4 and inputs.shape[1] == 1:
            inputs = inputs.squeeze(1)  # grey images without an axis of channels, as Keras's networks for MNIST take
        shape = tuple(inputs.shape[1:])
        if len(expected) == 1 and len(shape) > 1 and expected[0] in (None, int(np.prod(shape))):
            inputs = inputs.flatten(1)
        elif len(shape) != len(expected) or any(e not in (None, s) for e, s in zip(expected, shape, strict=True)):
            raise ValueError(
                f"the ONNX teacher takes inputs {describe_shape(expected)}{self.graph.layout_note}. Got "
                f"{list(shape)}. Give its inputs with --teacher-input size=… channels=…, the data this size "
                "with --image-size, or export the teacher for inputs of this shape."
            )
        if self.graph.is_channels_last:
            inputs = inputs.movedim(1, -1)
        if inputs.is_floating_point() and not dtype.is_floating_point:
            inputs = _round_to_integers(inputs, dtype)
        elif dtype.is_floating_point and not inputs.is_floating_point() and inputs.dtype != torch.uint8:
            raise ValueError(
                f"the ONNX teacher takes numbers of {dtype}. Got integers of {inputs.dtype}, which are tokens. Store "
                "quantities as float32, or export a teacher with an embedding."
            )
        return inputs.to(dtype)

    def _run(self, chunk: Tensor, size: int) -> Tensor:
        """Run the graph on at most ``size`` samples; a smaller chunk is padded if the batch size is fixed."""
        missing = size - len(chunk) if self.graph.batch_size else 0
        padded = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])]) if missing else chunk
        try:
            (output,) = self._session().run([self.graph.output], {self.graph.input: padded.contiguous().numpy()})
        except Exception as error:  # ONNX Runtime's own types, one for each kind of failure
            reason = str(error).strip().split("\n", 1)[0].removesuffix(".")
            raise ValueError(
                f"the ONNX teacher fails on a batch {list(padded.shape)} of {padded.dtype}: {reason}. Check its input "
                "shape, and export it with a dynamic batch dimension."
            ) from error
        values = torch.from_numpy(np.asarray(output)).float()
        if values.ndim < 2 or len(values) != len(padded) or values.shape[1:].numel() != values.shape[1]:
            raise ValueError(
                f"output {self.graph.output!r} of the ONNX teacher must be logits [{len(padded)}, K]. Got "
                f"{list(values.shape)}. Choose another output with FILE.onnx::OUTPUT."
            )
        return values.flatten(1)[: len(chunk)]

    def _session(self) -> Any:
        threads = torch.get_num_threads()
        known, session = _SESSIONS.get(self, (0, None))
        if session is None or known != threads:
            session = make_session(bytes(self.file.cpu().numpy()), self.graph.output, threads)
            _SESSIONS[self] = threads, session
        return session

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        _SESSIONS.pop(self, None)  # of the content before

    def extra_repr(self) -> str:
        return f"input={self.graph.input!r}, output={self.graph.output!r}"


def _round_to_integers(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return whole numbers, for a graph of bytes or other integers."""
    rounded = inputs.round()
    in_range = dtype != torch.uint8 or (len(inputs) > 0 and float(inputs.min()) > -0.5 and float(inputs.max()) < 255.5)
    if not in_range or not torch.allclose(rounded, inputs, rtol=0, atol=1e-2):
        raise ValueError(
            f"the ONNX teacher takes whole numbers of {dtype}. Got values from {float(inputs.min()):.3g} to "
            f"{float(inputs.max()):.3g}: the inputs are normalised. Give its inputs with --teacher-input 0-255, or "
            "export it for inputs of float32."
        )
    return rounded


def load_onnx(
    path: Path | str,
    *,
    input_shape: Sequence[int],
    classes: int | None = None,
    output: str = "",
    example: Tensor | None = None,
) -> OnnxTeacher:
    """Load a classifier from an ONNX file that contains all its weights, and print which output is used.

    This is the output named ``logits``, or the only output [N, K]. If it is a softmax, the input of the softmax is used
    instead, so that the logits are exact. Other probabilities are converted by the logarithm.

    Args:
        input_shape: shape of one input of the data, for dimensions that the graph leaves open.
        classes: number of classes of the data; None does not check it.
        output: name of the output; "" chooses it.
        example: an input of the data; None uses random numbers of ``input_shape``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no ONNX model that can be used, has several possible outputs or another number of
            classes, refers to other files or to operators that ONNX Runtime lacks.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    path = Path(path)
    content = read_bytes(path, limit=SIZE_LIMIT, because=", the most that an ONNX file can hold")
    try:
        graph = read_graph(content, input_shape=tuple(input_shape), classes=classes, output=output)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a teacher: {error}") from error
    inputs = _make_inputs(graph, tuple(input_shape), example)
    teacher = _without_softmax(content, graph, inputs) or OnnxTeacher(content, graph.whole)
    values, graph = teacher(inputs), teacher.graph
    require_finite_logits(f"outputs of {path}", values, "Check the file.")
    teacher.is_probability = are_probabilities(values)
    say(f"{path}: {_describe(graph, teacher.is_probability)}; SHA-256 {sha256(content)[:12]}")
    if classes is not None:
        otherwise = "or save its features and fit a head on them with --teacher embeddings=FILE"
        require_same_classes(str(path), values.shape[1], classes, otherwise=otherwise)
    return teacher


def takes_bytes(path: Path | str) -> bool:
    """Return whether the input of an ONNX file has the type uint8, for stored pixels.

    Raises:
        OSError, ValueError, MissingExtraError: see ``load_onnx``.
    """
    graph = parse_model(read_bytes(Path(path), limit=SIZE_LIMIT)).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [value.type.tensor_type.elem_type for value in graph.input if value.name not in weights] == [_UINT8]


def _without_softmax(content: bytes, graph: Graph, inputs: Tensor) -> OnnxTeacher | None:
    """Return the teacher without its softmax; None if the values of the output are not a softmax."""
    if not graph.softmax:
        return None
    teacher, outputs = OnnxTeacher(content, graph), OnnxTeacher(content, graph.whole)(inputs)
    try:
        logits = teacher(inputs)
    except ValueError:  # a tensor of another shape or type
        return None
    same = logits.shape == outputs.shape and torch.allclose(logits.softmax(dim=1), outputs, rtol=1e-2, atol=1e-4)
    return teacher if same else None


def _make_inputs(graph: Graph, input_shape: tuple[int, ...], example: Tensor | None) -> Tensor:
    """Return inputs [B, ...] to try the graph on: an example of the data if its type needs one, else random numbers."""
    lengths = list(graph.input_shape)
    if len(lengths) == 2 and len(input_shape) == 3 and input_shape[0] == 1:
        input_shape = input_shape[1:]  # grey images without an axis of channels
    if len(lengths) == len(input_shape):
        lengths = [own if own is not None else given for own, given in zip(lengths, input_shape, strict=True)]
    elif len(lengths) == 1:
        lengths = [int(np.prod(input_shape))]
    shape = [length for length in lengths if length is not None]
    if len(shape) < len(lengths):
        raise ValueError(
            f"the ONNX teacher takes inputs {describe_shape(graph.input_shape)}{graph.layout_note}. The data has "
            f"{list(input_shape)}. Export the teacher for inputs of this shape."
        )
    if DTYPES[graph.input_type].is_floating_point:
        return torch.randn(_PROBED, *shape, generator=torch.Generator().manual_seed(0))
    if DTYPES[graph.input_type] == torch.uint8:
        return torch.randint(0, 256, (_PROBED, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    if example is not None and not example.is_floating_point() and list(example.shape) == shape:
        return example[None]
    return torch.zeros(1, *shape, dtype=torch.int64)


def _describe(graph: Graph, is_probability: bool) -> str:
    """Return input and output in words."""
    kind = DTYPES[graph.input_type]
    batch = f", {graph.batch_size} at a time" if graph.batch_size else ""
    result = f"output {graph.output!r}"
    if graph.softmax:
        result = f"the input of the softmax before output {graph.softmax!r} as logits"
    elif is_probability:
        result += ", whose values are probabilities, as logits by the logarithm"
    return f"inputs {describe_shape(graph.input_shape)} of {kind}{graph.layout_note}{batch}, {result}"


def describe_shape(shape: Sequence[int | None]) -> str:
    """Return a shape as text, with ? for a dimension of any length."""
    return "[" + ", ".join("?" if length is None else str(length) for length in shape) + "]"
