"""``kd judge``: verdicts on predictions from files or arrays, the same as those of ``kd compare`` on these numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd
from kd import cli
from kd.evaluation.comparison_verdict import Verdicts
from tests.commands.compare.comparisons import make_comparison


def arrays(kind: str = "logits", gain: int = 25) -> dict[str, Any]:
    """Return the arms of a comparison of 400 items as arrays, and the labels."""
    comparison = make_comparison(gain=gain)

    def convert(logits: torch.Tensor) -> np.ndarray:
        values = {"logits": logits, "probabilities": logits.double().softmax(1), "classes": logits.argmax(1)}[kind]
        return values.numpy()

    arms = {arm: [convert(student.test.logits) for student in groups[0]] for arm, groups in comparison.students.items()}
    return {**arms, "labels": comparison.labels.numpy()}


@pytest.mark.parametrize("kind", ["logits", "probabilities", "classes"])
def test_it_finds_what_compare_finds(kind: Any) -> None:
    found, expected = kd.judge(**arrays(kind), kind=kind, margin=0.5), Verdicts(make_comparison()).main
    assert found.verdict == expected.verdict == "helps"
    assert found.judgement.interval == pytest.approx(expected.interval)
    assert found.judgement.p == pytest.approx(expected.p)
    assert found.sentence.endswith("4 paired seeds and 400 test items, given the conditions shared by all pairs.")


def test_without_label_smoothing_it_never_helps() -> None:
    values = arrays()
    del values["smoothed"]
    judged = kd.judge(**values)
    assert judged.verdict == "better than the labels alone"
    assert "there is no control with label smoothing" in judged.sentence


def test_what_decides_can_be_chosen() -> None:
    judged = kd.judge(**arrays(), decide="recall:1", class_names=("a", "1", "c", "d", "e"))
    assert "misses of class 1" in judged.sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": []}, "control must be at least 2. Got '0 students'"),
        ({"distilled": [np.zeros((400, 5))]}, "distilled must be 4, one for each control. Got '1 students'"),
        ({"kind": "probabilities"}, r"control\[0\]"),
        ({"kind": "classes"}, r"control\[0\] must be of shape \[400\]"),
        ({"labels": np.arange(400)}, "labels must be within 0 … 4"),
        ({"labels": np.zeros(7, int)}, r"control\[0\] must be of shape \[7, 5\]"),
        ({"margin": 0}, "margin must be above 0"),
        ({"class_names": ("a",)}, "class_names must be 5"),
        ({"decide": "accuracy"}, "--decide must be auto"),
    ],
)
def test_predictions_that_do_not_fit_raise(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kd.judge(**{**arrays(), **change})


def save(folder: Path, values: dict[str, Any]) -> list[str]:
    np.save(folder / "labels.npy", values["labels"])
    flags = ["--labels", str(folder / "labels.npy")]
    for arm in ("control", "distilled", "smoothed"):
        flags.append(f"--{arm}")
        for number, array in enumerate(values[arm]):
            path = folder / f"{arm}{number}.npy"
            np.save(path, array)
            flags.append(str(path))
    return flags


@pytest.mark.pictures
def test_files_give_the_same_verdict_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = save(tmp_path, arrays())
    assert cli.main(["judge", *flags, "--margin", "0.5", "--out", str(tmp_path / "out")]) == 0
    expected = kd.judge(**arrays(), margin=0.5)
    assert expected.sentence in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "results" / "metrics" / "judgement.json").read_text())
    assert content["sentence"] == expected.sentence
    assert content["verdict"] == "helps"
    assert "Where it helps" in (tmp_path / "out" / "results" / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--control must be at least 2 files. Got '0 files'"),
        (["--control", "a.npy", "b.npy"], "--distilled must be 2 files, as many as --control"),
    ],
)
def test_missing_files_are_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["judge", *flags])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_file_that_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = arrays()
    values["distilled"][2] = values["distilled"][2][:-1]
    assert cli.main(["judge", *save(tmp_path, values), "--out", str(tmp_path / "out")]) == 1
    assert "distilled2.npy: it must have a row for each of 400 labels" in " ".join(capsys.readouterr().err.split())
