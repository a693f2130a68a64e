"""The run folder: unchanged steps are reused, changed steps run again, and results never mix."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kd.storage.run_folder import open_run, run_step
from kd.storage.snapshots import Snapshots
from kd.storage.stopping import Stopped, handle_stop_signals, is_stop_requested, stop_if_requested
from tests.digests import folder_digest


class Work:
    """Work of a step that counts its calls."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, snapshots: Snapshots | None) -> dict[str, object]:
        self.done += 1
        return {"value": torch.tensor(self.done)}


def run_work(work: Work, inputs: dict[str, object]) -> int:
    return int(run_step("work", inputs, work)["value"])


def test_a_step_with_the_same_inputs_runs_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work()
    for _ in range(3):
        with open_run(tmp_path):
            assert run_work(work, {"epochs": 2}) == 1
    assert work.done == 1
    assert "work: up to date, reused" in capsys.readouterr().out


def test_changed_inputs_start_over_with_a_reason_and_keep_the_other_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Work()
    with open_run(tmp_path):
        assert run_work(work, {"epochs": 2}) == 1
        assert run_work(work, {"epochs": 3}) == 2
        assert "work: inputs changed (epochs: 2 -> 3), starting over" in capsys.readouterr().out
        assert run_work(work, {"epochs": 2}) == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows locks files in a different way")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_that_cannot_be_locked_is_refused(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match=r"cannot lock folder .*Choose a folder on a local disk"), open_run(tmp_path):
        pass


def test_a_step_with_a_longer_name_is_another_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_run(tmp_path):
        run_step("work-2", {"epochs": 2}, Work())
        run_step("work", {"epochs": 3}, Work())
    assert "inputs changed" not in capsys.readouterr().out


def test_without_an_open_run_no_file_is_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = Work()
    assert [run_work(work, {}), run_work(work, {})] == [1, 2]
    assert not list(tmp_path.iterdir())


def test_fresh_runs_again_and_moves_the_old_state_aside(tmp_path: Path) -> None:
    work = Work()
    for number, fresh in enumerate([False, True, True], start=1):
        with open_run(tmp_path, fresh=fresh):
            assert run_work(work, {}) == number
    assert sorted(path.name for path in tmp_path.glob("aside-*")) == ["aside-1", "aside-2"]


def test_failed_work_saves_no_result(tmp_path: Path) -> None:
    def fail(_: Snapshots | None) -> dict[str, object]:
        raise FloatingPointError("the loss is not finite")

    with open_run(tmp_path), pytest.raises(FloatingPointError):
        run_step("work", {}, fail)
    with open_run(tmp_path):
        assert run_work(Work(), {}) == 1


def test_a_folder_in_use_raises_and_names_the_process(tmp_path: Path) -> None:
    second = open_run(tmp_path)
    with open_run(tmp_path), pytest.raises(OSError, match=rf"another run \(process {os.getpid()}\) is using"):
        second.__enter__()


def test_the_recorded_number_of_threads_is_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with open_run(tmp_path):
            pass
        torch.set_num_threads(2)
        with open_run(tmp_path):
            assert torch.get_num_threads() == 1
        assert "threads: using 1 as in the earlier run, not 2" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)


def test_a_damaged_record_of_threads_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"), open_run(tmp_path):
        pass


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_a_safe_point(number: signal.Signals, code: int, request: pytest.FixtureRequest) -> None:
    # A shell's job in the background ignores SIGINT, and the program then leaves it so.
    before = signal.getsignal(number)
    request.addfinalizer(lambda: signal.signal(number, before))
    signal.signal(number, signal.default_int_handler)

    def stop() -> None:
        with handle_stop_signals():
            os.kill(os.getpid(), number)
            assert is_stop_requested()
            stop_if_requested()
            raise AssertionError("not stopped")

    handler = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        stop()
    assert stopped.value.code == code
    assert not is_stop_requested()
    assert signal.getsignal(number) is handler


def test_a_second_signal_exits_at_once() -> None:
    code = (
        "import os, signal, time\n"
        "from kd.storage.stopping import handle_stop_signals\n"
        "with handle_stop_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 143
    assert "finishing the current step" in ended.stderr


def test_the_folder_digest_covers_all_files_except_timings_and_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("1")
    (tmp_path / "timings.json").write_text("1")
    (tmp_path / "report.html").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / "timings.json").write_text("2")
    (tmp_path / "report.html").write_text("2")
    assert folder_digest(tmp_path) == before
    (tmp_path / "metrics.json").write_text("2")
    assert folder_digest(tmp_path) != before


def test_a_step_killed_before_its_first_snapshot_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(_: Snapshots | None) -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_run(tmp_path):
        run_step("work", {}, killed)
    with open_run(tmp_path):
        assert run_work(Work(), {}) == 1
    assert "work: interrupted before its first snapshot, starting over" in capsys.readouterr().out


def test_fresh_resets_the_threads_of_a_run_without_saved_steps(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with open_run(tmp_path):
            pass
        torch.set_num_threads(2)
        with open_run(tmp_path, fresh=True):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
