"""``kd run``, ``kd compare`` and ``kd sweep`` on user data and user models."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd
from kd import cli
from kd.commands.data import Task, load_data
from kd.commands.models import combine_teachers, new_student, new_teacher, new_teachers, with_teacher_seed
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import ModelChoice
from kd.data.sources import open_source, split_source
from kd.data.sources.scan import scan
from kd.models.build import build
from tests.data.sources.tables import make_columns, write_table

DIGITS = ("--data", "sklearn:digits", "--teacher", "mlp:32", "--student", "mlp:8", "--epochs", "1")
CPU = torch.device("cpu")


def metrics(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    content: dict[str, dict[str, dict[str, float]]] = json.loads((folder / "results/metrics/metrics.json").read_text())
    return content


def test_a_run_on_tabular_data_with_named_models_writes_all_results(tmp_path: Path) -> None:
    assert cli.main(["run", *DIGITS, "--out", str(tmp_path)]) == 0
    recorded = metrics(tmp_path)
    assert recorded["config"]["DATA"] == "sklearn:digits"  # type: ignore[comparison-overlap]
    assert recorded["test"]["distilled"]["images"] == 360
    manifest = json.loads((tmp_path / "models/manifest.json").read_text())["models"]
    assert manifest["student_regular.pth"]["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    plots = {path.name for path in (tmp_path / "results/plots").iterdir()}
    assert "teacher_training.png" in plots
    report = (tmp_path / "results/report.html").read_text()
    assert "Disagreements" in report


def test_a_trained_teacher_is_loaded_measured_and_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *DIGITS, "--out", str(tmp_path / "first")]) == 0
    weights = tmp_path / "first/models/teacher_model.pth"
    arguments = [argument for argument in DIGITS if argument not in ("--teacher", "mlp:32")]
    loaded = ("--teacher", f"mlp:32={weights}")
    assert cli.main(["run", *arguments, *loaded, "--out", str(tmp_path / "second")]) == 0
    assert "teacher: accuracy" in capsys.readouterr().out
    assert (tmp_path / "second/models/teacher_model.pth").read_bytes() == weights.read_bytes()
    # The same teacher gives the same distilled student; the control does not depend on the teacher.
    for name in ("student_regular.pth", "student_distilled.pth"):
        first, second = ((tmp_path / run / "models" / name).read_bytes() for run in ("first", "second"))
        assert first == second, name
    results = tmp_path / "second/results"
    assert not (results / "plots/teacher_training.png").exists()
    assert re.search(r"training, s</t[dh]>\s*<td[^>]*>loaded<", (results / "report.html").read_text())
    assert list(metrics(tmp_path / "second")["curves"]) == ["control", "distilled"]


def test_several_teachers_form_an_ensemble(tmp_path: Path) -> None:
    assert cli.main(["run", *DIGITS, "--teacher", "mlp:16", "--out", str(tmp_path)]) == 0
    states = torch.load(tmp_path / "models/teacher_model.pth", weights_only=True)
    assert {name.split(".")[1] for name in states} == {"0", "1"}
    assert (tmp_path / "results/report.html").exists()


@pytest.mark.usefixtures("no_pool")
def test_compare_accepts_the_same_flags(tmp_path: Path) -> None:
    few = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--processes", "1")
    assert cli.main(["compare", *DIGITS, *few, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "results/metrics/comparison.json").read_text())
    assert len(summary["verdicts"]) == 1


def test_a_model_that_does_not_fit_the_data_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--data", "sklearn:digits", "--teacher", "convnet", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "convnet" in captured.err.lower()
    assert "epoch" not in captured.out
    assert not (tmp_path / "models").exists() or not any((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    "text", ["teacher.pth", "x.pth.tar", "=x.pth", "mlp:3=", "own.safetensors", "p.csv", "logits", "logits="]
)
def test_a_file_without_a_model_name_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--teacher", text])
    assert end.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--teacher must be NAME, NAME=FILE" in error
    assert "Weights need their model's name" in error


def test_default_names_build_the_models_of_the_documented_pipeline() -> None:
    task = Task((1, 28, 28), tuple("0123456789"))
    settings = RunSettings(seed=3)
    student = new_student(settings, task, CPU)
    same = build("mlp:256", input_shape=(1, 28, 28), classes=10, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), same.parameters(), strict=True))
    teacher, trained, seed = new_teacher(settings, ModelChoice("convnet", None), load_data(settings))
    assert (trained, seed) == (False, 3)
    assert type(teacher).__name__ == "ConvNet"


def test_tabular_data_is_split_by_the_settings() -> None:
    data = load_data(RunSettings(data="sklearn:wine", test_share=0.5, test_size=0.25))
    assert data.sizes == {"training": 66, "validation": 23, "test": 89}
    assert data.task == Task((13,), ("class_0", "class_1", "class_2"))


TOKENS = """
from torch import nn
class Model(nn.Module):
    def __init__(self, classes, width=8):
        super().__init__()
        self.embedding, self.output = nn.Embedding(20, width), nn.Linear(width, classes)
    def forward(self, tokens):
        return self.output(self.embedding(tokens).mean(dim=1))
