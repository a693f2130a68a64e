"""Failures: a clear error, a nonzero exit status, no partial files, and unchanged earlier results."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import config
import main
import train
from kd.data import mnist
from kd.storage.places import use_folders
from tests.conftest import ToyRun

Run = Callable[..., tuple[int, str, str]]
PROGRAM = Path(main.__file__)


@pytest.fixture
def run(toy: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the pipeline in about a second: linear teacher, narrow students, four steps."""
    monkeypatch.setattr(main, "TeacherModel", lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    config.LIMIT, config.EPOCHS, config.STUDENT_WIDTH, config.BATCH_SIZE = 100, 1, 8, 32

    def call(*arguments: str) -> tuple[int, str, str]:
        return main._cli(list(arguments)), *capsys.readouterr()

    return call


def _files(folder: Path) -> dict[str, bytes]:
    """Return all result files by path, without the resume state."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".kd" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _one_paragraph(err: str) -> str:
    (paragraph,) = err.strip().splitlines()
    assert "Traceback" not in paragraph
    return paragraph


@pytest.fixture
def earlier(run: Run, toy_run: ToyRun, tmp_path: Path) -> dict[str, bytes]:
    """Put results of an earlier run, with other models and settings, into the output folders of the next run."""
    shutil.copytree(toy_run.folder, tmp_path, dirs_exist_ok=True)
    return _files(tmp_path)


@pytest.mark.parametrize("blocked", ["models", "results", "results/plots", "results/metrics", "results/predictions"])
def test_a_folder_that_cannot_be_written_is_named_before_any_work(run: Run, tmp_path: Path, blocked: str) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file where a folder should be")
    code, out, err = run()
    assert (code, out) == (1, "")
    assert f"cannot write to folder {path}" in _one_paragraph(err)
    assert _files(tmp_path) == {blocked: b"a file where a folder should be"}


def _failing_from(call: int, error: BaseException) -> Callable[[int], None]:
    """Return an ``os.fsync`` that fails from its n-th call on, as with a full disk or Ctrl-C."""
    calls = 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error

    return fsync


@pytest.mark.parametrize("call", [1, 16, 50])
@pytest.mark.slow
def test_a_full_disk_keeps_earlier_results_and_leaves_nothing_half_written(
    run: Run, earlier: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(os, "fsync", _failing_from(call, OSError(errno.ENOSPC, "No space left on device")))
    code, _, err = run()
    assert code == 1
    message = _one_paragraph(err)
    assert re.search(
        r"cannot write \S+: No space left on device(\. It needs [\d,]+ bytes)?; [\d,]+ bytes are free", message
    )
    assert str(tmp_path) in message
    after = _files(tmp_path)
    if call > 1:  # the teacher's curves are saved separately, directly after its training
        assert after.pop("results/plots/teacher_training.png") != earlier.pop("results/plots/teacher_training.png")
    assert after == earlier


@pytest.mark.pictures
@pytest.mark.slow
def test_a_file_size_limit_keeps_earlier_results(run: Run, earlier: dict[str, bytes], tmp_path: Path) -> None:
    """The operating system refuses the write in the middle of a file."""
    resource = pytest.importorskip("resource", reason="limits on file size are Unix's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        code, _, err = run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert re.search(r"cannot write \S+: File too large\. It needs [\d,]+ bytes", _one_paragraph(err))
    after = _files(tmp_path)
    assert set(after) == set(earlier)
    assert [name for name in after if after[name] != earlier[name]] == ["results/plots/teacher_training.png"]


def test_a_folder_in_a_files_place_is_refused_before_any_file_is_replaced(
    run: Run, earlier: dict[str, bytes], tmp_path: Path
) -> None:
    in_the_way = tmp_path / "results" / "plots" / "training_curves.png"
    in_the_way.unlink()
    in_the_way.mkdir()
    code, _, err = run()
    assert code == 1
    assert str(in_the_way) in _one_paragraph(err)
    models = [name for name in earlier if name.startswith("models/")]
    assert {name: _files(tmp_path)[name] for name in models} == {name: earlier[name] for name in models}


@pytest.mark.parametrize("step", ["teacher", "distilled"])
def test_ctrl_c_while_training_keeps_earlier_results(
    run: Run, earlier: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    train_model = train.train_model

    def interrupted(title: str, *args: Any) -> Any:
        if title == step:
            raise KeyboardInterrupt
        return train_model(title, *args)

    monkeypatch.setattr(main, "train_model", interrupted)
    code, _, err = run()
    assert code == 130
    assert "interrupted" in _one_paragraph(err)
    after = _files(tmp_path)
    assert set(after) == set(earlier)
    assert {name for name in after if after[name] != earlier[name]} <= {"results/plots/teacher_training.png"}


def test_ctrl_c_while_saving_leaves_no_temporary_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _failing_from(1, KeyboardInterrupt()))
    assert run()[0] == 130
    assert [name for name in _files(tmp_path) if name.endswith(".tmp")] == []


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a Windows process in a different way")
@pytest.mark.slow
def test_a_real_ctrl_c_ends_the_program_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--limit", "100", "--epochs", "100000"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        while "epoch" not in (line := process.stdout.readline()):
            assert line, process.communicate()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.split("\n", 2)[1].startswith("SIGINT: finishing the current step")
    assert "stopped; state saved" in err
    assert "Traceback" not in err
    assert _files(tmp_path) == {}


def test_a_loss_that_is_not_finite_names_its_terms_epoch_and_batch(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--learning-rate", "1e36")
    assert (code, out.count("epoch")) == (1, 0)
    assert re.search(
        r"not finite in epoch 1 of 1, batch \d at learning rate \S+e\+3[56]: hard = (nan|inf), ", _one_paragraph(err)
    )
    assert _files(tmp_path) == {}


def test_a_loss_that_is_not_finite_in_validation_names_the_epoch_too(run: Run) -> None:
    code, _, err = run("--learning-rate", "1e36", "--batch-size", "128")
    assert code == 1
    assert re.search(r"not finite in .*epoch 1 of 1.*, batch 1: hard = (nan|inf)", _one_paragraph(err))


@pytest.mark.usefixtures("toy")
def test_an_image_that_is_not_finite_stops_training_before_the_step_and_saves_nothing(tmp_path: Path) -> None:
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images[37] = float("nan")
    items: Any = [(image, index % 10) for index, image in enumerate(images)]
    loader: DataLoader[Any] = DataLoader(items, batch_size=10)
    with pytest.raises(FloatingPointError, match=r"epoch 1 of 2, batch 4 at learning rate 0\.00\d+: hard = nan"):
        main.train_teacher(loader, loader)
    assert _files(tmp_path) == {}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a user's copy of the data that a test can damage."""
    raw = tmp_path / "copy" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in mnist.EMBEDDED.glob("*.gz"):
        shutil.copy(file, raw / file.name)
    return raw


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("spoil", [_cut, _altered, lambda _: b"", lambda _: b"<html>not found</html>"])
@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"])
def test_a_damaged_copy_of_the_data_is_named_with_the_remedy(
    run: Run, copy: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    file = copy / name
    file.write_bytes(spoil(file.read_bytes()))
    code, out, err = run("--data-dir", str(copy.parent.parent))
    assert (code, out) == (1, "")
    assert str(file) in _one_paragraph(err)
    assert "omit the data folder to use the embedded copy" in err


def test_a_missing_copy_of_the_data_is_named_with_the_remedy(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--data-dir", str(tmp_path / "nowhere"))
    assert (code, out) == (1, "")
    assert str(tmp_path / "nowhere" / "MNIST" / "raw" / "train-images-idx3-ubyte") in _one_paragraph(err)
    assert "omit the data folder to use the embedded copy" in err


def test_a_missing_embedded_file_is_named_with_its_own_remedy(
    run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "EMBEDDED", copy)
    (copy / "t10k-labels-idx1-ubyte.gz").unlink()
    code, _, err = run()
    assert code == 1
    assert str(copy / "t10k-labels-idx1-ubyte.gz") in _one_paragraph(err)
    assert "reinstall the package" in err


def test_a_split_too_small_for_ten_classes_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--limit", "100", "--test-size", "0.05")
    assert code == 1
    assert re.search(r"holding back 0\.05 of 100 samples .* they contain 10 and 5 of 10 classes", _one_paragraph(err))
    assert _files(tmp_path) == {}


@pytest.mark.parametrize("place", ["models", "results", "results/metrics"])
def test_results_that_another_run_writes_are_left_alone_whatever_the_state_folder(
    run: Run, tmp_path: Path, place: str
) -> None:
    with use_folders([tmp_path / place]):
        code, out, err = run("--state-dir", str(tmp_path / "other-state"))
        assert (code, out) == (1, "")
        assert f"another run is writing to {tmp_path / place}" in _one_paragraph(err)
        assert _files(tmp_path).keys() <= {"other-state/lock", "other-state/owner"}
