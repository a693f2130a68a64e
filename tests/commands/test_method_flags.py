"""A method chosen on the command line: steps that run again, recorded settings, ``kd run`` against ``main.py``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import config
import main
from kd import cli
from kd.commands.settings import RunSettings
from kd.methods import METHODS
from kd.methods.objectives import distilled
from models import StudentCNN, StudentModel, new_student

SIZE = ("--limit", "200", "--epochs", "1")


def weights(folder: Path, name: str) -> bytes:
    return (folder / "models" / f"{name}.pth").read_bytes()


def recorded(folder: Path) -> dict[str, Any]:
    metrics = folder / "results" / "metrics" / "metrics.json"
    return dict(json.loads(metrics.read_text(encoding="utf-8"))["config"])


def test_the_student_has_the_architecture_of_the_setting() -> None:
    assert isinstance(new_student(), StudentModel)
    config.STUDENT = "cnn"
    student = new_student()
    assert isinstance(student, StudentCNN)
    assert sum(p.numel() for p in student.parameters()) == 6_274
    assert student(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_an_unknown_student_is_refused() -> None:
    config.STUDENT = "rnn"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"STUDENT must be 'mlp' or 'cnn'\. Got 'rnn'"):
        config.check()


def test_the_method_kd_is_the_documented_objective() -> None:
    from distillation import distillation_objective

    config.TEMPERATURE, config.ALPHA = 3.0, 0.25
    images, labels, logits = torch.rand(8, 1, 28, 28), torch.randint(10, (8,)), torch.randn(8, 10)
    student = new_student()
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels, logits), batch_size=8)
    _, terms = distillation_objective(student, torch.nn.Identity(), loader)(student, (images, labels, logits))
    _, expected = distilled(temperature=3.0, alpha=0.25)(student, (images, labels, logits))
    assert {name: term.item() for name, term in terms.items()} == {n: t.item() for n, t in expected.items()}


def test_a_divergence_is_a_setting_of_kd_and_its_default_is_not_recorded() -> None:
    def settings_with(*texts: str) -> dict[str, Any]:
        return dict(RunSettings(temperature=3.0, set=texts).method_settings)

    assert settings_with() == settings_with("divergence=forward") == {"temperature": 3.0, "alpha": 0.5}
    assert settings_with("divergence=js") == {"temperature": 3.0, "alpha": 0.5, "divergence": "js"}
    with pytest.raises(ValueError, match=r"--set temperature does not apply to kd.*use --temperature instead"):
        settings_with("temperature=2")


@pytest.mark.parametrize(
    ("divergence", "message"),
    [("backward", "divergence must be forward, reverse"), ("skew:2", "the share of skew must be")],
)
def test_a_wrong_divergence_is_refused_before_training(
    divergence: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--out", str(tmp_path), *SIZE, "--set", f"divergence={divergence}"]) == 1
    out, err = capsys.readouterr()
    assert f"--method kd --set divergence={divergence}: " in err
    assert message in err
    assert "epoch" not in out


@pytest.mark.slow  # three runs
def test_another_method_setting_trains_only_the_distilled_student_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("run", "--out", str(tmp_path), *SIZE)
    assert cli.main([*out, "--method", "dkd"]) == 0
    before = {name: weights(tmp_path, name) for name in ("teacher_model", "student_regular", "student_distilled")}
    assert "method: dkd with temperature=4, alpha=1, beta=8, warmup=0.0833333" in capsys.readouterr().out
    assert cli.main([*out, "--method", "dkd", "--set", "beta=0.5"]) == 0
    kept = re.findall(r"^(\S+): up to date, reused", capsys.readouterr().out, flags=re.MULTILINE)
    assert kept == ["teacher", "logits-training", "logits-validation", "control"]
    after = {name: weights(tmp_path, name) for name in before}
    assert [name for name in before if before[name] != after[name]] == ["student_distilled"]
    assert recorded(tmp_path)["METHOD"] == "dkd"
    assert recorded(tmp_path)["SET"] == ["temperature=4", "alpha=1", "beta=0.5", "warmup=0.0833333"]


@pytest.mark.slow  # two runs
def test_main_and_kd_run_are_the_same_run_with_any_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (*SIZE, "--method", "dist", "--set", "beta=2", "--student", "cnn")
    assert cli.main(["run", "--out", str(tmp_path / "kd"), *chosen]) == 0
    (tmp_path / "main").mkdir()
    monkeypatch.chdir(tmp_path / "main")
    main._cli(list(chosen))
    for name in ("teacher_model", "student_regular", "student_distilled"):
        assert weights(tmp_path / "kd", name) == weights(tmp_path / "main", name)


@pytest.mark.slow  # a training each
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs(name: str, tmp_path: Path) -> None:
    layers = ("student_layers=layer1,layer2,layer3", "teacher_layers=conv1,norm2,norm3")  # with equal channels
    fsp = ["cnn:32", "--teacher", "convnet:32,64,128", "--set", layers[0], "--set", layers[1]]
    flags_of = {"fsp": fsp, "sdd": ["cnn", "--teacher", "cnn:16"], "cat-kd": ["cnn", "--teacher", "cnn:16"]}
    flags = flags_of.get(name, ["cnn"])
    assert cli.main(["run", "--out", str(tmp_path), *SIZE, "--method", name, "--student", *flags]) == 0
    assert recorded(tmp_path)["METHOD"] == name


def test_batches_carry_ids_for_a_method_that_needs_them() -> None:
    assert {name for name in METHODS if RunSettings(out=Path("x"), method=name).needs_ids} == {"crd"}


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_method_that_does_not_fit_the_models_is_refused_before_training(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--out", str(tmp_path), *SIZE, "--method", "at"]) == 1
    out, err = capsys.readouterr()
    assert "none were found in the student, MLP. Use a model with feature maps, such as --student cnn" in err
    assert "epoch" not in out


@pytest.mark.slow  # a teacher and two pairs
def test_compare_judges_the_chosen_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--pairs", "2", "--smoothing", "0", "--no-longer")
    assert cli.main(["compare", "--out", str(tmp_path), *SIZE, *few, "--method", "dkd"]) == 0
    assert "method: dkd" in capsys.readouterr().out


@pytest.mark.slow  # a teacher and a few students
def test_a_sweep_takes_any_method_and_varies_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--seeds", "1", "--final-pairs", "2", "--student", "cnn")
    vary = ("--vary", "weight=10,100", "--vary", "learning_rate=1e-3,4e-3")
    assert cli.main(["sweep", "--out", str(tmp_path), *SIZE, *few, "--method", "fitnet", *vary]) == 0
    printed = capsys.readouterr().out
    assert "method: fitnet with weight=100" in printed
    summary = json.loads((tmp_path / "results" / "metrics" / "sweep.json").read_text(encoding="utf-8"))
    assert {(point["weight"], point["learning_rate"]) for point in summary["points"] if not point["control"]} == {
        (10.0, 0.001),
        (10.0, 0.004),
        (100.0, 0.001),
        (100.0, 0.004),
    }
    assert sum(point["control"] for point in summary["points"]) == 2
    assert summary["roles"]["documented"] == {"control": False, "weight": 100.0, "learning_rate": 0.004}
    columns = (tmp_path / "results" / "metrics" / "sweep.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "weight,learning_rate,seed" in columns
    assert (tmp_path / "results" / "plots" / "sweep.png").is_file()
    assert "Settings of fitnet" in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
