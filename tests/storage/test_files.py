"""All result files are written or none; an unwritable folder is reported before any work is done."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.storage.files import name_for_file, publish, require_writable

NAMES = ("first.txt", "deep/second.txt", "deep/third.txt")


def on_disk(folder: Path) -> dict[str, bytes]:
    """Return the content of every file under the folder, including hidden files."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(folder: Path, text: bytes) -> dict[Path, bytes]:
    return {folder / name: text + name.encode() for name in NAMES}


def fail_at(call: int, function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Wrap the function so that its ``call``-th call (from 0) raises an error."""
    calls = iter(range(10**6))

    def wrapped(*args: Any) -> Any:
        if next(calls) == call:
            raise error
        return function(*args)

    return wrapped


@pytest.fixture
def earlier(tmp_path: Path) -> dict[str, bytes]:
    """Files of an earlier run in ``tmp_path``."""
    publish(contents(tmp_path, b"earlier "))
    return on_disk(tmp_path)


def test_files_are_published_and_missing_folders_created(tmp_path: Path) -> None:
    publish({tmp_path / "a" / "b" / "c.bin": b"\x00\xff", tmp_path / "empty": b""})
    assert on_disk(tmp_path) == {"a/b/c.bin": b"\x00\xff", "empty": b""}


@pytest.mark.usefixtures("earlier")
def test_publishing_again_replaces_files_and_leaves_no_others(tmp_path: Path) -> None:
    publish(contents(tmp_path, b"new "))
    assert on_disk(tmp_path) == {name: b"new " + name.encode() for name in NAMES}


@pytest.mark.parametrize("call", range(3))
def test_a_full_disk_at_any_file_changes_no_file(
    tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", fail_at(call, os.fsync, full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        publish(contents(tmp_path, b"new "))
    message = str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert f"cannot write {tmp_path / NAMES[call]}: No space left" in message
    assert f"needs {len('new ' + NAMES[call])} bytes" in message
    assert re.search(r"[\d,]+ bytes are free.*Free space or choose another folder", message)
    assert on_disk(tmp_path) == earlier


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files, which Windows does not have")
def test_a_write_truncated_by_the_system_changes_no_file(tmp_path: Path, earlier: dict[str, bytes]) -> None:
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
def test_an_interrupt_while_writing_keeps_all_earlier_files(
    tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail_at(call, os.fsync, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        publish(contents(tmp_path, b"new "))
    assert earlier.items() <= on_disk(tmp_path).items()


def test_an_interrupt_while_writing_leaves_no_temporary_file(
    tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_at(1, os.fsync, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        publish(contents(tmp_path, b"new "))
    assert on_disk(tmp_path) == earlier


def rename_fails(call: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "replace", fail_at(call, Path.replace, PermissionError(errno.EACCES, "in use")))
    with pytest.raises(PermissionError, match="in use"):
        publish(contents(tmp_path, b"new "))


@pytest.mark.parametrize("call", range(3))
@pytest.mark.usefixtures("earlier")
def test_a_failed_rename_leaves_complete_files_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    rename_fails(call, monkeypatch, tmp_path)
    files = on_disk(tmp_path)
    assert set(files) == set(NAMES)
    assert all(content in (b"earlier " + name.encode(), b"new " + name.encode()) for name, content in files.items())


def test_a_folder_with_a_files_name_raises_before_any_file_is_replaced(
    tmp_path: Path, earlier: dict[str, bytes]
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=rf"cannot write {re.escape(str(tmp_path / 'taken'))}"):
        publish({**contents(tmp_path, b"new "), tmp_path / "taken": b"new"})
    assert on_disk(tmp_path) == earlier


def test_a_file_with_a_folders_name_raises_the_full_message(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"kept")
    with pytest.raises(OSError, match=r"file\.txt.*needs 3 bytes.*choose another folder"):
        publish({tmp_path / "taken" / "file.txt": b"new"})
    assert on_disk(tmp_path) == {"taken": b"kept"}


def test_a_writable_folder_is_created_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_file_with_the_folders_name_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"kept")
    with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path / 'taken'))}.*Choose another folder"):
        require_writable(tmp_path / "taken")
    assert on_disk(tmp_path) == {"taken": b"kept"}


def test_a_read_only_folder_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path))}: Read-only file system"):
        require_writable(tmp_path)


def test_new_folders_are_flushed_outermost_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("kd.storage.files._flush_folder", flushed.append)
    publish({tmp_path / "a" / "b" / "c": b""})
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_mount_that_cannot_flush_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail_at(1, os.fsync, OSError(number, "not here")))  # 0 is the file
    publish({tmp_path / "a": b"new"})


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_different_texts_name_different_files_of_any_system(texts: list[str]) -> None:
    names = [name_for_file(text) for text in texts]
    assert names[0] != names[1]
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]+", name) for name in names)


def test_methods_in_different_folders_do_not_share_a_file() -> None:
    assert name_for_file("a/m.py:f") != name_for_file("a-m.py:f")
    assert name_for_file("dkd") == "dkd"
