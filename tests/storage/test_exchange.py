"""Several files are replaced as one commit: interrupted anywhere, old and new are never mixed, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kd.storage.exchange import exchange, temporary_name
from kd.storage.files import publish
from kd.storage.places import use_folders

NAMES = ("models/a.pth", "models/b.pth", "models/manifest.json", "results/report.html")
# The process dies at the call with this number that changes a folder's entries.
KILLED = """
import os, sys
from pathlib import Path
calls = 0
def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls > int(sys.argv[2]):
            os._exit(9)
        return function(*args, **kwargs)
    return call
from kd.storage.files import publish
for owner, name in ((Path, "replace"), (Path, "unlink")):
    setattr(owner, name, dying(getattr(owner, name)))
publish({Path(sys.argv[1]) / name: b"new " + name.encode() for name in sys.argv[3:]})
"""
ROUNDS = 2 + 2 * len(NAMES) + 1 + len(NAMES)  # journal, old files, new files, end of the journal, deletions


def contents(folder: Path, text: bytes) -> dict[Path, bytes]:
    return {folder / name: text + name.encode() for name in NAMES}


def visible(folder: Path) -> set[bytes]:
    """Return the first words of all files that are not hidden."""
    return {path.read_bytes().split()[0] for name in NAMES if (path := folder / name).exists()}


def finish(folder: Path) -> None:
    with use_folders([folder / "models", folder / "results"]):
        pass


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.slow
def test_killed_at_any_rename_the_files_are_never_mixed_and_the_next_run_completes_them(
    tmp_path: Path, *, earlier: bool
) -> None:
    outcomes = set()
    for call in range(ROUNDS + 1):
        folder = tmp_path / str(call)
        if earlier:
            publish(contents(folder, b"old "))
        arguments = [str(folder), str(call), *NAMES]
        code = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, env=os.environ).returncode
        assert code in (0, 9)
        assert len(visible(folder)) <= 1
        finish(folder)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == (set(NAMES) if earlier or visible(folder) else set())
        assert len(visible(folder)) <= 1
        outcomes.add((code, *visible(folder)))
    expected = {(9, b"new"), (0, b"new")} | ({(9, b"old")} if earlier else {(9,)})
    assert outcomes == expected


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: BaseException) -> None:
    function, calls = getattr(Path, name), iter(range(10**6))

    def wrapped(self: Path, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise error
        return function(self, *args, **kwargs)

    monkeypatch.setattr(Path, name, wrapped)


@pytest.mark.parametrize("error", [PermissionError(13, "in use"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", range(1 + 2 * len(NAMES)))
def test_an_error_at_any_rename_leaves_all_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    publish(contents(tmp_path, b"old "))
    fail_once(monkeypatch, "replace", call, error)
    with pytest.raises(type(error)):
        publish(contents(tmp_path, b"new "))
    assert all(path.read_bytes() == content for path, content in contents(tmp_path, b"old ").items())
    assert not hidden(tmp_path)


def test_files_that_cannot_be_restored_are_completed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(contents(tmp_path, b"old "))
    with monkeypatch.context() as patched:
        function, calls = Path.replace, iter(range(10**6))

        def fail_from_the_sixth_on(self: Path, target: Path) -> Path:
            if next(calls) >= 6:
                raise OSError(5, "Input/output error")
            return function(self, target)

        patched.setattr(Path, "replace", fail_from_the_sixth_on)
        with pytest.raises(OSError, match="Input/output error"):
            publish(contents(tmp_path, b"new "))
    assert len(visible(tmp_path)) <= 1
    finish(tmp_path)
    assert all(path.read_bytes() == content for path, content in contents(tmp_path, b"new ").items())


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the first exchange stopped before its first rename."""
    with monkeypatch.context() as patched:
        patched.setattr("kd.storage.exchange._move", lambda _: (_ for _ in ()).throw(OSError(5, "fault")))
        patched.setattr("kd.storage.exchange._restore", lambda _: (_ for _ in ()).throw(OSError(5, "fault")))
        with pytest.raises(OSError, match="fault"):
            publish(contents(tmp_path / "run", b"new "))
    return tmp_path / "run"


