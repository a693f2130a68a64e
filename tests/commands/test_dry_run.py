"""``--dry-run``: what is counted is what a run then has, and nothing is left behind."""

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

TOY: dict[str, Any] = {"limit": 200, "epochs": 1}


def planned(settings: RunSettings) -> Plan:
    return plan(settings, load_data(settings), torch.device("cpu"))


@pytest.mark.parametrize("command", ["run", "compare", "sweep", "distill"])
def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, "--dry-run", "--limit", "200", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    for told in ("parameters", "multiply-adds an item", "teacher's logits: ", "disk: at most about", "time: about"):
        assert told in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.pictures
def test_the_counts_and_the_room_are_those_of_the_run(tmp_path: Path) -> None:
    settings = RunSettings(out=tmp_path, **TOY)
    found = planned(settings)
    assert cli.main(["run", "--limit", "200", "--epochs", "1", f"--out={tmp_path}"]) == 0
    entries = json.loads((tmp_path / "models" / "manifest.json").read_bytes())["models"]
    for name, file in {"teacher": "teacher_model.pth", "student": "student_distilled.pth"}.items():
        model, entry = found.models[name], entries[file]
        assert (model.parameters, model.multiply_adds) == (entry["parameters"], entry["multiply_adds"])
        assert model.bytes <= entry["bytes"] <= 1.05 * model.bytes
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert used <= found.disk <= 5 * used
    kept = sum(path.stat().st_size for path in tmp_path.glob(".kd/steps/logits-*/*.pt"))
    assert found.logits <= kept <= found.logits + 20_000  # of the file around them
    assert found.sizes == {"training": 180, "validation": 20, "test": 1_000}
    assert found.steps == {"teacher": 2, "student": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flags", "settings"),
    [
        ("compare", ("--pairs", "2", "--no-longer"), CompareSettings(**TOY, pairs=2, longer=False)),
        ("compare", ("--pairs", "2", "--splits", "2"), CompareSettings(**TOY, pairs=2, splits=2)),
        ("sweep", ("--temperatures", "2", "5", "--alphas", "0.5", "1", "--seeds", "1", "--final-pairs", "2"),
         SweepSettings(**TOY, temperatures=(2.0, 5.0), alphas=(0.5, 1.0), seeds=1, final_pairs=2)),
    ],
)  # fmt: skip
def test_the_trainings_are_those_that_are_done(
    command: str, flags: tuple[str, ...], settings: RunSettings, tmp_path: Path
) -> None:
    assert cli.main([command, "--limit", "200", "--epochs", "1", f"--out={tmp_path}", *flags]) == 0
    names = [path.name for path in tmp_path.glob(".kd/steps/*") if path.is_dir()]
    steps = {re.sub(r"-[0-9a-f]{16}$", "", name) for name in names}
    trained = {name for name in steps if not name.startswith("logits-") and not re.search("-(validation|test)$", name)}
    expected = sum(settings.trainings.values())
    assert len(trained) <= expected
    if command == "compare":
        assert len(trained) == expected


def test_twice_the_epochs_take_about_twice_the_steps_and_the_work() -> None:
    one, two = (planned(RunSettings(limit=200, epochs=epochs)) for epochs in (3, 6))
    assert two.steps == {kind: 2 * steps for kind, steps in one.steps.items()}
    for name, model in one.models.items():
        assert two.models[name].training == 2 * model.training
    assert one.disk == two.disk


def test_unlabelled_items_and_views_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "more.npz"
    np.savez(file, x=kd.load_mnist(train=True).images[-500:].numpy())
    plain = planned(RunSettings(**TOY))
    more = planned(RunSettings(**TOY, unlabelled=file))
    views = planned(RunSettings(**TOY, augment=("crop:2",), views=4))
    live = planned(RunSettings(**TOY, augment=("crop:2",)))
    row = plain.logits // 200  # 180 to train with, 20 to validate
    left_out = 500 - (more.logits // row - 200)  # those that are in the training part already
    assert 0 <= left_out < 10
    assert more.steps == {"teacher": 2, "student": -(-(680 - left_out) // 128)}
    assert more.models["teacher"].training == plain.models["teacher"].training
    assert (views.logits, live.logits) == (row * (4 * 180 + 20), 0)


def test_a_teacher_that_comes_trained_is_not_counted_as_a_training() -> None:
    assert RunSettings(teacher=("mlp:64=teacher.pth",)).trainings["teacher"] == 0
    assert CompareSettings(teacher=("mlp:64",), teachers=3, splits=2, pairs=4, smoothing=0).trainings == {
        "teacher": 3,
        "control": 12,
        "distilled": 12,
        "longer": 12,
    }


def test_a_method_that_cannot_work_is_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--dry-run", "--limit", "200", "--method", "fitnet"]) == 1
    assert "error: " in capsys.readouterr().err
