"""Files are published whole or not at all; weights files hold nothing but tensors and load only where they fit."""

from __future__ import annotations

import copy
import errno
import io
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd.storage.files import publish, require_writable
from kd.storage.weights import load_weights, weights_bytes
from models import StudentModel, TeacherModel

NAMES = ("first.txt", "deep/second.txt", "deep/third.txt")


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file under the folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(folder: Path, text: bytes) -> dict[Path, bytes]:
    return {folder / name: text + name.encode() for name in NAMES}


def failing_at(call: int, function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """The function, except that its ``call``-th call (from 0) raises."""
    calls = iter(range(10**6))

    def wrapped(*args: Any) -> Any:
        if next(calls) == call:
            raise error
        return function(*args)

    return wrapped


@pytest.fixture
def earlier(tmp_path: Path) -> dict[str, bytes]:
    """What an earlier run left in ``tmp_path``."""
    publish(contents(tmp_path, b"earlier "))
    return on_disk(tmp_path)


class CannotLoad(nn.Sequential):
    """A model whose name must appear in the error of a file that does not fit."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(nn.Linear(2, 4), nn.Linear(4, width))


def test_files_are_published_whole_with_their_folders_made_on_demand(tmp_path: Path) -> None:
    publish({tmp_path / "a" / "b" / "c.bin": b"\x00\xff", tmp_path / "empty": b""})
    assert on_disk(tmp_path) == {"a/b/c.bin": b"\x00\xff", "empty": b""}


@pytest.mark.usefixtures("earlier")
def test_publishing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    publish(contents(tmp_path, b"new "))
    assert on_disk(tmp_path) == {name: b"new " + name.encode() for name in NAMES}


@pytest.mark.parametrize("call", range(3))
def test_a_full_disk_at_any_file_changes_none(
    tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", failing_at(call, os.fsync, full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        publish(contents(tmp_path, b"new "))
    message = str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert f"cannot write {tmp_path / NAMES[call]}: No space left" in message
    assert f"needs {len('new ' + NAMES[call])} bytes" in message
    assert re.search(r"[\d,]+ bytes are free.*Free space or choose another folder", message)
    assert on_disk(tmp_path) == earlier


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files, which Windows does not have")
def test_a_write_that_is_cut_short_by_the_system_changes_none(tmp_path: Path, earlier: dict[str, bytes]) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"large.* needs 5,000 bytes"):
            publish({tmp_path / NAMES[0]: b"new", tmp_path / "large": bytes(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert on_disk(tmp_path) == earlier


@pytest.mark.parametrize("call", range(3))
def test_an_interrupt_while_writing_keeps_every_earlier_file(
    tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing_at(call, os.fsync, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        publish(contents(tmp_path, b"new "))
    assert earlier.items() <= on_disk(tmp_path).items()


def test_an_interrupt_while_writing_leaves_no_temporary_file(
    tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing_at(1, os.fsync, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        publish(contents(tmp_path, b"new "))
    assert on_disk(tmp_path) == earlier


def rename_fails(call: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "replace", failing_at(call, Path.replace, PermissionError(errno.EACCES, "in use")))
    with pytest.raises(PermissionError, match="in use"):
        publish(contents(tmp_path, b"new "))


@pytest.mark.parametrize("call", range(3))
@pytest.mark.usefixtures("earlier")
def test_a_rename_that_fails_leaves_each_file_whole_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    rename_fails(call, monkeypatch, tmp_path)
    found = on_disk(tmp_path)
    assert set(found) == set(NAMES)
    assert all(content in (b"earlier " + name.encode(), b"new " + name.encode()) for name, content in found.items())


def test_a_folder_in_a_files_place_is_refused_before_any_file_is_replaced(
    tmp_path: Path, earlier: dict[str, bytes]
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=rf"cannot write {re.escape(str(tmp_path / 'taken'))}"):
        publish({**contents(tmp_path, b"new "), tmp_path / "taken": b"new"})
    assert on_disk(tmp_path) == earlier


def test_a_file_in_a_folders_place_gets_the_full_message(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"kept")
    with pytest.raises(OSError, match=r"file\.txt.*needs 3 bytes.*choose another folder"):
        publish({tmp_path / "taken" / "file.txt": b"new"})
    assert on_disk(tmp_path) == {"taken": b"kept"}


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_file_in_the_folders_place_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"kept")
    with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path / 'taken'))}.*Choose another one"):
        require_writable(tmp_path / "taken")
    assert on_disk(tmp_path) == {"taken": b"kept"}


def test_a_read_only_folder_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path))}: Read-only file system"):
        require_writable(tmp_path)


def test_weights_are_a_plain_dictionary_of_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    state = torch.load(io.BytesIO(weights_bytes(model)), weights_only=True)
    assert type(state) is dict
    assert list(state) == list(model.state_dict())
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in state.values())


def test_other_weights_give_other_bytes() -> None:
    model = StudentModel(width=8)
    before = weights_bytes(model)
    assert weights_bytes(copy.deepcopy(model)) == before
    with torch.no_grad():
        model.output.bias[0] += 1
    assert weights_bytes(model) != before


def test_the_memory_format_does_not_show_in_the_bytes() -> None:
    plain = nn.Conv2d(2, 3, 3)
    channels_last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert plain.weight.stride() != channels_last.weight.stride()
    assert weights_bytes(plain) == weights_bytes(channels_last)


def test_the_teachers_memory_format_does_not_show_in_the_bytes() -> None:
    teacher = TeacherModel()
    plain = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    assert weights_bytes(plain) == weights_bytes(teacher)


@pytest.mark.parametrize("make", [TeacherModel, StudentModel, lambda: nn.BatchNorm1d(4)])
def test_saved_weights_load_into_another_model_bit_by_bit(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    model, other = make(), make()
    publish({tmp_path / "w.pth": weights_bytes(model)})
    load_weights(other, tmp_path / "w.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


class Payload:
    """What a malicious file does on loading: it makes a file of its own."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_code_in_a_weights_file_does_not_run(tmp_path: Path, save: Callable[[Any, Any], None]) -> None:
    trace, path = tmp_path / "trace", tmp_path / "w.pth"
    with path.open("wb") as file:
        save({"0.weight": Payload(trace)}, file)
    with pytest.raises(ValueError, match=r"w\.pth does not hold weights of a CannotLoad"):
        load_weights(CannotLoad(), path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists(), "the payload does nothing, so this test proves nothing"


GOOD = weights_bytes(CannotLoad())
BAD_FILES = {
    "empty": b"",
    "text": b"these are not weights",
    "truncated": GOOD[: len(GOOD) // 2],
    "damaged header": bytes([GOOD[0] ^ 1]) + GOOD[1:],
    "another model": weights_bytes(StudentModel(width=2)),
    "another shape": weights_bytes(CannotLoad(width=5)),
}


def refused(path: Path, content: bytes, model: nn.Module) -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold weights") as caught:
        load_weights(model, path)
    return str(caught.value)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_does_not_fit_is_refused_by_path_and_class(tmp_path: Path, kind: str) -> None:
    message = refused(tmp_path / "w.pth", BAD_FILES[kind], CannotLoad())
    assert message.startswith(f"{tmp_path / 'w.pth'} does not hold weights of a CannotLoad")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"0.weight": 1.0}, {}])
def test_tensors_in_another_form_are_refused(tmp_path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    assert "CannotLoad" in refused(tmp_path / "w.pth", buffer.getvalue(), CannotLoad())


@settings(max_examples=40)
@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert "CannotLoad" in refused(Path(folder) / "w.pth", GOOD[:length], CannotLoad())


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = CannotLoad()
    before = copy.deepcopy(model.state_dict())
    refused(tmp_path / "w.pth", BAD_FILES["another shape"], model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_missing_file_is_an_os_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_weights(CannotLoad(), tmp_path / "absent.pth")


def test_new_folders_are_flushed_from_the_highest_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("kd.storage.files._flush_folder", flushed.append)
    publish({tmp_path / "a" / "b" / "c": b""})
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_mount_that_flushes_no_folders_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", failing_at(1, os.fsync, OSError(number, "not here")))  # 0 is the file
    publish({tmp_path / "a": b"new"})
