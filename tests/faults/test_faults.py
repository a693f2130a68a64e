"""The real pipeline resumes with identical results after kills, full or failing disks and damaged files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import harness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    ended = harness.run(folder)
    assert ended.code == 0, ended.output
    return folder


def assert_resumes(folder: Path, uninterrupted: Path) -> str:
    ended = harness.run(folder)
    assert ended.code == 0, ended.output
    assert harness.fingerprint(folder) == harness.fingerprint(uninterrupted)
    return ended.output


needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace (Debian package strace)")


@needs_strace
@pytest.mark.parametrize(
    "fault",
    [
        "fsync:signal=KILL:when=9",
        "fsync:signal=KILL:when=45",
        "rename:signal=KILL:when=21",
        "unlink:signal=KILL:when=2",
    ],
)
def test_a_kill_at_a_system_call_does_not_change_the_results(fault: str, tmp_path: Path, uninterrupted: Path) -> None:
    assert harness.run(tmp_path, before=harness.strace(fault)).code in (-9, 137)
    assert_resumes(tmp_path, uninterrupted)


@needs_strace
def test_a_kill_while_publishing_the_results_does_not_change_them(tmp_path: Path, uninterrupted: Path) -> None:
    renames = harness.count_calls(tmp_path / "count", "rename")
    run = tmp_path / "run"
    assert harness.run(run, before=harness.strace(f"rename:signal=KILL:when={renames - 4}")).code in (-9, 137)
    assert_resumes(run, uninterrupted)


def test_kills_at_random_times_do_not_change_the_results(tmp_path: Path, uninterrupted: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(3):
        harness.run_and_kill(tmp_path, rng.uniform(2, 8))
    assert_resumes(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGTERM, "MNIST:"),
        (signal.SIGINT, "teacher    epoch 1/2"),
        (signal.SIGTERM, "control    epoch 1/2"),
        (signal.SIGTERM, "Test set"),
    ],
)
def test_a_signal_saves_the_state_and_sets_the_exit_status(
    number: signal.Signals, when: str, tmp_path: Path, uninterrupted: Path
) -> None:
    ended = harness.run_and_signal(tmp_path, number, when)
    assert ended.code == 128 + number, ended.output
    assert "(without --fresh) to resume" in ended.output
    assert "Traceback" not in ended.output
    assert_resumes(tmp_path, uninterrupted)


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failing_disk_ends_the_run_with_a_short_error(error: str, tmp_path: Path, uninterrupted: Path) -> None:
    ended = harness.run(tmp_path, before=harness.strace(f"fsync:error={error}:when=30"))
    assert ended.code == 1
    assert "Traceback" not in ended.output
    assert "cannot write" in ended.output
    assert "bytes are free" in ended.output
    assert_resumes(tmp_path, uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 24 MB, too small for the steps of a run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_reported_and_no_state_is_lost(small_disk: Path, uninterrupted: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(os.urandom(15 * 1024**2))
    ended = harness.run(small_disk)
    assert ended.code == 1
    assert "bytes are free" in ended.output or "are free. Free space" in ended.output
    assert "Traceback" not in ended.output
    filler.unlink()
    assert_resumes(small_disk, uninterrupted)


def newest_snapshot(folder: Path) -> Path:
    return max((folder / ".kd" / "steps").glob("control-*/*.pt"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "zeroed", "empty", "foreign"])
def test_a_damaged_snapshot_is_reported_and_the_previous_one_used(
    damage: str, tmp_path: Path, uninterrupted: Path
) -> None:
    harness.run_and_signal(tmp_path, signal.SIGTERM, "control    epoch 1/2")
    victim = newest_snapshot(tmp_path)
    content = bytearray(victim.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    foreign = next((tmp_path / ".kd" / "steps").glob("teacher-*/*.pt")).read_bytes()
    victim.write_bytes(
        {
            "truncated": bytes(content[: len(content) // 2]),
            "flipped": bytes(content),
            "zeroed": bytes(len(content)),
            "empty": b"",
            "foreign": foreign,
        }[damage]
    )
    output = assert_resumes(tmp_path, uninterrupted)
    assert "snapshot skipped: " in output
    assert victim.name in output


def test_if_no_snapshot_is_intact_the_run_raises(tmp_path: Path) -> None:
    harness.run_and_signal(tmp_path, signal.SIGTERM, "control    epoch 1/2")
    for victim in (tmp_path / ".kd" / "steps").glob("control-*/*.pt"):
        victim.write_bytes(b"")
    ended = harness.run(tmp_path)
    assert ended.code == 1
    assert "is usable. Restore an intact one" in ended.output


def test_a_second_run_in_the_same_folder_raises_and_a_killed_run_does_not_block(
    tmp_path: Path, uninterrupted: Path
) -> None:
    with harness.start(tmp_path) as first:
        assert first.stdout is not None
        next(line for line in first.stdout if line.startswith("MNIST:"))
        first.send_signal(signal.SIGSTOP)  # it must not end before the second run starts
        second = harness.run(tmp_path)
        assert second.code == 1
        assert f"another run (process {first.pid}) is using" in second.output
        first.kill()
        first.communicate()
    assert_resumes(tmp_path, uninterrupted)


def test_another_temperature_reuses_teacher_logits_and_control(tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    ended = harness.run(tmp_path / "run", "--temperature", "4")
    assert ended.code == 0
    for step in ("teacher", "logits-training", "logits-validation", "control"):
        assert f"{step}: up to date" in ended.output
    assert "distilled: inputs changed (objective.closure.temperature" in ended.output
    assert_resumes(tmp_path / "run", uninterrupted)  # the first result is still saved: nothing is trained again


def test_fresh_runs_all_steps_and_moves_the_old_state_aside(tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    ended = harness.run(tmp_path / "run", "--fresh")
    assert ended.code == 0
    assert "up to date" not in ended.output
    assert (tmp_path / "run" / ".kd" / "aside-1").is_dir()
    assert harness.fingerprint(tmp_path / "run") == harness.fingerprint(uninterrupted)
