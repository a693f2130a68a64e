"""``kd export --distill``: the int8 student trained on from the run's logits, as a step of the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from kd import cli
from kd.commands.export import distill
from kd.commands.export.settings import ExportSettings
from kd.commands.settings import RunSettings
from kd.data.datasets import ArrayDataset
from kd.deploy.export import Candidate

RUN = ("--data", "sklearn:digits", "--teacher", "mlp:32", "--student-width", "16", "--epochs", "3")


@pytest.mark.parametrize(
    "settings",
    [
        ExportSettings(distill=1, arm="control"),
        ExportSettings(distill=1, model="mlp:4=student.pth"),
        ExportSettings(distill=1, formats=("onnx",)),
    ],
)
def test_it_is_for_the_int8_file_of_the_distilled_student(settings: ExportSettings) -> None:
    with pytest.raises(ValueError, match="--distill must be 0, or given for the int8 file of a run"):
        settings.check()


@pytest.mark.slow
def test_the_int8_file_is_distilled_once_from_the_logits_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the export extra")
    out = ("--out", str(tmp_path / "run"))
    assert cli.main(["run", *RUN, *out]) == 0
    files = {}
    for name, flags in {"ptq": (), "qad": ("--distill", "2"), "again": ("--distill", "2")}.items():
        capsys.readouterr()
        to = tmp_path / name
        # digits has 360 test images: rounding may cost some of them
        assert cli.main(["export", *out, "--to", str(to), "--formats", "int8", "--margin", "20", *flags]) == 0
        files[name] = (to / "model.int8.onnx").read_bytes()
        output = capsys.readouterr().out
        assert ("logits-training: up to date, reused" in output) == bool(flags)
        assert ("distilled-int8: up to date, reused" in output) == (name == "again")
    assert files["ptq"] != files["qad"] == files["again"]
    shutil.rmtree(tmp_path / "run" / ".kd" / "steps")
    assert cli.main(["export", *out, "--to", str(tmp_path / "late"), "--formats", "int8", "--distill", "2"]) == 1
    assert "Run kd run or kd distill first" in capsys.readouterr().err


def test_frozen_parameters_are_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = RunSettings(student="mlp:4", freeze=("hidden.*",))
    monkeypatch.setattr(distill, "saved_settings", lambda *_, **__: saved)
    with pytest.raises(ValueError, match=r"--distill must be omitted for this run.*--freeze"):
        distill.distil_int8(ExportSettings(distill=2, out=tmp_path), cast(Candidate, None))


def test_the_calibration_runs_in_batches() -> None:
    train = ArrayDataset(torch.arange(1000.0)[:, None], torch.zeros(1000, dtype=torch.int64))
    candidate = cast(Candidate, SimpleNamespace(train=train))
    batches = list(distill._choose_inputs(candidate, 300))
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert torch.cat(batches).flatten().diff().min() > 0
