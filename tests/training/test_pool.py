"""The pool gives the same bits as a single thread, and a killed program resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import kd
import main as pipeline
from kd.console import progress, relay_progress, say
from kd.data.datasets import DistillDataset
from kd.devices import usable_cores
from kd.storage.run_folder import open_run
from kd.training.lean_adam import LeanAdam
from kd.training.pool import run_in_pool
from kd.training.students import DistillationData, Student, TrainedStudent, train_student, train_students
from kd.types import Batch, Objective
from tests.conftest import CLASSES, tiny_model

ROOT = Path(pipeline.__file__).parent


@pytest.fixture
def distill_data(digits: kd.ImageDataset) -> DistillationData:
    logits = 3 * torch.randn(len(digits), CLASSES, generator=torch.Generator().manual_seed(1))
    dataset = DistillDataset(digits, logits)
    return DistillationData(dataset, dataset, digits, batch_size=16)


@pytest.fixture(autouse=True)
def _tests_by_value() -> Iterator[None]:
    """Send the functions of tests to workers themselves: importing the tests takes a second in each."""
    modules = [sys.modules[name] for name in (__name__, tiny_model.__module__)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_student(seed: int, objective: Objective, *, epochs: int = 2, pause: float = 0.0) -> Student:
    """Return a student with dropout and batch norm, so that order, random states and buffers all matter."""

    def train(title: str, model: nn.Module, towards: Objective, training: Any, validation: Any) -> kd.History:
        from kd.training import run_steps

        optimizer = LeanAdam(model.parameters(), lr=0.01)
        return run_steps.train(
            title, model, towards, training, validation, optimizer=optimizer, epochs=epochs, seed=seed
        )

    def slowly(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(pause)
        return objective(model, batch)

    return Student(tiny_model(seed, dropout=0.3, batch_norm=True), slowly if pause else objective, train, epochs)


def make_three() -> dict[str, Student]:
    """Return students whose objectives and training functions are closures, which plain pickle cannot send."""
    return {
        "control-1": make_student(1, kd.supervised),
        "distilled-1": make_student(1, kd.distilled(temperature=4, alpha=0.3)),
        "distilled-2": make_student(2, kd.distilled(temperature=2, alpha=0.0), epochs=3),
    }


def assert_same(first: TrainedStudent, second: TrainedStudent) -> None:
    assert first.history == second.history
    assert list(first.weights) == list(second.weights)
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert torch.equal(first.validation.logits, second.validation.logits)
    assert (first.test is None) == (second.test is None)
    if first.test is not None and second.test is not None:
        assert torch.equal(first.test.logits, second.test.logits)
        assert torch.equal(first.test.labels, second.test.labels)


@pytest.mark.usefixtures("one_thread")
def test_every_student_is_bit_identical_to_a_single_threaded_training(distill_data: DistillationData) -> None:
    students = make_three()
    before = {name: kd.weights_bytes(student.model) for name, student in students.items()}
    trained = dict(train_students([distill_data], students, processes=2))
    assert {name: kd.weights_bytes(student.model) for name, student in students.items()} == before
    assert set(trained) == set(students)
    for name, untrained in make_three().items():
        assert_same(trained[name], train_student(distill_data, name, untrained))


class Untouchable(Dataset[Any]):
    """A dataset with a length whose samples must not be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise AssertionError(f"sample {index} of the test set was read")


@pytest.mark.usefixtures("no_pool")
def test_a_finished_student_is_reused_and_an_unused_test_set_is_never_read(
    distill_data: DistillationData, tmp_path: Path
) -> None:
    untouchable = distill_data._replace(test=Untouchable())
    students = {"only": make_student(3, kd.supervised)}
    with open_run(tmp_path):
        (first,) = dict(train_students([untouchable], students, tested=False, processes=1)).values()
        generations = sorted(path.name for path in (tmp_path / "steps").rglob("*.pt"))
        (second,) = dict(train_students([untouchable], students, tested=False, processes=1)).values()
    assert first.test is None
    assert_same(first, second)
    assert sorted(path.name for path in (tmp_path / "steps").rglob("*.pt")) == generations


def diverging(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    output, terms = kd.supervised(model, batch)
    return output, {"hard": terms["hard"] * float("nan")}


@pytest.mark.slow
def test_an_error_names_the_student_and_stops_the_pool(distill_data: DistillationData) -> None:
    students = {"fine": make_student(1, kd.supervised), "doomed": make_student(1, diverging)}
    with pytest.raises(FloatingPointError, match=r"doomed: the loss or its gradient is not finite in epoch 1"):
        dict(train_students([distill_data], students, processes=1))


def die(shared: None, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_raises_with_a_remedy() -> None:
    with pytest.raises(OSError, match=r"counting: one of 1 processes was killed.*fewer --processes"):
        list(run_in_pool(die, None, {"one": 1}, steps={"one": 1}, title="counting", processes=1))


def test_zero_processes_raise_and_no_items_give_no_results() -> None:
    with pytest.raises(ValueError, match=r"processes must be an integer of at least 1\. Got 0 instead"):
        list(run_in_pool(die, None, {}, steps={}, title="none", processes=0))
    assert list(run_in_pool(die, None, {}, steps={}, title="none")) == []
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_a_worker_prints_only_errors_and_reports_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[int] = []
    with relay_progress(steps.append):
        say("progress")
        say("trouble", to_stderr=True)
        with progress("bar", steps=5, done=2) as advance:
            advance()
            advance(2)
    assert steps == [2, 1, 2]
    assert capsys.readouterr() == ("", "trouble\n")


# Trains four slow students in OUT, two at a time, and prints a digest of each at the end.
PROGRAM = """
import sys
from pathlib import Path

import torch

import kd
from kd.commands.program import exit_status
from kd.storage.run_folder import open_run
from kd.training.students import DistillationData, train_students
from tests.training.test_pool import make_student

generator = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (64, 1, 6, 6), generator=generator).to(torch.uint8)
digits = kd.ImageDataset(images, torch.arange(64) % 4, mean=0.4, std=0.25)

def program():
    with open_run(Path(sys.argv[1]), interval=0.0):
        students = {f"s{seed}": make_student(seed, kd.supervised, epochs=6, pause=0.03) for seed in range(4)}
        data = [DistillationData(digits, digits, digits, 8)]
        sums = {}
        for name, trained in train_students(data, students, processes=2):
            print("finished", flush=True)
            sums[name] = [float(tensor.double().sum()) for tensor in trained.weights.values()]
        print(sorted(sums.items()))

if __name__ == "__main__":
    sys.exit(exit_status(program))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def complete(program: Path, folder: Path) -> str:
    with start(program, folder) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.splitlines()[-1]


def find_workers(folder: Path) -> list[int]:
    """Return the pids of the worker processes of the program that runs in this folder."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = ((entry / name).read_bytes() for name in ("environ", "cmdline"))
        except OSError:
            continue
        if b"multiprocessing" in command and str(folder).encode() in environment:
            pids.append(int(entry.name))
    return pids


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_program_leaves_no_process_and_resumes(
    number: signal.Signals, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, folder = complete(program, tmp_path / "untouched"), tmp_path / "killed"
    monkeypatch.setenv("KD_TEST_FOLDER", str(folder))  # inherited by worker processes, to find them
    with start(program, folder) as process:
        assert process.stdout
        assert process.stdout.readline() == "finished\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    deadline = time.monotonic() + 20
    while find_workers(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert find_workers(folder) == []
    assert list((folder / "steps").rglob("*.pt"))
    assert complete(program, folder) == expected
