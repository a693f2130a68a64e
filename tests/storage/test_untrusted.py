"""Untrusted files contain plain data or raise an error; they never run code, fill the memory or change the model."""

from __future__ import annotations

import codecs
import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.storage.untrusted import read_bytes
from kd.storage.weights import load_tensors, require_fitting, weights_bytes
from tests.conftest import tiny_model


def save(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rezip(content: bytes, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> bytes:
    """Rewrite an archive, each member through ``change``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            change(new, member, old.read(member))
    return buffer.getvalue()


class Payload:
    """An object that creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def bomb() -> bytes:
    """Return 200 MB of zeros in 200 kB, which torch would unpack."""
    content = save({"0.weight": torch.zeros(50_000_000)})
    return rezip(content, lambda new, member, data: new.writestr(member.filename, data, zipfile.ZIP_DEFLATED))


def with_value(value: float) -> bytes:
    state = tiny_model().state_dict()
    state["1.weight"][0, 0] = value
    return save(state)


def save_with_traversal() -> bytes:
    content = weights_bytes(tiny_model())
    return rezip(content, lambda new, member, data: new.writestr(f"../../{member.filename}", data))


def save_with_duplicate() -> bytes:
    content = weights_bytes(tiny_model())

    def twice(new: zipfile.ZipFile, member: zipfile.ZipInfo, data: bytes) -> None:
        new.writestr(member.filename, data)
        if member.filename.endswith("data.pkl"):
            new.writestr(member.filename, data)

    with pytest.warns(UserWarning, match="Duplicate name"):
        return rezip(content, twice)


def save_changed(**changed: Any) -> bytes:
    return save({**tiny_model().state_dict(), **changed})


def make_recursive_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def make_branching_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(200):
        value = [value, value]
    return value


def make_zeros() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tiny_model().state_dict().items()}


def legacy_before_an_archive() -> bytes:
    """Return a file in which zipfile finds the good weights at the end, and torch the zeros at the beginning."""
    buffer = io.BytesIO()
    torch.save(make_zeros(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue() + weights_bytes(tiny_model())


def split(archive: bytes) -> tuple[bytes, bytes, bytes]:
    """Split an archive into members, central directory and end record."""
    size, start = struct.unpack("<II", archive[-10:-2])
    return archive[:start], archive[start : start + size], archive[start + size :]


def two_directories() -> bytes:
    """Return an archive with two directories.

    zipfile reads the directory before the end record, with the good weights; torch the one at the recorded offset.
    """

    def written(content: bytes, method: int) -> tuple[bytes, bytes, bytes]:
        return split(rezip(content, lambda new, member, data: new.writestr(member.filename, data, method)))

    members, directory, end = written(weights_bytes(tiny_model()), zipfile.ZIP_STORED)
    hidden, hidden_directory, _ = written(save(make_zeros()), zipfile.ZIP_DEFLATED)
    hidden = hidden.ljust(len(members), b"\0")
    # zipfile shifts all offsets by the distance between the directory's recorded and actual position: subtract it.
    moved, at = bytearray(directory), 0
    while at < len(moved):
        name, extra, comment = struct.unpack_from("<HHH", moved, at + 28)
        (offset,) = struct.unpack_from("<I", moved, at + 42)
        struct.pack_into("<I", moved, at + 42, offset + len(hidden) - len(members))
        at += 46 + name + extra + comment
    assert len(moved) == len(hidden_directory)
    end = end[:16] + struct.pack("<I", len(hidden)) + end[20:]
    return hidden + hidden_directory + members + bytes(moved) + end


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (bomb, "compressed"),
    "view of 10^12 elements": (
        lambda: save_changed(**{"1.bias": torch.zeros(1).expand(10**12)}),
        "larger than its stored data",
    ),
    "NaN": (lambda: with_value(float("nan")), "not finite"),
    "infinity": (lambda: with_value(float("inf")), "not finite"),
    "names that leave the folder": (save_with_traversal, "should be in a single folder"),
    "a legacy file before an archive": (legacy_before_an_archive, "data before its first member"),
    "two central directories": (two_directories, "data before its first member"),
    "sparse": (lambda: save_changed(**{"1.bias": torch.zeros(16).to_sparse()}), "not dense on the CPU"),
    "compressed sparse": (lambda: save_changed(**{"1.bias": torch.eye(4).to_sparse_csr()}), "not dense on the CPU"),
    "without data": (lambda: save_changed(**{"1.bias": torch.zeros(16, device="meta")}), "not dense on the CPU"),
    "quantized": (
        lambda: save_changed(**{"1.bias": torch.quantize_per_tensor(torch.zeros(16), 1.0, 0, torch.qint8)}),
        "not dense on the CPU",
    ),
    "a list in itself": (lambda: save(make_recursive_list()), "Got list"),
    "2^200 lists": (lambda: save(make_branching_list()), "Got list"),
    "a bad tensor deep inside": (
        lambda: save({"a": [({"b": torch.zeros(1).expand(9)},)]}),
        "larger than its stored data",
    ),
    "two members of one name": (save_with_duplicate, "two members have the same name"),
    "wrong model": (lambda: weights_bytes(nn.Linear(2, 2)), "should hold"),
    "wrong shape": (lambda: save_changed(**{"1.bias": torch.zeros(3)}), r"1\.bias should be \[16\]"),
    "wrong type": (lambda: save_changed(**{"1.bias": torch.zeros(16, dtype=torch.float64)}), "torch.float32"),
    "not a tensor": (lambda: save_changed(**{"1.bias": 3}), "Got int"),
    "a list": (lambda: save([1, 2]), "Got list"),
    "empty": (lambda: b"", r"it is empty\. Download or copy it again"),
    "text": (lambda: b"hello", "damaged or not a file of tensors"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns that some of these formats are beta or deprecated
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_raises_and_the_model_is_unchanged(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    path = tmp_path / "strange.pth"
    path.write_bytes(make())
    model = tiny_model(seed=1)
    before = weights_bytes(model)
    with pytest.raises(ValueError, match=reason) as refused:
        kd.load_weights(model, path)
    assert str(path) in str(refused.value)
    assert weights_bytes(model) == before


def test_a_payload_raises_and_does_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "strange.pth", tmp_path / "victim"
    path.write_bytes(save({"1.weight": Payload(victim)}))
    with pytest.raises(ValueError, match="not a file of tensors"):
        kd.load_weights(tiny_model(), path)
    assert not victim.exists()


def test_one_flipped_bit_in_a_weight_raises(tmp_path: Path) -> None:
    content = bytearray(weights_bytes(tiny_model()))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content[largest.header_offset + 200] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch itself does not notice
    with pytest.raises(ValueError, match="Bad CRC-32"):
        kd.load_weights(tiny_model(), path)


def test_a_symbolic_link_raises(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="not a regular file"):
        read_bytes(tmp_path / "link")


def test_a_file_over_the_limit_or_with_another_digest_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"larger than 4 bytes. Got 5"):
        read_bytes(path, limit=4)
    with pytest.raises(ValueError, match="expected SHA-256 0"):
        read_bytes(path, expected="0" * 64)


@pytest.mark.parametrize("make", [legacy_before_an_archive, two_directories])
def test_torch_reads_other_weights_from_the_ambiguous_files(make: Callable[[], bytes]) -> None:
    """Both files really are ambiguous, so the tests that they are rejected prove something."""
    content = make()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    seen = torch.load(io.BytesIO(content), weights_only=True)
    assert all(torch.equal(seen[name], tensor) for name, tensor in make_zeros().items())


def test_torch_reads_a_rebuilt_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    content, loaded, load = save({"a": torch.arange(5)}), [], torch.load

    def spy(file: io.BytesIO, **options: Any) -> Any:
        loaded.append(file.getvalue())
        return load(file, **options)

    monkeypatch.setattr(torch, "load", spy)
    (end,) = (at for at in range(len(content)) if content.startswith(b"PK\5\6", at))
    comment = content[: end + 20] + struct.pack("<H", 6) + b"hidden"
    assert torch.equal(load_tensors(comment)["a"], torch.arange(5))
    assert b"hidden" not in loaded[0]


def test_a_sparse_file_of_8_gb_raises_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(8 * 10**9)
    monkeypatch.setattr(os, "fdopen", None)
    with pytest.raises(
        ValueError, match=r"larger than [\d,]+ bytes, 8 times the model's size and 1 MB. Got 8,000,000,000"
    ):
        kd.load_weights(tiny_model(), path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_and_a_folder_raise_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_bytes(tmp_path / name)


def test_names_shapes_and_dtypes_must_fit_exactly() -> None:
    state = tiny_model().state_dict()
    require_fitting(dict(state), state)
    for wrong in (None, {}, {**state, "more": torch.zeros(1)}, {**state, 3: torch.zeros(1)}):
        with pytest.raises(ValueError, match=r"it (should hold|also has)"):
            require_fitting(wrong, state)


@pytest.mark.skipif(os.name == "nt", reason="needs the right to make symbolic links")
def test_a_link_with_the_temporary_files_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / ".w.pth.tmp").symlink_to(tmp_path / "victim")
    kd.publish({tmp_path / "w.pth": b"new"})
    assert (tmp_path / "victim").read_bytes() == b"kept"
    assert (tmp_path / "w.pth").read_bytes() == b"new"


class Called:
    """An object that calls a function when unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(("function", "argument"), [(bytearray, 1_500_000_000), (codecs.encode, "x" * 1000)])
def test_a_small_file_cannot_allocate_much_memory(function: Any, argument: Any) -> None:
    content = save({"weight": Called(function, argument)})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"it would call (__builtin__|builtins|_codecs) .*, which tensors do not need"):
        load_tensors(content)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
