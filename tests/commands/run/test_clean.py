"""``kd clean`` shows the saved state, and prunes nothing that the same commands would use again."""

from __future__ import annotations

import re
from pathlib import Path

import filelock
import pytest

from kd import cli
from kd.storage.run_folder import open_run

QUICK = ("--limit", "100", "--epochs", "1")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".kd" not in path.parts
    }


@pytest.mark.slow
def test_after_pruning_the_same_commands_reuse_every_step_and_change_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "run"))
    for more in (("--seed", "1"), ()):  # the first run's steps are not needed any more
        assert run(capsys, "run", *QUICK, *more, *out)[0] == 0
    assert run(capsys, "distill", *QUICK, "--temperature", "3", *out)[0] == 0
    before = read_files(tmp_path)
    code, shown = run(capsys, "clean", *out)
    assert code == 0
    assert re.search(r"steps of other settings or versions\W+\d+\W+[\d.]+\W+deleted", shown)
    promised = re.search(r"--prune deletes (\d+ files, [\d.]+ MB)", shown)
    assert promised
    code, pruned = run(capsys, "clean", "--prune", *out)
    assert code == 0
    assert f"deleted {promised[1]}" in pruned
    assert not promised[1].startswith("0 ")
    assert read_files(tmp_path) == before
    _, again = run(capsys, "distill", *QUICK, "--temperature", "3", *out)
    assert "epoch 1/1" not in again
    _, again = run(capsys, "run", *QUICK, *out)
    assert "epoch 1/1" not in again
    assert "latency: up to date" in again
    assert "--prune deletes 0 files" in run(capsys, "clean", *out)[1]


def test_a_folder_without_state_and_one_in_use_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "clean", "--out", str(tmp_path / "missing"))
    assert (code, "no saved state in" in text) == (1, True)
    with open_run(tmp_path / ".kd"):
        assert run(capsys, "clean", "--out", str(tmp_path))[0] == 0
        code, text = run(capsys, "clean", "--prune", "--out", str(tmp_path))
    assert (code, "is using" in text) == (1, True)


def test_decoded_images_are_deleted_only_on_request_and_not_while_they_are_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "out" / ".kd").mkdir(parents=True)
    for name in ("free", "busy"):
        (tmp_path / "cache" / "images" / name / "RGB-8x8").mkdir(parents=True)
        (tmp_path / "cache" / "images" / name / "RGB-8x8.lock").touch()
    out = ("--out", str(tmp_path / "out"))
    assert run(capsys, "clean", "--images", *out)[0] == 2
    assert run(capsys, "clean", "--prune", *out)[0] == 0
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 2
    with filelock.FileLock(tmp_path / "cache" / "images" / "busy" / "RGB-8x8.lock"):
        code, text = run(capsys, "clean", "--prune", "--images", *out)
    assert code == 0
    assert "kept 1 folders" in text
    assert [path.name for path in (tmp_path / "cache" / "images").iterdir()] == ["busy"]
