"""``--dry-run``: its counts match a run's, and it writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd
from kd import cli
from kd.commands.compare.settings import CompareSettings
from kd.commands.data import load_data
from kd.commands.dry_run import Plan, plan
from kd.commands.settings import RunSettings
from kd.commands.sweep.settings import SweepSettings
from tests.data.sources.image_trees import save_tree

QUICK: dict[str, Any] = {"limit": 200, "epochs": 1}


def make_plan(settings: RunSettings) -> Plan:
    return plan(settings, load_data(settings), torch.device("cpu"))


@pytest.mark.parametrize("command", ["run", "compare", "sweep", "distill"])
def test_a_dry_run_prints_its_estimate_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, "--dry-run", "--limit", "200", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    for text in ("parameters", "multiply-adds per sample", "teacher logits: ", "disk: at most about", "time: about"):
        assert text in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_image_files_mentions_the_images_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    folder = save_tree(tmp_path / "photos", per_class=20)
    models = ["--teacher=mlp:8", "--student=mlp"]
    assert cli.main(["run", "--dry-run", *models, f"--data={folder}", f"--out={tmp_path / 'out'}"]) == 0
    (decoded,) = (path.parent for path in (tmp_path / "cache").rglob("pixels.npy"))
    out = capsys.readouterr().out
    assert f"images: decoded into {decoded}; the command will reuse them" in out
    assert "no results were saved" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.pictures
def test_counts_are_those_of_the_run_and_its_files_fit_the_estimate(tmp_path: Path) -> None:
    settings = RunSettings(out=tmp_path, **QUICK)
    estimate = make_plan(settings)
    assert cli.main(["run", "--limit", "200", "--epochs", "1", f"--out={tmp_path}"]) == 0
    entries = json.loads((tmp_path / "models" / "manifest.json").read_bytes())["models"]
    for name, file in {"teacher": "teacher_model.pth", "student": "student_distilled.pth"}.items():
        model, entry = estimate.models[name], entries[file]
        assert (model.parameters, model.multiply_adds) == (entry["parameters"], entry["multiply_adds"])
        assert model.bytes <= entry["bytes"] <= 1.05 * model.bytes
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert used <= estimate.disk <= 5 * used
    cached = sum(path.stat().st_size for path in tmp_path.glob(".kd/steps/logits-*/*.pt"))
    assert estimate.logits <= cached <= estimate.logits + 20_000  # overhead of the file format
    assert estimate.sizes == {"training": 180, "validation": 20, "test": 1_000}
    assert estimate.steps == {"teacher": 2, "student": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flags", "settings"),
    [
        ("compare", ("--pairs", "2", "--no-longer"), CompareSettings(**QUICK, pairs=2, longer=False)),
        ("compare", ("--pairs", "2", "--splits", "2"), CompareSettings(**QUICK, pairs=2, splits=2)),
        ("sweep", ("--temperatures", "2", "5", "--alphas", "0.5", "1", "--seeds", "1", "--final-pairs", "2"),
         SweepSettings(**QUICK, temperatures=(2.0, 5.0), alphas=(0.5, 1.0), seeds=1, final_pairs=2)),
    ],
)  # fmt: skip
def test_the_number_of_trainings_is_that_of_the_command(
    command: str, flags: tuple[str, ...], settings: RunSettings, tmp_path: Path
) -> None:
    assert cli.main([command, "--limit", "200", "--epochs", "1", f"--out={tmp_path}", *flags]) == 0
    names = [path.name for path in tmp_path.glob(".kd/steps/*") if path.is_dir()]
    steps = {re.sub(r"-[0-9a-f]{16}$", "", name) for name in names}
    measured = ("logits-", "compare-")
    trained = {name for name in steps if not name.startswith(measured) and not re.search("-(validation|test)$", name)}
    expected = sum(settings.trainings.values())
    assert len(trained) <= expected
    if command == "compare":
        assert len(trained) == expected


def test_twice_the_epochs_take_twice_the_steps_and_multiply_adds() -> None:
    short, long = (make_plan(RunSettings(limit=200, epochs=epochs)) for epochs in (3, 6))
    assert long.steps == {kind: 2 * steps for kind, steps in short.steps.items()}
    for name, model in short.models.items():
        assert long.models[name].training == 2 * model.training
    assert short.disk == long.disk


@pytest.mark.slow
def test_unlabelled_samples_and_views_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "more.npz"
    np.savez(file, x=kd.load_mnist(train=True).images[-500:].numpy())
    plain = make_plan(RunSettings(**QUICK))
    unlabelled = make_plan(RunSettings(**QUICK, unlabelled=file))
    views = make_plan(RunSettings(**QUICK, augment=("crop:2",), views=4))
    live = make_plan(RunSettings(**QUICK, augment=("crop:2",)))
    row = plain.logits // 200  # 180 training and 20 validation images
    duplicates = 500 - (unlabelled.logits // row - 200)  # images that are also in the training split
    assert 0 <= duplicates < 10
    assert unlabelled.steps == {"teacher": 2, "student": -(-(680 - duplicates) // 128)}
    assert unlabelled.models["teacher"].training == plain.models["teacher"].training
    assert (views.logits, live.logits) == (row * (4 * 180 + 20), 0)


def test_a_loaded_teacher_is_not_counted_as_a_training() -> None:
    assert RunSettings(teacher=("mlp:64=teacher.pth",)).trainings["teacher"] == 0
    assert CompareSettings(teacher=("mlp:64",), teachers=3, splits=2, pairs=4, smoothing=0).trainings == {
        "teacher": 3,
        "control": 12,
        "distilled": 12,
        "longer": 12,
    }


def test_a_method_that_does_not_fit_the_models_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--dry-run", "--limit", "200", "--method", "fitnet"]) == 1
    assert "error: " in capsys.readouterr().err
