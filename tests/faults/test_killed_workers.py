"""A killed worker with work left ends ``kd compare`` soon, with an error; the next run completes the results."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults import harness, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="finds worker processes in Linux's /proc"),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the fingerprint of an uninterrupted comparison."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = harness.run(folder, program="compare")
    assert ended.code == 0, ended.output
    return harness.fingerprint(folder)


@pytest.mark.parametrize("state", workers.STATES)
def test_a_killed_worker_ends_the_program_and_the_next_run_completes_it(
    state: str, tmp_path: Path, uninterrupted: str
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    killed = workers.run_and_kill_worker(tmp_path, state, random.Random(seed), program="compare")
    assert not killed.hung
    assert "Traceback" not in killed.ended.output
    # A fast worker may have finished all its work before the kill: the program then ends as if nothing had happened.
    if killed.ended.code == 0:
        assert harness.fingerprint(tmp_path) == uninterrupted
    else:
        assert killed.ended.code == 1
        assert "processes was killed while it" in killed.ended.output
    ended = harness.run(tmp_path, program="compare")
    assert ended.code == 0, ended.output
    assert harness.fingerprint(tmp_path) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_the_program_while_its_workers_start(
    number: signal.Signals, tmp_path: Path, uninterrupted: str
) -> None:
    """A terminal and a job scheduler send signals to the workers too, which would die while they import."""
    harness.heed_signals()
    with harness.start(tmp_path, program="compare", before=["setsid"]) as process:
        while not workers.find_workers(process.pid):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, output
    assert "stopped; state saved" in output
    assert "Traceback" not in output
    assert harness.run(tmp_path, program="compare").code == 0
    assert harness.fingerprint(tmp_path) == uninterrupted
