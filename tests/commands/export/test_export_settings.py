"""Settings of ``kd export``: the data's are those of ``kd run``, and flags that do not apply are refused."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.commands import data
from kd.commands.export.settings import DATA, ExportSettings
from kd.commands.export.subject import load_candidate
from kd.commands.settings import RunSettings
from kd.models.build import build


def test_every_setting_that_chooses_the_data_is_there() -> None:
    """Also one that is added to ``load_data`` later. The number of processes cannot change what is read."""
    opening = inspect.getsource(data.open_at_size) + inspect.getsource(data.load_data).split("example, _")[0]
    used = set(re.findall(r"settings\.(\w+)", opening)) - {"workers"}
    assert {"data", "target", "limit"} < used
    assert used == set(DATA)


def test_they_are_the_settings_of_a_run() -> None:
    export, run = ExportSettings(), RunSettings()
    assert {name: getattr(export, name) for name in DATA} == {name: getattr(run, name) for name in DATA}
    changed = ExportSettings(data="rows.csv", target="class", test_share=0.3, download=True).data_settings
    assert changed == RunSettings(data="rows.csv", target="class", test_share=0.3, download=True)


@pytest.mark.filterwarnings("ignore:model. accuracy")  # of untrained weights
def test_a_network_for_a_table_can_be_exported(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    rows = [f"{a:.3f},{b:.3f},{c:.3f},{'yes' if a > 0 else 'no'}" for a, b, c in values.tolist()]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,c,answer", *rows]))
    torch.save(build("mlp:4", input_shape=(3,), classes=2, seed=0).state_dict(), tmp_path / "m.pth")
    flags = {"data": str(tmp_path / "rows.csv"), "target": "answer", "model": f"mlp:4={tmp_path / 'm.pth'}"}
    candidate, _ = load_candidate(ExportSettings(**flags))
    assert candidate.manifest.table is not None
    assert candidate.manifest.input_shape == (3,)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (ExportSettings(model="mlp:4=m.pth", arm="teacher"), "--arm must be omitted with --model"),
        (ExportSettings(model="mlp:4=m.pth", out=Path("other")), "--out must be omitted with --model"),
        (ExportSettings(formats=("onnx",), margin=1.0), "--margin must be omitted without int8"),
        (ExportSettings(formats=("onnx",), calibration=9), "--calibration must be omitted without int8"),
        (ExportSettings(licence="CC BY-SA 4.0"), "--licence must be an identifier of the Hub, in lower case"),
    ],
)
def test_flags_that_do_not_apply_are_refused(settings: ExportSettings, refused: str) -> None:
    with pytest.raises(ValueError, match=refused):
        settings.check()


OTHER = {
    "data": "photos", "data_dir": Path("mnist"), "class_names": ("a", "b"), "columns": ("x", "y"), "target": "class",
    "image_size": 8, "test_size": 0.3, "test_share": 0.3, "random_state": 1, "limit": 200, "download": True,
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_settings_of_the_data_are_refused_for_a_run_that_states_them(name: str) -> None:
    settings = ExportSettings(**{name: OTHER[name]})  # type: ignore[arg-type]
    settings.check()
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be omitted: run/run.toml"):
        settings.refuse_data()
