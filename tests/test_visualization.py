"""The plots are written to the plots folder and use the temperature and the stamp of the current config."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import config
from kd.commands.run.plots import prediction_examples
from kd.report.drawings import Drawing
from kd.storage.fingerprint import describe, digest
from tests.commands.run.test_plots import NAMES, a_run, history, some_logits
from visualization import all_plots, quick_run_stamp, teacher_plot


def test_every_documented_plot_is_written_to_the_plots_folder(toy: ModuleType) -> None:
    files = all_plots(a_run(some_logits(30), torch.arange(30) % 5))
    names = ("teacher_training", "training_curves", "accuracy_comparison", "prediction_examples", "confusion_matrices")
    assert set(files) == {toy.RESULTS_DIR / "plots" / f"{name}.png" for name in names}
    assert {Image.open(io.BytesIO(content)).format for content in files.values()} == {"PNG"}


def test_perfect_models_get_plots() -> None:
    labels = torch.arange(20) % 5
    perfect = torch.nn.functional.one_hot(labels, 5).float()
    assert all_plots(a_run(dict.fromkeys(NAMES, perfect), labels))


def test_the_examples_are_softened_by_the_temperature_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(figure: Drawing, *, toy: str | None) -> bytes:
        return digest([describe(figure), toy]).encode()

    monkeypatch.setattr("kd.commands.run.plots.png", inputs)
    runs = {
        temperature: a_run(some_logits(30), torch.arange(30) % 5, temperature=temperature) for temperature in (3, 5)
    }
    drawn = all_plots(runs[3])[config.RESULTS_DIR / "plots" / "prediction_examples.png"]
    assert drawn == inputs(prediction_examples(runs[3]), toy=runs[3].toy)
    assert drawn != inputs(prediction_examples(runs[5]), toy=runs[5].toy)


def test_the_stamp_names_the_limit_and_a_full_run_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "LIMIT", 2000)
    assert quick_run_stamp() == "LIMIT=2000"
    monkeypatch.setattr(config, "LIMIT", None)
    assert quick_run_stamp() is None


def test_the_teachers_plot_follows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "RESULTS_DIR", tmp_path)
    assert list(teacher_plot(history())) == [tmp_path / "plots" / "teacher_training.png"]
