"""A run folder holds one set of data and models; other settings may change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kd.commands.compare.settings import CompareSettings
from kd.commands.settings import RunSettings
from kd.commands.steps import open_command
from kd.commands.subject import require_same_subject
from kd.storage.run_folder import STEPS

START: dict[str, Any] = {"out": Path("run"), "data": "sklearn:digits", "student": "mlp:8", "teacher": ("cnn:8=t.pth",)}


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_same_subject(RunSettings(**START))
    (RunSettings(**START).state_dir / STEPS / "teacher-0123").mkdir()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", "sklearn:wine"),
        ("data", "photos"),
        ("teacher", ("cnn:16=t.pth",)),
        ("teacher", ("cnn:8=other.pth",)),
        ("teacher", ("cnn:8=t.pth", "convnet")),
        ("teacher", ()),
        ("student", "cnn"),
        ("student", "mlp:8=s.pth"),
        ("student", "net.py:Net"),
        ("columns", ("x", "y")),
        ("target", "price"),
        ("image_size", 32),
    ],
)
def test_other_data_or_models_are_refused_before_anything_is_written(name: str, value: Any) -> None:
    settings = dataclasses.replace(RunSettings(**START), **{name: value})
    with pytest.raises(ValueError, match=rf"run holds a run on other data or models: --{name.replace('_', '-')} was"):
        require_same_subject(settings)
    with pytest.raises(ValueError, match=r"--out, or start over in this one with --fresh"), open_command(settings):
        pass
    require_same_subject(RunSettings(**START))  # the record is unchanged
    with open_command(dataclasses.replace(settings, fresh=True)):
        pass
    require_same_subject(settings)


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 3}, {"alpha": 0.1}, {"method": "dkd"}, {"seed": 4}, {"limit": 200}, {"teacher": ("cnn:8=./t.pth",)}],
)
def test_other_settings_may_change(changes: dict[str, Any]) -> None:
    require_same_subject(dataclasses.replace(RunSettings(**START), **changes))
    require_same_subject(CompareSettings(**{**START, **changes}))


@pytest.mark.parametrize(
    "content", ["", "{", "1", "[]x", '{"data": 1}', '{"data": []}', '{"data": [[1]]}', "[" * 10**5, "\0"]
)
def test_a_damaged_record_is_named(content: str) -> None:
    record = RunSettings(**START).state_dir / STEPS / "subject.json"
    record.write_text(content)
    with pytest.raises(ValueError, match=r"subject\.json is damaged: .* Delete it if .* --fresh"):
        require_same_subject(RunSettings(**START))
    assert record.read_text() == content


def test_two_names_of_one_student_are_the_same(tmp_path: Path) -> None:
    out = tmp_path / "other"
    require_same_subject(RunSettings(out=out, student="mlp", student_width=8))
    (RunSettings(out=out).state_dir / STEPS / "teacher-0123").mkdir()
    require_same_subject(RunSettings(out=out, student="mlp:8"))
    with pytest.raises(ValueError, match="--student was mlp:8, now mlp:16"):
        require_same_subject(RunSettings(out=out, student_width=16))


def test_a_folder_without_steps_can_be_used_for_anything(tmp_path: Path) -> None:
    for data in ("sklearn:digts", "sklearn:digits"):
        require_same_subject(RunSettings(out=tmp_path / "empty", data=data))


def test_a_moved_folder_holds_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("run").rename("moved")
    require_same_subject(dataclasses.replace(RunSettings(**START), out=Path("moved")))
    (tmp_path / "deep").mkdir()
    Path("moved").rename("deep/run")
    monkeypatch.chdir("deep")
    require_same_subject(dataclasses.replace(RunSettings(**START), teacher=("cnn:8=../t.pth",)))
