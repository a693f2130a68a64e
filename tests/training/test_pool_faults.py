"""Workers of a pool that are killed, fail, start slowly or are silent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kd.storage.run_folder import open_run
from kd.training import pool
from kd.training.pool import run_in_pool


def die_if_asked(shared: Path, item: str) -> str:
    """Work for a moment, or kill this process or, from it, another worker."""
    (shared / f"{item}-{os.getpid()}").touch()
    time.sleep(0.05)
    if item == "doomed":
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.slow
def test_the_error_names_the_item_of_the_killed_process(tmp_path: Path) -> None:
    names = [f"item{number}" for number in range(6)] + ["doomed"]
    with pytest.raises(OSError, match="one of 2 processes was killed while it worked on doomed"):
        list(
            run_in_pool(
                die_if_asked,
                tmp_path,
                {name: name for name in names},
                steps=dict.fromkeys(names, 1),
                title="t",
                processes=2,
            )
        )


class DeadlyToUnpickle:
    """Kills the process that loads it: a worker that starts."""

    def __init__(self, parent: int, size: int) -> None:
        self.parent, self.content = parent, bytes(size)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() != state["parent"]:
            os.kill(os.getpid(), signal.SIGKILL)


def echo(shared: object, item: int) -> int:
    return item


@pytest.mark.parametrize("size", [10, 5_000_000])
@pytest.mark.slow
def test_a_process_killed_while_it_starts_raises_at_once(size: int) -> None:
    shared = DeadlyToUnpickle(os.getpid(), size)
    items = {str(number): number for number in range(4)}
    with pytest.raises(OSError, match="one of 2 processes was killed while it started"):
        list(run_in_pool(echo, shared, items, steps=dict.fromkeys(items, 1), title="t", processes=2))


class FailsToUnpickle:
    def __init__(self, parent: int, error: Exception) -> None:
        self.parent, self.error = parent, error

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() != state["parent"]:
            raise state["error"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "data"), ModuleNotFoundError("no module x")])
@pytest.mark.slow
def test_an_error_while_a_process_starts_is_raised_with_its_reason(error: Exception) -> None:
    shared, items = FailsToUnpickle(os.getpid(), error), {str(number): number for number in range(4)}
    with pytest.raises(type(error), match=r"Input/output error|no module x"):
        list(run_in_pool(echo, shared, items, steps=dict.fromkeys(items, 1), title="t", processes=2))


def kill_the_idle(shared: Path, item: str) -> str:
    """Wait until the other worker is idle, kill it, and return."""
    (shared / f"{item}-{os.getpid()}").touch()
    if item == "short":
        return item
    deadline = time.monotonic() + 60
    while not (found := list(shared.glob("short-*"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(int(found[0].name.rpartition("-")[2]), signal.SIGKILL)
    time.sleep(0.5)
    return item


@pytest.mark.slow
def test_a_process_killed_while_idle_keeps_nobody_waiting(tmp_path: Path) -> None:
    items = {"long": "long", "short": "short"}
    steps = {"long": 2, "short": 1}
    assert dict(run_in_pool(kill_the_idle, tmp_path, items, steps=steps, title="t", processes=2)) == items


@pytest.mark.slow
def test_results_and_items_may_be_larger_than_a_pipe() -> None:
    items = {str(number): bytes(3_000_000) + bytes([number]) for number in range(3)}
    assert dict(run_in_pool(echo, None, items, steps=dict.fromkeys(items, 1), title="t", processes=2)) == items


@pytest.mark.slow
def test_a_silent_worker_is_mentioned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pool, "_SILENT_SECONDS", 0.3)
    assert dict(run_in_pool(wait_a_second, None, {"slow": 1}, steps={"slow": 1}, title="t", processes=1)) == {"slow": 1}
    assert capsys.readouterr().out.count("slow: no step for") == 1


class SlowToUnpickle:
    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() != state["parent"]:
            time.sleep(1.5)


@pytest.mark.parametrize(("processes", "subject"), [(2, "2 processes are"), (1, "1 process is")])
@pytest.mark.slow
def test_workers_that_start_slowly_are_mentioned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], processes: int, subject: str
) -> None:
    monkeypatch.setattr(pool, "_SILENT_SECONDS", 0.3)
    items = {"a": 1, "b": 2}
    shared = SlowToUnpickle(os.getpid())
    assert dict(run_in_pool(echo, shared, items, steps=items, title="t", processes=processes)) == items
    assert capsys.readouterr().out.count(f"{subject} still starting after") == 1


def wait_a_second(shared: None, item: int) -> int:
    time.sleep(1.5)
    return item


@pytest.mark.slow
def test_files_left_by_a_killed_program_are_removed(tmp_path: Path) -> None:
    (tmp_path / "pool-old").mkdir()
    with open_run(tmp_path):
        assert dict(run_in_pool(echo, None, {"a": 1}, steps={"a": 1}, title="t", processes=1)) == {"a": 1}
    assert not list(tmp_path.glob("pool-*"))
