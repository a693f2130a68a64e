"""Available memory, checks before allocations, and faults of the machine as opposed to faults of a file."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
import torch

from kd.commands.program import exit_status
from kd.storage import resources
from kd.storage.resources import available_memory, is_out_of_memory, is_passing_fault, require_memory


def test_the_available_memory_is_within_that_of_the_machine() -> None:
    available = available_memory()
    assert available is None or 0 <= available < 2**50


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_the_process_limits_the_memory() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 1024**2, hard))
    try:
        available = available_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert available is not None
    assert available <= 200 * 1024**2


def test_the_limit_of_a_container_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"max": "3000000", "current": "2500000", "stat": "anon 5\ninactive_file 100000"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    assert available_memory() == 600_000


def test_more_than_the_available_memory_raises_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 10**8)
    require_memory(10**8, "x.npz")
    with pytest.raises(MemoryError, match=r"x.npz needs about 100,000,001 bytes.*100,000,000 are available. Split it."):
        require_memory(10**8 + 1, "x.npz", "Split it.")


def test_an_unknown_amount_of_memory_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: None)
    require_memory(10**18, "x.npz")


def test_torchs_failed_allocations_are_lack_of_memory() -> None:
    for size in (10**17, 2**62):
        with pytest.raises(RuntimeError) as caught:
            torch.empty(size, dtype=torch.float64)
        assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 8 bytes")])
def test_lack_of_memory_anywhere_ends_in_one_paragraph(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> None:
        raise error

    assert exit_status(program) == 1
    assert "error: not enough memory" in capsys.readouterr().err


def test_other_runtime_errors_keep_their_traceback() -> None:
    def program() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        exit_status(program)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM])
def test_faults_of_the_machine_are_passing(number: int) -> None:
    assert is_passing_fault(OSError(number, "fault"))


@pytest.mark.parametrize("error", [ValueError(), OSError("truncated"), FileNotFoundError(errno.ENOENT, "absent")])
def test_faults_of_a_file_are_not_passing(error: Exception) -> None:
    assert not is_passing_fault(error)
