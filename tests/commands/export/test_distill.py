"""``kd export --distill``: the int8 student trained on from the run's logits, as a step of the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kd import cli
from kd.commands.export.settings import ExportSettings

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
