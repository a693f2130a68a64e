"""Three comparisons that once had a misleading verdict, from the command line to the sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd import cli

pytestmark = pytest.mark.slow

KNOW_NOTHING = """
import torch
from torch import nn

class Random(nn.Module):
    \"\"\"A teacher that knows nothing: fixed random scores of each input.\"\"\"

    def __init__(self, classes=10):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.2 * torch.randn(classes, 64, generator=generator))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T
"""


def compare(folder: Path, *flags: str) -> dict[str, Any]:
    quick = ("--out", str(folder / "out"), "--device", "cpu", "--processes", "2", "--no-longer")
    assert cli.main(["compare", *quick, *flags]) == 0
    summary: dict[str, Any] = json.loads((folder / "out" / "results" / "metrics" / "comparison.json").read_text())
    return summary


def save(folder: Path, rare: int, *, signal: float) -> str:
    """Save a table of 2,000 rows with so many of a rare class per thousand, told by one column with noise."""
    rng = np.random.default_rng(0)
    labels = (np.arange(2_000) % 1_000 < rare).astype(np.int64)
    rows = rng.standard_normal((2_000, 6)).astype(np.float32)
    rows[:, 0] += signal * labels
    np.savez(
        folder / "data.npz", x_train=rows[:1_000], y_train=labels[:1_000], x_test=rows[1_000:], y_test=labels[1_000:]
    )
    return str(folder / "data.npz")


def test_a_teacher_that_knows_nothing_does_not_help(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(KNOW_NOTHING)
    flags = ("--data", "sklearn:digits", "--teacher", f"{tmp_path}/net.py:Random", "--student", "mlp:16")
    with pytest.warns(UserWarning, match="that is chance level"):
        summary = compare(tmp_path, *flags, "--epochs", "10", "--pairs", "6", "--margin", "1")
    assert summary["verdict"] != "helps"
    assert " helps:" not in summary["sentence"]
    assert summary["teacher_errors"][0] > 200


def test_rare_items_decide_by_their_class(tmp_path: Path) -> None:
    flags = ("--data", save(tmp_path, 14, signal=3.0), "--teacher", "mlp:32", "--student", "mlp:4", "--smoothing", "0")
    summary = compare(tmp_path, *flags, "--epochs", "5", "--pairs", "5")
    assert summary["decides"] == "balanced"
    assert "no difference larger than" not in summary["sentence"] or "balanced error" in summary["sentence"]
    assert "balanced error" in summary["sentence"]
    assert summary["slices"]["class"]["1"]["items"] == 14


def test_models_that_always_answer_the_majority_are_not_compared(tmp_path: Path) -> None:
    flags = ("--data", save(tmp_path, 20, signal=0.0), "--teacher", "mlp:8", "--student", "mlp:4", "--smoothing", "0")
    summary = compare(tmp_path, *flags, "--epochs", "30", "--pairs", "3")
    assert summary["verdict"] == "not decided"
    start = "No better than always predicting 0, which makes 20 errors on 1,000 test items (balanced error 50.00 %): "
    assert summary["sentence"].startswith(f"{start}teacher, control (3 of 3)")
    assert "Models that never predict 1: teacher, control (3 of 3), distilled student (3 of 3)." in summary["sentence"]


def test_a_sweep_of_models_that_always_answer_the_majority_has_no_verdict(tmp_path: Path) -> None:
    """Once "makes no difference larger than 5 errors"."""
    flags = ("--data", save(tmp_path, 20, signal=0.0), "--teacher", "mlp:8", "--student", "mlp:4", "--epochs", "10")
    few = ("--temperatures", "5", "--alphas", "0.5", "1", "--seeds", "1", "--final-pairs", "2", "--margin", "0.5")
    assert cli.main(["sweep", "--out", str(tmp_path / "out"), "--device", "cpu", "--processes", "2", *flags, *few]) == 0
    summary = json.loads((tmp_path / "out" / "results" / "metrics" / "sweep.json").read_text())
    assert summary["verdict"]["verdict"] == "not decided"
    assert summary["decides"] == "balanced"
    start = "No better than always predicting 0, which makes 20 errors on 1,000 test items (balanced error 50.00 %): "
    assert start in summary["lines"][-1]
    assert "no difference larger" not in summary["lines"][-1]
