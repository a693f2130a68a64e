"""Files: published whole or not at all, and weights read with nothing but ``weights_only=True``."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn


def publish(files: Mapping[Path, bytes]) -> None:
    """Write all files or none: a full disk or a kill while writing leaves every earlier file as it was.

    Each content goes to a temporary file in its target's folder and is flushed to disk; only when all are there are
    they renamed, which is atomic per file, and the folders flushed. Folders are made on demand.

    Raises:
        OSError: with the path, the bytes needed and the bytes free; no temporary file is left behind.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            staged[path] = _stage(path, content)
        for path, temporary in staged.items():
            temporary.replace(path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        _flush_folder(folder)


def require_writable(folder: Path) -> None:
    """Make the folder if it is not there, and prove that a file can be written into it.

    Raises:
        OSError: naming the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"cannot write into the folder {folder}: {reason}. Choose another one.") from error


def weights_bytes(model: nn.Module) -> bytes:
    """The model's plain ``state_dict`` as the bytes of a ``.pth`` file; the same weights give the same bytes.

    Through a buffer, because ``torch.save`` puts the file's own name into the file. Contiguous copies on the CPU, so
    that neither a memory format nor a device of the training is carried over.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a ``state_dict`` file into the model, in place; keys and shapes must fit exactly.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, holds something other than tensors, or does not fit the model.
    """
    content = Path(path).read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise ValueError(f"{path} does not hold weights of a {type(model).__name__}: {error}") from error


def sha256(content: bytes) -> str:
    """The SHA-256 of the content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _stage(path: Path, content: bytes) -> Path:
    # A fixed name: what a kill leaves behind, the next run overwrites instead of adding to it.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, _write_failed(path, len(content), error)) from error
    return temporary


def _write_failed(path: Path, needed: int, error: OSError) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free there"
    except OSError:
        free = "its folder cannot be reached"
    return (
        f"cannot write {path}: {error.strerror or error}. It needs {needed:,} bytes; {free}. "
        "Nothing was replaced: earlier results are as they were. Free space or choose another folder, and run again."
    )


def _flush_folder(folder: Path) -> None:
    """Make the renames durable. Windows cannot open a folder, and needs no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
