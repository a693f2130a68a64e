"""Other programs on the same cores are detected and reported once; the number of threads never changes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kd.training import contention
from kd.training.contention import OtherPrograms, advise_on_contention, format_advice, machine_seconds
from kd.training.history import History


@pytest.mark.parametrize(
    ("busy", "threads", "cores", "is_advised"),
    [
        (1.0, 2, 2, True),
        (0.5, 2, 2, True),
        (0.1, 2, 2, False),  # normal background load
        (1.0, 1, 2, False),  # a core is free, and a single thread never waits
        (2.0, 1, 2, False),  # no setting helps
        (10.0, 4, 64, False),  # plenty of cores left
        (62.0, 4, 64, True),
    ],
)
def test_advice_is_given_if_threads_share_a_core(busy: float, threads: int, cores: int, is_advised: bool) -> None:
    assert (format_advice(busy=busy, threads=threads, cores=cores) is not None) == is_advised


def test_advice_states_the_busy_cores_and_a_fitting_number_of_threads() -> None:
    text = format_advice(busy=1.2, threads=4, cores=4)
    assert text is not None
    assert "1.2 of 4 cores" in text
    assert "OMP_NUM_THREADS=3" in text
    assert "OMP_NUM_THREADS=1" in (format_advice(busy=2.0, threads=2, cores=2) or "")


def _stat(path: Path, *, user: int, steal: int = 0) -> None:
    path.write_text(f"cpu  {user} 0 0 5000 100 0 0 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")


def test_this_process_does_not_count_and_the_host_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, clock, process = tmp_path / "stat", [100.0], [5.0]
    monkeypatch.setattr(contention, "_STAT", stat)
    monkeypatch.setattr(contention.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(contention.os, "times", lambda: SimpleNamespace(user=process[0], system=0.0))
    monkeypatch.setattr(contention.time, "monotonic", lambda: clock[0])
    _stat(stat, user=1000)
    others = OtherPrograms()
    _stat(stat, user=1000 + 1500, steal=300)  # in ten seconds 15 core seconds and 3 taken by the host
    clock[0], process[0] = 110.0, 5.0 + 10.0  # 10 of them by this process
    assert others.cores() == pytest.approx(0.8)


def test_without_proc_stat_there_is_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_STAT", tmp_path / "absent")
    assert machine_seconds() is None
    assert OtherPrograms().cores() == 0.0


def _measure_other_programs() -> float:
    others = OtherPrograms()
    time.sleep(1.0)
    return others.cores()


@pytest.mark.skipif(not contention._STAT.exists(), reason="needs /proc/stat")
def test_a_busy_program_is_detected() -> None:
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        # A loaded machine may give the program less than a core.
        assert any(_measure_other_programs() > 0.3 for _ in range(20))
    finally:
        spinning.kill()
        spinning.wait()


def test_advice_is_printed_once_and_the_hook_called_every_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OtherPrograms, "cores", lambda self: 1.0)
    monkeypatch.setattr(contention.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: pytest.fail("the number of threads must not change"))
    monkeypatch.setattr(contention, "_printed", [])
    called: list[int] = []
    for _ in range(2):  # training steps of one run
        hook = advise_on_contention(lambda done, history: called.append(done))
        for epoch in (1, 2, 3):
            hook(epoch, History())
    assert called == [1, 2, 3, 1, 2, 3]
    assert capsys.readouterr().out.count("note: other programs") == 1


def test_a_quiet_machine_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(contention, "_printed", [])
    monkeypatch.setattr(OtherPrograms, "cores", lambda self: 0.0)
    advise_on_contention(lambda done, history: None)(1, History())
    assert capsys.readouterr().out == ""
