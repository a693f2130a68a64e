"""Teachers from a user's file that load their own weights: trained only with ``--train-teacher``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kd import cli
from kd.commands.data import load_data
from kd.commands.models import new_teachers
from kd.commands.settings import RunSettings
from kd.teachers.class_order import Reordered

CODE = """
from pathlib import Path
import torch
from torch import nn

def fresh(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(13, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))

def loaded(input_shape, classes):
    model = fresh(input_shape, classes)
    model.load_state_dict(torch.load(Path(__file__).with_name("w.pth"), weights_only=True))
    return model

def new_head(input_shape, classes):
    model = loaded(input_shape, classes)
    model[3] = nn.Linear(8, classes)
    return model
"""
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the teacher's weights are random

QUICK = ("--data", "sklearn:wine", "--epochs", "1", "--student", "mlp:4")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    namespace: dict[str, object] = {"__file__": "net.py"}
    exec(CODE, namespace)
    torch.save(namespace["fresh"]((13,), 3).state_dict(), "w.pth")  # type: ignore[operator]
    return Path("net.py")


@pytest.mark.parametrize(("name", "trained"), [("fresh", False), ("loaded", True), ("new_head", False)])
def test_a_model_has_its_own_weights_if_none_are_drawn(file: Path, name: str, trained: bool) -> None:
    settings = RunSettings(data="sklearn:wine", teacher=(f"{file}:{name}",))
    (teacher,) = new_teachers(settings, load_data(settings))
    assert teacher.trained == trained


def test_it_is_trained_only_if_asked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.load("w.pth", weights_only=True)
    for flags, is_same in (((), True), (("--train-teacher",), False)):
        out = Path("asked" if flags else "as-it-is")
        assert cli.main(["run", *QUICK, "--teacher", f"{file}:loaded", *flags, "--out", str(out)]) == 0
        after = torch.load(out / "models" / "teacher_model.pth", weights_only=True)
        assert torch.equal(after["3.weight"], before["3.weight"]) == is_same
        assert ("used with its own weights" in capsys.readouterr().out) == is_same


def test_its_outputs_can_be_reordered_but_not_those_of_a_teacher_to_train(file: Path) -> None:
    order = ("class_2", "class_0", "class_1")
    settings = RunSettings(data="sklearn:wine", teacher=(f"{file}:loaded",), label_order=order)
    settings.check()
    data = load_data(settings)
    (teacher,) = new_teachers(settings, data)
    assert isinstance(teacher.model, Reordered)
    with pytest.raises(ValueError, match="--label-order must be omitted"):
        new_teachers(RunSettings(data="sklearn:wine", teacher=(f"{file}:fresh",), label_order=order), data)


def test_several_teachers_of_equal_weights_are_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *QUICK, "--teacher", f"{file}:loaded", "--teachers", "2", "--pairs", "2"]) == 1
    assert "--teachers must be 1. Got 2" in capsys.readouterr().err