def test_an_interrupted_exchange_is_finished_in_a_folder_that_was_moved(interrupted: Path, tmp_path: Path) -> None:
    interrupted.rename(tmp_path / "moved")
    finish(tmp_path / "moved")
    assert visible(tmp_path / "moved") == {b"new"}


def journal_of(folder: Path) -> Path:
    (journal,) = (folder / "models").glob(".*.journal")
    return journal


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"1", b"[1]", b"[[1, 2, 3]]", b'[["a"]]', b"\xff", b"[" * 10_000, b'[["\\u0000", "a", "b"]]'],
)
def test_a_damaged_journal_is_named_and_nothing_is_changed(interrupted: Path, content: bytes) -> None:
    journal_of(interrupted).write_bytes(content)
    before = sorted(interrupted.rglob("*"))
    with pytest.raises(ValueError, match=r"journal is damaged.*Delete it"):
        finish(interrupted)
    assert sorted(interrupted.rglob("*")) == before


def test_a_foreign_journal_cannot_write_elsewhere(interrupted: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    journal = journal_of(interrupted)
    entry = json.loads(journal.read_bytes())[0]
    for names in (
        ["../../victim", "../../.victim.1-00000000.tmp", "../../.victim.1-00000000.old"],
        ["../../victim", *entry[1:]],
        [entry[0], "b.pth", entry[2]],
        [str(victim), *entry[1:]],
    ):
        journal.write_text(json.dumps([names]))
        with pytest.raises(ValueError, match="which this command does not write"):
            finish(interrupted)
    assert victim.read_bytes() == b"kept"


def test_temporary_files_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in (".a.pth.123-0123abcd.tmp", ".a.pth.123-0123abcd.old", ".mine.tmp", ".hidden", "a.pth"):
        (tmp_path / name).write_bytes(b"")
    with use_folders([tmp_path]):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".mine.tmp", "a.pth"]


def test_a_folder_is_used_by_one_process_at_a_time_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "results")
    program = (
        "from pathlib import Path; from kd.storage.places import use_folders\n"
        f"with use_folders([Path({str(tmp_path / 'link')!r})]): pass"
    )
    with use_folders([tmp_path / "results", tmp_path / "link"]):
        second = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
        assert "another run is writing to" in second.stderr
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert not hidden(tmp_path)


def test_two_processes_that_write_one_file_never_share_a_temporary_name(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "a") for _ in range(100)}
    assert len(names) == 100
    assert all(f".{os.getpid()}-" in name.name for name in names)


@pytest.mark.parametrize("fails", ["nothing", "a rename"])
def test_a_journal_that_cannot_be_removed_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    publish(contents(tmp_path, b"old "))
    unlink = Path.unlink

    def fail_for_journals(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".journal":
            raise PermissionError(13, "in use", str(self))
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail_for_journals)
        if fails == "a rename":
            fail_once(patched, "replace", len(NAMES) + 2, PermissionError(13, "a rename fails"))
            with pytest.raises(PermissionError, match=r"a rename fails.*Existing files were not changed"):
                publish(contents(tmp_path, b"new "))
        else:
            publish(contents(tmp_path, b"new "))
    word = b"old " if fails == "a rename" else b"new "
    for _ in range(2):
        assert all(path.read_bytes() == content for path, content in contents(tmp_path, word).items())
        finish(tmp_path)
    assert not hidden(tmp_path)


def test_the_new_files_are_on_disk_before_the_journal(tmp_path: Path) -> None:
    staged, events = {}, []
    for path, content in contents(tmp_path, b"new ").items():
        staged[path] = temporary_name(path)
        path.parent.mkdir(exist_ok=True)
        staged[path].write_bytes(content)

    def write(path: Path, content: bytes) -> None:
        events.append("journal")
        path.write_bytes(content)

    exchange(staged, write, lambda folder: events.append(folder.name))
    assert set(events[: events.index("journal")]) == {"models", "results"}
    assert set(events[events.index("journal") :]) == {"journal", "models", "results"}
