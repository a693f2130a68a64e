"""Students that start from a file, or with frozen parameters: all arms start equal, and a run says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd import cli
from kd.commands.before_training import require_models
from kd.commands.data import Data, Task, load_data
from kd.commands.models import new_student, new_teachers
from kd.commands.settings import RunSettings
from kd.commands.students import describe_start, digest_of_file, forget_files, start_student
from kd.methods import METHODS
from kd.models.build import build
from kd.storage import stopping
from kd.storage.files import sha256
from kd.storage.weights import weights_bytes
from kd.training import run_steps

CPU = torch.device("cpu")
TASK = Task((1, 8, 8), tuple("0123456789"))
DATA = ("--data", "sklearn:digits", "--teacher", "mlp:16", "--epochs", "1", "--batch-size", "64")
PAIRS = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--processes", "1")


@pytest.fixture(autouse=True)
def _new_command() -> None:
    forget_files()


def write_weights(path: Path, *, spec: str = "mlp:8", classes: int = 10, seed: int = 77) -> Path:
    model = build(spec, input_shape=(1, 8, 8), classes=classes, seed=seed)
    torch.save({"state_dict": {f"module.{name}": v for name, v in model.state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "student.pth")


def run(*arguments: str | Path) -> int:
    try:
        return cli.main([*map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """Record the weights with which each training starts, by title."""
    starts: dict[str, dict[str, Tensor]] = {}
    original = run_steps.train

    def train(title: str, model: nn.Module, *arguments: Any, **options: Any) -> Any:
        starts[title] = {name: value.clone() for name, value in model.state_dict().items()}
        return original(title, model, *arguments, **options)

    monkeypatch.setattr(run_steps, "train", train)
    return starts


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, bool]:
    return {name: torch.equal(value, second[name]) for name, value in first.items()}


def weights(file: Path) -> dict[str, Tensor]:
    return {n.removeprefix("module."): v for n, v in torch.load(file, weights_only=True)["state_dict"].items()}


def test_control_and_distilled_student_start_from_the_file(
    file: Path, tmp_path: Path, started: dict[str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("run", *DATA, "--student", f"mlp:8={file}", "--out", out) == 0
    for arm in ("control", "distilled"):
        assert all(equal(started[arm], weights(file)).values())
    printed = " ".join(capsys.readouterr().out.split())
    assert f"student: weights from {file}; read the entry 'state_dict'; removed 'module.' from the names" in printed
    assert f"The control is fine-tuned from {file}" in printed
    assert "they differ in the order of batches only" in printed
    assert "The control is fine-tuned from" in (out / "results/report.html").read_text()
    config = json.loads((out / "results/metrics/metrics.json").read_text())["config"]
    assert config["STUDENT_SHA256"] == sha256(file.read_bytes())
    assert run("evaluate", "--out", out) == 0


@pytest.mark.usefixtures("no_pool")
def test_all_arms_and_pairs_start_from_the_same_weights_with_a_new_head_for_each_seed(
    tmp_path: Path, started: dict[str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_weights(tmp_path / "student.pth", classes=7), tmp_path / "out"
    few = ("--pairs", "2", "--smoothing", "0.1", "--longer", "--processes", "1")
    assert run("compare", *DATA, *few, "--student", f"mlp:8={file}", "--out", out) == 0
    students = {title: state for title, state in started.items() if "seed" in title}
    assert len(students) >= 6
    for title, state in students.items():
        others = [
            other for name, other in students.items() if name.partition("-seed")[2] == title.partition("-seed")[2]
        ]
        assert all(all(equal(state, other).values()) for other in others), "arms of a pair"
        assert all(torch.equal(state[name], weights(file)[name]) for name in ("hidden.weight", "hidden.bias"))
    heads = {float(state["output.weight"].sum()) for state in students.values()}
    assert len(heads) == 2, "one for each seed"
    printed = " ".join(capsys.readouterr().out.split())
    assert "its head (output.weight, output.bias) is for 7 classes: replaced by a new one for 10" in printed
    sentence = "All seeds share these weights; they differ in the order of batches, the new head."
    assert printed.count(sentence) >= 2, "at the start and in the verdict"
    assert sentence in (out / "results/report.html").read_text()


@pytest.mark.usefixtures("no_pool")
def test_a_sweep_starts_all_points_from_the_file(
    file: Path, tmp_path: Path, started: dict[str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--temperatures", "2", "--alphas", "0.5", "--seeds", "1", "--final-pairs", "2", "--processes", "1")
    student = ("--student", f"mlp:8={file}", "--temperature", "2")
    assert run("sweep", *DATA, *grid, *student, "--out", tmp_path / "out") == 0
    students = [state for title, state in started.items() if "seed" in title]
    assert students
    assert all(all(equal(state, weights(file)).values()) for state in students)
    assert "The control is fine-tuned from" in (tmp_path / "out/results/report.html").read_text()
    assert run("sweep", *DATA, *grid, "--student", f"mlp={file}", "--vary", "student_width=8,256", "--out", "no") != 0
    assert "--vary student_width" in " ".join(capsys.readouterr().err.split())


def test_frozen_parameters_are_the_files_after_training(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("run", *DATA, "--student", f"mlp:8={file}", "--freeze", "hidden.*", "--out", out) == 0
    for name in ("student_regular.pth", "student_distilled.pth"):
        trained = torch.load(out / "models" / name, weights_only=True)
        expected = {"hidden.weight": True, "hidden.bias": True, "output.weight": False, "output.bias": False}
        assert equal(trained, weights(file)) == expected
    assert "In all students 2 of 4 parameter tensors are frozen (hidden.*)" in (out / "results/report.html").read_text()


@contextmanager
def stopping_after(steps: int) -> Iterator[None]:
    """Request a stop after this many steps of the students."""
    count = iter(range(1, 10_000))
    original = run_steps.progress

    @contextmanager
    def progress(title: str, **options: Any) -> Iterator[Any]:
        with original(title, **options) as advance:

            def step(*arguments: Any, **more: Any) -> None:
                advance(*arguments, **more)
                if title in ("control", "distilled") and next(count) == steps:
                    stopping.request_stop()

            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "_received", [])
        patch.setattr(run_steps, "progress", progress)
        yield


def models(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "models").glob("*.pth")}


@pytest.mark.parametrize("steps", [5, 25])
@pytest.mark.slow
def test_a_stopped_run_resumes_with_identical_students(steps: int, tmp_path: Path) -> None:
    file = write_weights(tmp_path / "student.pth", spec="cnn:4", classes=7)
    flags = (*DATA, "--student", f"cnn:4={file}", "--freeze", "layer1.*", "--freeze", "layer2.0.*")
    assert run("run", *flags, "--out", tmp_path / "whole") == 0
    with stopping_after(steps):
        assert run("run", *flags, "--out", tmp_path / "stopped") != 0
    assert run("run", *flags, "--out", tmp_path / "stopped") == 0
    assert models(tmp_path / "stopped") == models(tmp_path / "whole")


@pytest.mark.slow
def test_a_file_that_was_edited_trains_the_students_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, out = (*DATA, "--student", f"mlp:8={file}"), tmp_path / "out"
    with stopping_after(5):
        assert run("run", *flags, "--out", out) != 0
    write_weights(file, seed=78)
    assert run("run", *flags, "--out", out) == 0
    assert run("run", *flags, "--out", tmp_path / "fresh") == 0
    assert models(out) == models(tmp_path / "fresh")
    capsys.readouterr()
    write_weights(file, seed=79)
    assert run("run", *flags, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "teacher: up to date, reused" in printed
    assert "control: up to date, reused" not in printed


def test_all_students_of_a_command_start_from_the_file_as_first_read(file: Path) -> None:
    settings, content = RunSettings(student=f"mlp:8={file}"), file.read_bytes()
    first = new_student(settings, TASK, CPU)
    write_weights(file, seed=3)
    assert weights_bytes(new_student(settings, TASK, CPU)) == weights_bytes(first)
    assert digest_of_file(settings) == sha256(content)
    file.unlink()
    assert weights_bytes(new_student(settings, TASK, CPU)) == weights_bytes(first)
    forget_files()
    with pytest.raises(OSError, match=r"there is no file .*student\.pth"):
        new_student(settings, TASK, CPU)


def test_several_weights_in_the_file_are_chosen_by_name(tmp_path: Path) -> None:
    states = [build("mlp:8", input_shape=(1, 8, 8), classes=10, seed=seed).state_dict() for seed in (1, 2)]
    torch.save({"state_dict": states[0], "state_dict_ema": states[1]}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"--student mlp:8=.*it holds several weights that fit"):
        new_student(RunSettings(student=f"mlp:8={tmp_path / 'file.pth'}"), TASK, CPU)
    for entry, state in zip(("state_dict", "state_dict_ema"), states, strict=True):
        model = new_student(RunSettings(student=f"mlp:8={tmp_path / 'file.pth'}::{entry}"), TASK, CPU)
        assert all(equal(model.state_dict(), state).values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--student", "student.pth"), "--student must be NAME, or NAME=FILE for pretrained weights"),
        (("--student", "mlp:8="), "--student must be NAME, or NAME=FILE"),
        (("--student", "logits=a.csv"), "--student must be NAME, or NAME=FILE"),
        (("--student", "mlp:8=absent.pth"), "there is no file absent.pth with weights"),
        (("--student", "mlp:16=FILE"), "hidden.weight should be [16, 64] of torch.float32. Got [8, 64]"),
        (("--student", "cnn:4=FILE"), "it should hold ["),
        (("--student", "mlp:8=FILE", "--freeze", "hiden.*"), "Did you mean hidden.*"),
        (("--student", "mlp:8", "--freeze", "*"), "matches all 4 parameters"),
        (("--student", "mlp:8=OTHER", "--freeze", "output.*"), "patterns that do not match output.bias"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    flags: tuple[str, ...], message: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_weights(tmp_path / "other.pth", classes=7)
    flags = tuple(flag.replace("FILE", str(file)).replace("OTHER", str(other)) for flag in flags)
    assert run("run", *DATA, *flags, "--out", tmp_path / "out") != 0
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert "epoch 1" not in captured.out


IMAGES = ("--limit", "300", "--epochs", "1", "--teacher", "cnn:8", "--student", "cnn:4", "--freeze", "layer*")


@pytest.mark.parametrize("method", ["fitnet", "at", "ab"])
def test_a_method_that_reaches_only_frozen_layers_is_refused(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", *IMAGES, "--method", method, "--out", tmp_path / "out") != 0
    error = " ".join(capsys.readouterr().err.split())
    assert f"--freeze layer* must leave a parameter that --method {method} trains" in error


@pytest.fixture(scope="module")
def small_images() -> Data:
    return load_data(RunSettings(data="mnist", limit=300))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_methods_that_reach_trained_layers_are_accepted(method: str, small_images: Data) -> None:
    settings = RunSettings(limit=300, teacher=("cnn:8",), student="cnn:8", method=method, freeze=("layer1.*",))
    require_models(settings, small_images, new_teachers(settings, small_images))


class Dropping(nn.Sequential):
    def __init__(self, p: float) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(p), nn.Linear(64, 10))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_dropout_is_named_among_the_differences_of_seeds(p: float, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n"
        f"    return nn.Sequential(nn.Flatten(), nn.Dropout({p}), nn.Linear(64, 10))\n"
    )
    (tmp_path / "w.pth").write_bytes(weights_bytes(Dropping(p)))
    sentences = describe_start(RunSettings(student=f"{tmp_path}/net.py:net={tmp_path}/w.pth"), TASK)
    expected = "the order of batches, dropout." if p else "the order of batches only."
    assert sentences[1] == f"All seeds share these weights; they differ in {expected}"


def test_students_without_file_and_frozen_parameters_are_as_before() -> None:
    settings = RunSettings(seed=3)
    assert describe_start(settings, TASK) == []
    assert digest_of_file(settings) is None
    start = start_student(settings, TASK)
    assert weights_bytes(start.model) == weights_bytes(build("mlp:256", input_shape=(1, 8, 8), classes=10, seed=3))
