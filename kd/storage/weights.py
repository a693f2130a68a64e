"""Weights files: reproducible bytes on writing, ``weights_only=True`` on reading."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kd.console import say
from kd.storage.checkpoints import FoundWeights, describe_mismatch, find_weights, holds_tensors
from kd.storage.file_kind import explain_arrays, explain_file
from kd.storage.files import sha256
from kd.storage.resources import is_out_of_memory, require_memory
from kd.storage.untrusted import (
    Placeholder,
    make_dictionary,
    parse_safetensors,
    read_bytes,
    rebuild_archive,
    require_plain_tensors,
)

# A checkpoint may hold this many times the model: weights, their averages, the best ones, moments of an optimizer.
_COPIES = 8


def weights_bytes(model: nn.Module) -> bytes:
    """Return the model's plain ``state_dict`` as the bytes of a ``.pth`` file; equal weights give equal bytes."""
    return state_bytes(model.state_dict())


def state_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Return a ``state_dict`` as the bytes of a ``.pth`` file.

    A buffer is used because ``torch.save`` stores the file's name inside the file. Tensors are copied to the CPU in
    contiguous format, so that the bytes do not depend on memory format or device. ``contiguous()`` is not enough: it
    keeps the strides of dimensions of size 1.
    """
    plain = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def require_dense_state(name: str, model: nn.Module) -> None:
    """Check that the model's ``state_dict`` can be saved and loaded safely: it holds dense tensors with data.

    Args:
        name: name of the model in errors.

    Raises:
        ValueError: an entry is no tensor, as in quantised modules and by ``get_extra_state``, or one of another kind.
    """
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor) and (is_lazy(value) or _is_dense(value)):
            continue
        got = f"{value.layout}, {value.dtype}, on {value.device}" if isinstance(value, Tensor) else type(value).__name__
        advice = "Store it as a dense tensor in a buffer, or remove get_extra_state()"
        if "_packed_params" in key or (isinstance(value, Tensor) and value.is_quantized):
            advice = "The model is quantised: use its float version, or export it and pass --teacher FILE.onnx"
        elif isinstance(value, Tensor) and value.is_meta:
            advice = "Build the model on the CPU, outside torch.device('meta')"
        raise ValueError(
            f"the state_dict of {name} must hold dense tensors with data, so that it can be saved and loaded safely. "
            f"Got {got} under {key!r}. {advice}."
        )


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def load_weights(model: nn.Module, path: Path | str, *, entry: str = "", exact: bool = False) -> None:
    """Load a ``state_dict`` file into the model, in place. All checks are done before any weight is changed.

    The weights may lie inside the checkpoint of a training program (``kd.storage.checkpoints.find_weights``); a printed
    line then says what was stripped.

    Args:
        path: a file written by ``torch.save``, or a ``.safetensors`` file (extra ``safetensors``).
        entry: name of the weights if the checkpoint holds several, such as ``state_dict_ema``.
        exact: whether the file must hold this ``state_dict`` and nothing else. Further entries may belong to a part of
            the model that is missing here, such as its own normalisation.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged or malicious, has values that are not finite, does not match the model's names,
            shapes and dtypes exactly, or holds several weights that do.
        MissingExtraError: the file is ``.safetensors`` and the extra is not installed.
    """
    with add_file_to_errors(model, path):
        found = read_weights(path, model.state_dict(), entry=entry)
        if exact and found.stripped:
            raise ValueError(f"it holds more than these: {'; '.join(found.stripped)}")
        require_fitting(found.state, model.state_dict())
    model.load_state_dict(found.state)
    say_stripped(path, found)


def say_stripped(path: Path | str, found: FoundWeights) -> None:
    """Print a line on what was stripped from a checkpoint to get its weights, if anything was."""
    if found.stripped:
        say(f"{path}: {'; '.join(found.stripped)}")


@contextmanager
def add_file_to_errors(model: nn.Module, path: Path | str) -> Iterator[None]:
    """Add the file and the model to a ``ValueError`` raised inside the block. The block must not change the model."""
    try:
        yield
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise ValueError(
            f"{path} does not hold weights of a {type(model).__name__}: {reason}. The model was not changed."
        ) from error


def read_weights(path: Path | str, expected: Mapping[str, Tensor], *, entry: str = "", spare: int = 1) -> FoundWeights:
    """Read the weights in a file; their names are the expected ones, shapes and dtypes may differ.

    Args:
        entry: see ``load_weights``.
        spare: megabytes allowed beyond the size of a checkpoint with the expected tensors.

    Raises:
        OSError, ValueError, MissingExtraError: see ``load_weights``.
    """
    overhead = 1000 * len(expected) + 1_000_000 * spare
    limit = overhead + _COPIES * sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    content = read_bytes(Path(path), limit=limit, because=f", {_COPIES} times the model's size and {spare} MB")
    if Path(path).suffix == ".safetensors":
        try:
            loaded: Any = parse_safetensors(content, header_limit=overhead)
        except ValueError as error:
            if explanation := explain_file(content, safetensors=True):
                raise ValueError(explanation) from error
            raise
    else:
        loaded = load_tensors(content, placeholders=True)
    try:
        found = find_weights(loaded, expected, entry=entry)._replace(sha256=sha256(content))
    except ValueError as error:
        is_safetensors = Path(path).suffix == ".safetensors"
        # Without tensors it may be a model, of which none is read.
        explanation = None if holds_tensors(loaded) else explain_file(content, safetensors=is_safetensors)
        if explanation is None:
            raise
        raise ValueError(explanation) from error
    values = list(found.state.values()) if isinstance(found.state, dict) else []
    if b"numpy" in content and values and all(isinstance(value, Placeholder) for value in values):
        raise ValueError(explain_arrays())
    return found


def require_fitting(state: object, expected: Mapping[str, Tensor]) -> None:
    """Check that a state is a dictionary of finite tensors with exactly the expected names, shapes and dtypes.

    Values may be infinite or NaN where the expected ones are too, such as the minus infinity of an attention mask.

    Args:
        state: result of ``load_tensors``.
        expected: tensors to be replaced, such as a model's ``state_dict()``, on any device.

    Raises:
        ValueError: states the expected and the actual value.
    """
    if not isinstance(state, dict):
        raise ValueError(f"it should hold {sorted(expected)}. Got {type(state).__name__} instead")
    if set(state) != set(expected):
        raise ValueError(describe_mismatch(state, expected))
    for name, tensor in expected.items():
        value = state[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            got = f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            same_shape = isinstance(value, Tensor) and value.shape == tensor.shape
            advice = f". Save the tensors as {tensor.dtype}: tensor.to({tensor.dtype})" if same_shape else ""
            raise ValueError(f"{name} should be {list(tensor.shape)} of {tensor.dtype}. Got {got}{advice}")
        if not (value.isfinite() | ~tensor.isfinite().cpu()).all():
            raise ValueError(f"{name} has values that are not finite")


def load_tensors(content: bytes, *, placeholders: bool = False) -> Any:
    """Load tensors and plain data written by ``torch.save`` to the CPU, without running any code.

    torch never parses these bytes, only an archive rebuilt from their validated members.

    Args:
        placeholders: see ``kd.storage.untrusted.rebuild_archive``.

    Raises:
        ValueError: the archive is damaged or compressed, its members overlap, or it contains objects other than data,
            tensors that are not dense, or tensors larger than their storage.
    """
    try:
        require_memory(2 * len(content), "a file of tensors")  # the rebuilt archive, and the tensors
        archive = io.BytesIO(rebuild_archive(content, placeholders=placeholders))
        with torch.serialization.safe_globals([Placeholder, make_dictionary] if placeholders else []):
            loaded = torch.load(archive, map_location="cpu", weights_only=True)
        if isinstance(loaded, Placeholder):
            raise ValueError("it is an object, not tensors")  # ``explain_file`` knows which
        require_plain_tensors(loaded)
    except Exception as error:  # zipfile and torch raise a different type for each kind of damage
        if is_out_of_memory(error):  # tells nothing about the content
            raise
        if explanation := explain_file(content):
            raise ValueError(explanation) from error
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not a file of tensors ({type(error).__name__}: {reason})") from error
    return loaded