class Small(Model):
    def __init__(self, classes):
        super().__init__(classes, 2)
class Sequence(Model):
    def forward(self, tokens):
        return self.output(self.embedding(tokens))
class Regression(Model):
    def forward(self, tokens):
        return super().forward(tokens)[:, 0]
"""


def token_arguments(folder: Path, teacher: str) -> list[str]:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 20, size=(400, 6))
    np.savez(folder / "tokens.npz", x=tokens, y=tokens.mean(axis=1) > 10)
    (folder / "net.py").write_text(TOKENS)
    models = ("--teacher", teacher.replace("net.py", str(folder / "net.py")), "--student", f"{folder / 'net.py'}:Small")
    return ["--data", str(folder / "tokens.npz"), *models, "--epochs", "5", "--learning-rate", "0.1"]


def test_models_of_tokens_are_tried_on_an_item_of_the_data_and_trained(tmp_path: Path) -> None:
    arguments = token_arguments(tmp_path, "net.py:Model")
    assert cli.main(["run", *arguments, "--out", str(tmp_path / "first")]) == 0
    weights = tmp_path / "first/models/teacher_model.pth"
    loaded = token_arguments(tmp_path, f"net.py:Model={weights}")
    assert cli.main(["run", *loaded, "--method", "rkd", "--out", str(tmp_path / "second")]) == 0
    assert set(metrics(tmp_path / "second")["test"]) >= {"teacher", "control", "distilled"}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("net.py:Sequence", r"must return logits \[1, 2\] .*Got \[1, 6, 2\] instead\. Sequences .* not supported"),
        ("net.py:Regression", r"must return logits \[1, 2\] .*Got \[1\] instead.* regression are not supported"),
        ("mlp:4", r"mlp:4 failed on one sample \[1, 6\] of torch\.int64 .*Integer inputs are tokens: .*embedding"),
    ],
)
def test_models_that_do_not_fit_tokens_are_refused_by_name(
    teacher: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *token_arguments(tmp_path, teacher), "--out", str(tmp_path / "out")]) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_class_names_of_user_data_appear_in_all_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["<b>cultivar & sons</b>", "class_1", "class_2 with a name that is far too long for an axis"]
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 3
    inputs = generator.normal(size=(150, 2)) + labels[:, None]
    np.savez(tmp_path / "own.npz", x_train=inputs.astype("float32"), y_train=np.array(names)[labels])
    data, models = ("--data", str(tmp_path / "own.npz")), ("--teacher", "mlp:8", "--student", "mlp:2")
    assert cli.main(["run", *data, *models, "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert f"│ {names[0]} " in capsys.readouterr().out
    recorded = json.loads((tmp_path / "results/metrics/metrics.json").read_text())
    assert recorded["classes"] == names
    texts = {path.name: path.read_text().splitlines() for path in tmp_path.glob("results/*/*.csv")}
    tables = {name: list(csv.DictReader(lines)) for name, lines in texts.items()}
    for row in tables["test_predictions.csv"]:
        assert row["label_name"] == names[int(row["label"])]
        assert row["control_prediction_name"] == names[int(row["control_prediction"])]
    for row in tables["per_class_accuracy.csv"]:
        assert row["class_name"] == names[int(row["class"])]
    for row in tables["confusion_matrices.csv"]:
        assert (row["true_name"], row["predicted_name"]) == (names[int(row["true"])], names[int(row["predicted"])])
    report = (tmp_path / "results/report.html").read_text()
    assert "<b>cultivar" not in report


def test_a_table_with_categories_runs_and_a_repeated_run_reuses_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_table(tmp_path / "customers.csv", make_columns())
    arguments = ("run", "--data", str(path), "--target", "kind", "--teacher", "mlp:8", "--student", "mlp:2")
    command = (*arguments, "--epochs", "1", "--out", str(tmp_path / "out"))
    assert cli.main(command) == 0
    assert "table: 10 columns" in capsys.readouterr().out
    assert metrics(tmp_path / "out")["config"]["TARGET"] == "kind"  # type: ignore[comparison-overlap]
    weights = {file.name: file.read_bytes() for file in (tmp_path / "out/models").iterdir()}
    assert cli.main(command) == 0
    assert "epoch 1/1" not in capsys.readouterr().out
    assert weights == {file.name: file.read_bytes() for file in (tmp_path / "out/models").iterdir()}
    assert cli.main((*arguments[:3], "--teacher", "mlp:8", "--out", str(tmp_path / "other"))) == 1
    assert "target (--target) must name the column of customers.csv" in " ".join(capsys.readouterr().err.split())


def test_numbered_classes_have_no_name_columns(tmp_path: Path) -> None:
    assert cli.main(["run", *DIGITS, "--out", str(tmp_path)]) == 0
    assert "classes" not in json.loads((tmp_path / "results/metrics/metrics.json").read_text())
    with (tmp_path / "results/predictions/test_predictions.csv").open() as opened:
        assert "label_name" not in next(csv.reader(opened))


def test_the_saved_split_gives_the_same_splits_again(tmp_path: Path) -> None:
    assert cli.main(["run", *DIGITS, "--out", str(tmp_path)]) == 0
    splits = split_source(
        open_source("sklearn:digits"), chosen=(tmp_path / "results/metrics/split.json").read_bytes(), seed=7
    )
    data = load_data(RunSettings(data="sklearn:digits"))
    for split, expected in ((splits.train, data.train_set), (splits.val, data.val_set), (splits.test, data.test_set)):
        assert torch.equal(scan(split).labels, scan(expected).labels)
        assert scan(split).digests == scan(expected).digests


@pytest.mark.usefixtures("no_pool")
def test_a_comparison_prints_the_saved_time_only_if_logits_are_cached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--processes", "1")
    assert cli.main(["compare", *DIGITS, *few, "--out", str(tmp_path)]) == 0
    assert "s saved" in capsys.readouterr().out
    assert cli.main(["compare", *DIGITS, *few, "--method", "sp", "--out", str(tmp_path)]) == 0
    assert "saved" not in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "results/metrics/comparison_timings.json").read_text())["teacher_seconds_saved"] is None
    )


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.memory = nn.LSTM(input_shape[-1], 8, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, sequences):
        return self.head(self.memory(sequences)[0][:, -1])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small colour images and sequences, as arrays, and a network in a Python file."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 3  # 144 for training: no batch of one sample, on which batch norm fails
    images = generator.integers(0, 120, (200, 32, 32, 3)) + 40 * labels[:, None, None, None]
    np.savez("images.npz", x_train=images.astype("uint8"), y_train=labels)
    waves = np.sin((labels[:, None] + 1) * np.arange(12) / 3) + 0.1 * generator.normal(size=(200, 12))
    np.savez("waves.npz", x_train=waves[..., None].astype("float32"), y_train=labels)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is designed for:UserWarning")  # about models for larger images
@pytest.mark.parametrize(
    ("data", "teacher", "student"),
    [
        ("images.npz", "torchvision:resnet18", "torchvision:mobilenet_v3_small"),
        ("images.npz", "timm:resnet10t", "cnn:4"),
        ("waves.npz", "net.py:Net", "mlp:8"),
        ("waves.npz", "mlp:16", "net.py:Net"),
    ],
)
def test_pairs_of_all_kinds_are_distilled(data: str, teacher: str, student: str, folder: Path) -> None:
    models = ("--teacher", teacher, "--student", student)
    assert cli.main(["run", "--data", data, *models, "--epochs", "1", "--batch-size", "32", "--out", "run"]) == 0
    assert cli.main(["cache", "verify", "--out", "run"]) == 0
    few = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--epochs", "1", "--batch-size", "32")
    assert cli.main(["compare", "--data", data, *models, *few, "--out", "run"]) == 0
    assert (folder / "run/results/report.html").exists()


@pytest.mark.usefixtures("no_pool")
def test_tabular_samples_are_not_called_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--pairs", "2", "--smoothing", "0", "--processes", "1")
    points = ("--temperatures", "2", "--alphas", "0.5", "--seeds", "1", "--final-pairs", "2", "--processes", "1")
    wine = ("--data", "sklearn:wine", "--teacher", "mlp:8", "--student", "mlp:2", "--epochs", "2", f"--out={tmp_path}")
    for command, flags in {"run": (), "compare": few, "sweep": points}.items():
        assert cli.main([command, *wine, *flags]) == 0
    assert not re.findall(r".*\bimages?\b.*", capsys.readouterr().out)
    page = (tmp_path / "results/report.html").read_text()
    text = re.sub(r"<[^>]*>", " ", re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL))
    assert "test items" in text
    assert not re.findall(r".*\bimages?\b.*", text)


# --- settings that clash are refused before any training


@pytest.mark.parametrize(
    ("command", "flags", "expected"),
    [
        ("run", ("--teacher", "mlp:8", "--teacher", "mlp:9", "--method", "rkd"), "--teacher must be given once"),
        ("sweep", ("--teacher", "mlp:8", "--teacher", "mlp:9"), "several are averaged at one temperature"),
        ("sweep", ("--augment", "flip"), "given with --views V"),
        (
            "sweep",
            ("--vary", "student_width=2,256", "--student", "cnn:2"),
            "--vary student_width must be used with --student mlp",
        ),
        ("compare", ("--teacher", "mlp:8=t.pth", "--teachers", "2"), "--teachers must be 1 with a loaded teacher"),
    ],
)
def test_clashing_settings_are_refused(
    command: str, flags: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, *flags])
    assert end.value.code == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_teachers_of_one_name_start_with_different_weights() -> None:
    settings = RunSettings(limit=200, teacher=("mlp:16", "mlp:16"))
    data = load_data(settings)
    first, second = (teacher.model for teacher in new_teachers(settings, data))
    alone = new_teachers(dataclasses.replace(settings, teacher=("mlp:16",)), data)[0].model
    assert kd.weights_bytes(first) == kd.weights_bytes(alone)
    assert kd.weights_bytes(first) != kd.weights_bytes(second)
    assert [with_teacher_seed(settings, number).seed for number in (0, 1)] != [settings.seed] * 2


@pytest.mark.parametrize(("method", "temperature"), [("kd", 3.0), ("dkd", 4.0), ("soft-labels", 1.0), ("ttm", 5.0)])
def test_several_teachers_are_averaged_at_the_temperature_of_the_method(method: str, temperature: float) -> None:
    settings = RunSettings(method=method, temperature=3.0 if method == "kd" else 5.0)
    ensemble: Any = combine_teachers([build("mlp:4", input_shape=(3,), classes=2, seed=n) for n in (0, 1)], settings)
    assert ensemble.temperature == temperature


@pytest.mark.parametrize(("default", "expected"), [("3", 3.0), ("0.0", None), ("-1", None), ("'high'", None)])
def test_the_temperature_of_ones_own_method_averages_several_teachers(
    default: str, expected: float | None, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"def own(student_logits, teacher_logits, temperature={default}): ...\n")
    settings = RunSettings(method=f"{file}:own")
    teachers = [build("mlp:4", input_shape=(3,), classes=2, seed=n) for n in (0, 1)]
    if expected is None:
        with pytest.raises(ValueError, match=r"--set temperature must be a number above 0 with more"):
            combine_teachers(teachers, settings)
        assert combine_teachers(teachers[:1], settings) is teachers[0]
    else:
        ensemble: Any = combine_teachers(teachers, settings)
        assert ensemble.temperature == expected


@pytest.mark.usefixtures("no_pool")
def test_compare_accepts_more_unlabelled_than_labelled_samples(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(400, 5)).astype("float32")
    labels = (inputs[:, 0] > 0).astype("int64")
    np.savez(tmp_path / "own.npz", x_train=inputs[:60], y_train=labels[:60], x_test=inputs[300:], y_test=labels[300:])
    np.savez(tmp_path / "more.npz", x=inputs[60:300])
    flags = ("--data", str(tmp_path / "own.npz"), "--unlabelled", str(tmp_path / "more.npz"), "--teacher", "mlp:8")
    few = ("--student", "mlp:2", "--epochs", "1", "--pairs", "2", "--smoothing", "0", "--processes", "1")
    assert cli.main(["compare", *flags, *few, "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("data", "out", "unlabelled", "flag"),
    [
        ("photos", "photos/run", None, "--data"),
        ("photos", "photos", None, "--data"),
        ("split", "split/train/run", None, "--data"),
        ("mnist", "photos/run", "photos", "--unlabelled"),
        ("photos", "run", None, None),
        ("photos", "photos/.run", None, None),
        ("split", "split/run", None, None),
        ("mnist", "mnist", None, None),
        ("idx", "idx/run", None, None),
        ("photos", "run", "split", None),
    ],
)
def test_results_in_a_folder_of_images_are_refused(
    data: str, out: str, unlabelled: str | None, flag: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("photos/ant", "split/train/ant", "mnist", "idx"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").touch()
    monkeypatch.chdir(tmp_path)
    settings = RunSettings(data=data, out=Path(out), unlabelled=Path(unlabelled) if unlabelled else None)
    if flag is None:
        settings.check()
    else:
        with pytest.raises(ValueError, match=f"--out must be outside of the folder of {flag}. Got '{out}'"):
            settings.check()
