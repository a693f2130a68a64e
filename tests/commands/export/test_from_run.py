"""``kd export`` of a run's folder: settings and models of one run, and the card states their training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd.arms import ARMS
from kd.commands.data import load_data
from kd.commands.export.settings import ExportSettings
from kd.commands.export.subject import load_candidate
from kd.commands.run.files import untested_weight_files
from kd.commands.settings import RunSettings
from kd.commands.settings_file import to_toml
from kd.commands.steps import record_settings
from kd.evaluation.two_models import accuracy_of
from kd.models.build import build
from kd.models.inference import predict


def save_run(folder: Path, saved: RunSettings) -> RunSettings:
    """Write the files of a run with untrained models; return its settings."""
    data = load_data(saved)
    models = {
        ARMS[arm].file: build("mlp:3", input_shape=data.task.input_shape, classes=2, seed=seed)
        for seed, arm in enumerate(("teacher", "control", "distilled"))
    }
    outputs = {file: predict(model, data.test_loader) for file, model in models.items()}
    tests = {file: accuracy_of(int(o.wrong.sum()), len(o.labels))._asdict() for file, o in outputs.items()}
    files = untested_weight_files(
        saved.models_dir, models, data.test_set, classes=data.task.classes, toy=None, tests=tests
    )
    metrics = json.dumps({"config": record_settings(saved, torch.device("cpu"))})
    files |= {saved.results_dir / "metrics" / "metrics.json": metrics.encode()}
    for path, content in (files | {saved.file: to_toml(saved, command="run")}).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return saved


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, Any]:
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows, y=np.arange(60) % 2)
    return {"data": str(tmp_path / "rows.npz"), "out": tmp_path / "run", "student": "mlp:3"}


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"seed": 4}, "seed 4, and the saved models were trained with 0"),
        ({"alpha": 0.25}, "alpha 0.25, and the saved models were trained with 0.5"),
        ({"teacher_epochs": 7}, "teacher_epochs 7, and the saved models were trained with None"),
        ({"method": "dkd"}, "method dkd, and the saved models were trained with kd"),
    ],
)
def test_settings_of_a_later_run_that_did_not_finish_are_refused(
    later: dict[str, Any], message: str, flags: dict[str, Any], tmp_path: Path
) -> None:
    saved = save_run(tmp_path, RunSettings(**flags))
    load_candidate(ExportSettings(out=saved.out))
    saved.file.write_bytes(to_toml(RunSettings(**flags, **later), command="run"))  # written before the training
    with pytest.raises(ValueError, match=message):
        load_candidate(ExportSettings(out=saved.out))


@pytest.mark.parametrize("neutral", [{"snapshot_seconds": 1.0}, {"workers": 1}])
def test_settings_that_change_no_result_may_differ(
    neutral: dict[str, Any], flags: dict[str, Any], tmp_path: Path
) -> None:
    saved = save_run(tmp_path, RunSettings(**flags))
    saved.file.write_bytes(to_toml(RunSettings(**flags, **neutral), command="run"))
    load_candidate(ExportSettings(out=saved.out))


def test_the_card_states_the_training_of_each_model(flags: dict[str, Any], tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"teacher_epochs": 7, "epochs": 3, "set": ("divergence=reverse",)}
    saved = save_run(tmp_path, RunSettings(**flags, teacher=("mlp:9",), **recipe))
    teacher, control, distilled = (
        load_candidate(ExportSettings(out=saved.out, arm=arm))[1].training
        for arm in ("teacher", "control", "distilled")
    )
    assert teacher == {"teacher": "mlp:9", "method": "labels only", "epochs": "7"}
    assert control == {"student": "mlp:3", "method": "labels only", "epochs": "3", "seed": "0"}
    assert distilled["divergence"] == "reverse"
    assert (distilled["teacher"], distilled["method"], distilled["epochs"]) == ("mlp:9", "kd", "3")


def test_the_card_of_a_loaded_teacher_states_no_training(flags: dict[str, Any], tmp_path: Path) -> None:
    saved = save_run(tmp_path, RunSettings(**flags, teacher=(f"mlp:3={tmp_path / 'mine.pth'}",)))
    assert load_candidate(ExportSettings(out=saved.out, arm="teacher"))[1].training == {}
