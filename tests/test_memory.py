"""Freed memory is kept on glibc, unless the user has set malloc up; what is computed stays the same."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kd import memory

ROOT = Path(__file__).parent.parent
GLIBC = platform.libc_ver()[0] == "glibc"

# Page faults of taking and freeing 16 MB, forty times, as training steps do.
_STEPS = """
import resource, sys, torch
from kd.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    held = [torch.ones(1024, 1024) for _ in range(4)]
    return float(sum(tensor[0, 0] for tensor in held))
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str) -> int:
    untouched = {name: value for name, value in os.environ.items() if name not in memory._TUNED_BY_USER}
    run = [sys.executable, "-c", _STEPS, mode]
    return int(subprocess.run(run, cwd=ROOT, env=untouched, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="the page faults are those of glibc's malloc")
def test_a_step_takes_no_new_pages_from_the_system() -> None:
    as_it_comes, kept = _faults("leave"), _faults("keep")
    assert as_it_comes > 40 * 1000  # or there is nothing to gain
    assert kept < as_it_comes / 20


def test_a_user_who_has_set_malloc_up_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not memory.keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("no library is to be touched"))
    assert not memory.keep_freed_memory()
