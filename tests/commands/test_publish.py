"""CSV cells are no formulas of a spreadsheet; a command finishes what another one was interrupted in publishing."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd import cli
from kd.commands.compare.settings import CompareSettings
from kd.commands.publish import csv_bytes
from kd.commands.steps import open_command
from tests.commands.judge.test_judge import arrays, save


def read_back(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_bytes(rows).decode(), newline="")))


@given(st.text('=+-@ab1 ,"＝＋－＠\n', max_size=6))  # full-width
def test_no_text_is_a_formula(text: str) -> None:
    ((cell,),) = (row.values() for row in read_back([{"name": text}]))
    assert cell.removeprefix("'") == text or cell == text
    if cell.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠", "\n")):
        float(cell)


@pytest.mark.parametrize("value", ["ant", "-1.5", "+3", "1e-3", "a=b", "", -2, 0.25, None, True])
def test_other_cells_are_unchanged(value: Any) -> None:
    assert read_back([{"name": value}]) == [{"name": "" if value is None else str(value)}]


def test_names_of_columns_are_no_formulas() -> None:
    assert list(read_back([{"=1+1": 3}])[0]) == ["'=1+1"]


MODELS: dict[str, Any] = {"data": "sklearn:digits", "student": "mlp:4", "teacher": ("mlp:4",)}


def fail(*_: Any) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("command", ["run", "report", "judge", "compare"])
def test_any_command_finishes_the_interrupted_publishing_of_a_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    flags = ["--data=sklearn:digits", "--student=mlp:4", "--teacher=mlp:4", "--epochs=1", f"--out={out}"]
    with monkeypatch.context() as patched:
        patched.setattr("kd.storage.exchange._move", fail)
        patched.setattr("kd.storage.exchange._restore", fail)
        assert cli.main(["run", *flags]) == 1
    assert not (out / "models" / "manifest.json").exists()
    if command == "compare":
        with open_command(CompareSettings(out=out, **MODELS)):
            pass
    else:
        more = {"run": flags, "report": [f"--out={out}"], "judge": [*save(tmp_path, arrays()), f"--out={out}"]}
        assert cli.main([command, *more[command]]) == 0
    for name in ("models/manifest.json", "results/metrics/metrics.json", "results/plots/training_curves.png"):
        assert (out / name).is_file()
    assert (out / "results" / "report.html").is_file()
    assert not [path for path in out.rglob(".*.tmp") if path.is_file()]


def test_rows_with_other_columns_are_refused() -> None:
    for other in ({"a": 1}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(ValueError, match="the same columns"):
            csv_bytes([{"a": 1, "b": 2}, other])
    assert csv_bytes([{"a": 1, "b": 2}, {"b": 4, "a": 3}]) == b"a,b\n1,2\n3,4\n"
