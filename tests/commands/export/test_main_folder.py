"""``kd export`` and ``kd predict`` on the folder of ``python main.py``, which has a manifest but no run.toml."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kd
import main
from kd import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a quick ``python main.py`` in a process of its own."""
    path, root = tmp_path_factory.mktemp("main"), Path(main.__file__).parent
    command = [sys.executable, "-m", "tests.cheap", main.__file__, "--limit", "300", "--epochs", "1", "--device", "cpu"]
    done = subprocess.run(
        command, cwd=path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (path / "run.toml").exists()
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("arm", ["distilled", "teacher"])
def test_its_models_are_exported_and_predict_as_in_the_run(arm: str, folder: Path, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "safetensors"):
        pytest.importorskip(name, reason="needs the export extra")
    arguments = ["--out", str(folder), "--arm", arm, "--limit", "300", "--to", str(tmp_path / "export")]
    assert cli.main(["export", *arguments, "--formats", "onnx", "safetensors"]) == 0
    test = kd.load_mnist(train=False).inputs.numpy()
    np.savez(tmp_path / "test.npz", x=test)
    expected = [
        (row[f"{arm}_prediction"], float(row[f"{arm}_confidence"]))
        for row in read_csv(folder / "results" / "predictions" / "test_predictions.csv")
    ]
    assert len(expected) == len(test)
    for model in (["--model", str(folder), "--arm", arm], ["--model", str(tmp_path / "export")]):
        assert cli.main(["predict", *model, str(tmp_path / "test.npz"), "--csv", str(tmp_path / "answers.csv")]) == 0
        answers = read_csv(tmp_path / "answers.csv")
        assert [row["label"] for row in answers] == [label for label, _ in expected]
        shares = [float(row["probability"]) for row in answers]
        assert shares == pytest.approx([share for _, share in expected], abs=1e-5)


def test_without_the_limit_of_the_quick_run_the_data_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(folder), "--to", str(tmp_path / "export"), "--formats", "onnx"]
    assert cli.main(["export", *arguments]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "toy was LIMIT=300, now None" in error
    assert "and --limit, if it was a quick run" in error
    assert not (tmp_path / "export").exists()
