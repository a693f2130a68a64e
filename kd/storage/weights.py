"""Weights as files: written with the same bytes for the same weights, read with nothing but ``weights_only=True``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd.storage.untrusted import parse_safetensors, read_bytes, rebuild_archive, require_plain_tensors


def weights_bytes(model: nn.Module) -> bytes:
    """The model's plain ``state_dict`` as the bytes of a ``.pth`` file; the same weights give the same bytes."""
    return state_bytes(model.state_dict())


def state_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A ``state_dict`` as the bytes of a ``.pth`` file.

    Through a buffer, because ``torch.save`` puts the file's own name into the file. Contiguous copies on the CPU, so
    that neither a memory format nor a device of the training is carried over (``contiguous()`` would not do: it keeps
    the strides of dimensions of size 1).
    """
    plain = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a ``state_dict`` file into the model, in place. Everything is checked before a single weight is changed.

    Args:
        path: as ``torch.save`` has written it, or ``.safetensors`` (extra ``safetensors``).

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, hostile, not finite, or does not fit the model: names, shapes and types exactly.
        MissingExtraError: it is a ``.safetensors`` file, and the extra is not installed.
    """
    with naming_weights(model, path):
        state = read_state(path, model.state_dict())
        require_fitting(state, model.state_dict())
    model.load_state_dict(state)


@contextmanager
def naming_weights(model: nn.Module, path: Path | str) -> Iterator[None]:
    """Say in a ``ValueError`` which file is refused, for which model. Nothing inside the block changes the model."""
    try:
        yield
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise ValueError(
            f"{path} does not hold weights of a {type(model).__name__}: {reason}. The model was not changed."
        ) from error


def read_state(path: Path | str, expected: Mapping[str, Tensor], *, spare: int = 1) -> Any:
    """What is in a file of weights, not yet compared with what is expected; only its size is.

    Args:
        spare: megabytes that it may have beyond those of the tensors expected.

    Raises:
        OSError, ValueError, MissingExtraError: as ``load_weights``.
    """
    names = 1000 * len(expected) + 1_000_000 * spare
    limit = names + sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    content = read_bytes(Path(path), limit=limit, because=f", the model's own size and {spare} MB")
    if Path(path).suffix == ".safetensors":
        return parse_safetensors(content, header_limit=names)
    return load_tensors(content)


def require_fitting(found: object, expected: Mapping[str, Tensor]) -> None:
    """What was found is a dictionary of tensors with these names, shapes and types exactly, all of it finite.

    Args:
        found: as ``load_tensors`` gives it.
        expected: what it is to replace, such as a model's ``state_dict()``, on any device.

    Raises:
        ValueError: saying what it should be, and what it is instead.
    """
    if not isinstance(found, dict):
        raise ValueError(f"it should hold {sorted(expected)}. Got {type(found).__name__} instead")
    if set(found) != set(expected):
        raise ValueError(_other_names(found, expected))
    for name, tensor in expected.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            got = f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} should be {list(tensor.shape)} of {tensor.dtype}. Got {got}")
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")


def load_tensors(content: bytes) -> Any:
    """What ``torch.save`` wrote: tensors, numbers, strings and containers of them, on the CPU. Nothing in it can run.

    torch never sees these bytes, only an archive that was built anew from what is in them.

    Raises:
        ValueError: damaged, compressed, overlapping, with an object that is not data, or with a tensor that is not
            dense or is a view larger than what is stored.
    """
    try:
        archive = io.BytesIO(rebuild_archive(content))
        loaded = torch.load(archive, map_location="cpu", weights_only=True)
        require_plain_tensors(loaded)
    except Exception as error:  # zipfile and torch raise a different type for each kind of damage
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not a file of tensors ({type(error).__name__}: {reason})") from error
    return loaded


def _other_names(found: Mapping[object, object], expected: Mapping[str, Tensor]) -> str:
    """What it should hold and what it does instead: all names of a small model, the differing ones of a large one."""
    large = len(expected) > 12
    wanted = sorted(name for name in expected if not large or name not in found)
    got = sorted(_shown(name) for name in found if not large or name not in expected)
    message = f"it should hold {_some(wanted)}. Got {_some(got)} instead"
    for name, value in found.items():
        if isinstance(value, Mapping) and set(value) == set(expected):
            return f"{message}. Its entry {_shown(name)!r} has these: save that alone"
    if {f"module.{name}" for name in expected} == set(found):
        return f"{message}. It is that of an nn.DataParallel: save model.module.state_dict()"
    return message


def _some(names: list[str]) -> str:
    return f"{names[:12]} and {len(names) - 12} more" if len(names) > 12 else str(names)


def _shown(key: object) -> str:
    return key if isinstance(key, str) else type(key).__name__  # whatever else it is may be long to print
