"""Teachers of other classes by flags: --label-map, --teacher-head fit and --teacher embeddings=FILE."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from kd import cli
from kd.commands.before_training import require_models
from kd.commands.data import load_data
from kd.commands.models import OWN_SEED, new_teachers
from kd.commands.settings import RunSettings
from kd.commands.steps import record_settings, train_teacher
from kd.commands.teacher_flags import ModelChoice
from kd.commands.teacher_inputs import TeacherInputs
from kd.commands.teacher_outputs import adapt_teacher
from kd.models.build import build
from kd.storage.weights import weights_bytes
from kd.teachers.class_map import MappedOutputs
from kd.teachers.class_order import Reordered
from kd.teachers.fitted_head import FittedHead

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the teacher's weights are random

CODE = """
import torch
from torch import nn

class Named(nn.Sequential):
    class_names = ["red", "white", "rosé", "port", "sherry"]
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        super().__init__(nn.Linear(13, 4), nn.Tanh(), nn.Linear(4, 5))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

def fresh():
    return nn.Linear(13, 5)
"""
NETWORK = "mlp:8=t.pth"


def test_another_seed_of_a_teacher_like_the_student_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    settings = RunSettings(data="sklearn:digits", teacher=("mlp:4",), student="mlp:4", seed=3)
    (teacher,) = new_teachers(settings, load_data(settings))
    assert teacher.seed == 3 + OWN_SEED
    assert f"teacher mlp:4: seed {teacher.seed} in place of 3" in capsys.readouterr().out
    settings = RunSettings(data="sklearn:digits", teacher=("mlp:8",), student="mlp:4", seed=3)
    new_teachers(settings, load_data(settings))
    assert "in place of" not in capsys.readouterr().out


QUICK = ("--data", "sklearn:wine", "--epochs", "1", "--student", "mlp:4")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network of five outputs, a map, a plugin, and embeddings of the wines."""
    monkeypatch.chdir(tmp_path)
    Path("t.pth").write_bytes(weights_bytes(build("mlp:8", input_shape=(13,), classes=5, seed=0)))
    Path("same.pth").write_bytes(weights_bytes(build("mlp:8", input_shape=(13,), classes=3, seed=0)))
    Path("map.csv").write_text("teacher,data\n4,class_0\n2,class_1\n0,class_1\n1,class_2\n")
    Path("names.csv").write_text("port,class_0\nred,class_1\nwhite,class_2\n")
    Path("net.py").write_text(CODE, encoding="utf-8")
    rows = load_wine(return_X_y=True)[0]
    np.save("e.npy", np.tanh((rows - rows.mean(axis=0)) / rows.std(axis=0)).astype(np.float32))
    np.save("l.npy", np.zeros((178, 5), dtype=np.float32))
    return tmp_path


def settings_for(*flags: str, teacher: str = NETWORK) -> RunSettings:
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    return RunSettings(
        data="sklearn:wine",
        student="mlp:4",
        teacher=(teacher,),
        label_map=Path(values["--label-map"]) if "--label-map" in values else None,
        teacher_head=values.get("--teacher-head", "own"),
    )


@pytest.mark.parametrize(
    ("flags", "teacher", "kind"),
    [
        (("--label-map", "map.csv"), NETWORK, MappedOutputs),
        (("--label-map", "names.csv"), "net.py:Named", MappedOutputs),
        (("--teacher-head", "fit"), NETWORK, FittedHead),
        (("--teacher-head", "fit"), "mlp:8=same.pth", FittedHead),
        (("--teacher-head", "fit"), "net.py:Named", FittedHead),
        ((), "embeddings=e.npy", FittedHead),
    ],
)
def test_a_trained_teacher_gets_the_classes_of_the_data(flags: tuple[str, ...], teacher: str, kind: type) -> None:
    settings = settings_for(*flags, teacher=teacher)
    settings.check()
    data = load_data(settings)
    teachers = new_teachers(settings, data)
    assert isinstance(teachers[0].model, kind)
    require_models(settings, data, teachers)  # restorable, although its network has other outputs
    model, history = train_teacher(settings, data, teachers, torch.device("cpu"))
    assert history is None
    assert model.eval()(data.val_set[0][0][None]).shape == (1, 3)


def test_a_reordered_teacher_passes_the_checks_before_training() -> None:
    order = ("class_2", "class_0", "class_1")
    settings = RunSettings(data="sklearn:wine", student="mlp:4", teacher=("mlp:8=same.pth",), label_order=order)
    data = load_data(settings)
    teachers = new_teachers(settings, data)
    assert isinstance(teachers[0].model, Reordered)
    require_models(settings, data, teachers)


def test_a_head_fitted_on_good_embeddings_is_a_good_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for(teacher="embeddings=e.npy")
    data = load_data(settings)
    model, _ = train_teacher(settings, data, new_teachers(settings, data), torch.device("cpu"))
    right = [int(model.eval()(x[None]).argmax()) == y for x, y in data.test_set]
    assert sum(right) > 0.85 * len(right)
    assert "teacher: linear head fitted on 13 features" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--teacher", NETWORK), "head has 5 classes, the data has 3.*--label-map.*--teacher-head fit"),
        (("--teacher", "net.py:Named"), r"Got \[1, 5\] instead.*--label-map FILE\.csv or --teacher-head fit"),
        (("--teacher", "logits=l.npy"), r"3 columns.*\[178, 5\].*--label-map FILE\.csv"),
        (("--teacher", "mlp:8", "--label-map", "map.csv"), "--label-map must be omitted. Got 'map.csv'.*trained here"),
        (("--teacher", "mlp:8", "--teacher-head", "fit"), "--teacher-head must be omitted. Got 'fit'.*trained here"),
        (("--teacher", "net.py:fresh", "--teacher-head", "fit"), "--teacher-head must be omitted.*trained here"),
        (("--teacher", "logits=l.npy", "--teacher-head", "fit"), "omitted with --teacher logits=FILE.*embeddings=FILE"),
        (("--teacher", "embeddings=e.npy", "--label-map", "map.csv"), "omitted with --teacher embeddings=FILE"),
        (("--teacher", NETWORK, "--label-map", "map.csv", "--teacher-head", "fit"), "omitted with --label-map"),
        (("--teacher", NETWORK, "--label-map", "map.csv", "--label-order", "a"), "omitted with --label-order"),
        (
            ("--teacher", NETWORK, "--label-map", "mop.csv"),
            r"no file mop\.csv with a class map\. Did you mean map\.csv",
        ),
        (("--teacher", NETWORK, "--label-map", "names.csv"), "'port', but the names of this teacher's outputs are not"),
        (("--teacher", NETWORK, "--teacher-head", "fitt"), "--teacher-head must be own or fit. Got 'fitt'"),
        (("--teacher", "embeddings=none.npy"), "cannot read teacher embeddings from none.npy"),
    ],
)
def test_flags_that_do_not_suit_the_teacher_are_refused(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = cli.main(["run", *QUICK, *flags, "--dry-run"])
    except SystemExit as error_of_flags:
        code = error_of_flags.code
    assert code in (1, 2)
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error


def test_an_edited_map_is_another_run() -> None:
    settings, recorded = settings_for("--label-map", "map.csv"), []
    for text in ("4,class_0\n2,class_1\n1,class_2\n", "3,class_0\n2,class_1\n1,class_2\n"):
        Path("map.csv").write_text(text)
        new_teachers(settings, load_data(settings))
        recorded.append(record_settings(settings, torch.device("cpu")))
    assert recorded[0]["LABEL_MAP"] == recorded[1]["LABEL_MAP"] == "map.csv"
    assert recorded[0]["LABEL_MAP_SHA256"] != recorded[1]["LABEL_MAP_SHA256"]
    assert "LABEL_MAP" not in record_settings(RunSettings(), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--teacher", NETWORK, "--label-map", "map.csv"),
        ("--teacher", NETWORK, "--teacher-head", "fit"),
        ("--teacher", "embeddings=e.npy"),
        ("--teacher", "embeddings=e.npy", "--method", "rkd"),
        ("--teacher", "embeddings=e.npy", "--method", "embedding", "--set", "distance=mse"),
    ],
)
def test_a_run_is_resumed_evaluated_and_verified(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", *QUICK, *flags, "--out", "o"]) == 0
    saved = Path("o/models/teacher_model.pth").read_bytes()
    first = capsys.readouterr().out
    for command in (
        ["run", *QUICK, *flags, "--out", "o"],
        ["evaluate", "--out", "o"],
        ["cache", "verify", "--out", "o"],
    ):
        assert cli.main(command) == 0
    again = capsys.readouterr().out
    assert Path("o/models/teacher_model.pth").read_bytes() == saved
    if "--label-map" in flags:
        assert "of its probability went to classes that the data lacks" in first
    else:
        assert "teacher-head: up to date, reused" in again
    assert "match the saved teacher" in again


def test_indices_of_one_map_do_not_fit_teachers_with_different_numbers_of_outputs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("seven.pth").write_bytes(weights_bytes(build("mlp:8", input_shape=(13,), classes=7, seed=0)))
    logits = np.eye(6, dtype=np.float32)[[[4, 2, 1][label] for label in load_wine(return_X_y=True)[1]]]
    np.save("six.npy", 5 * logits - 1)
    for other, count in (("mlp:8=seven.pth", 7), ("logits=six.npy", 6)):
        flags = ("--teacher", NETWORK, "--teacher", other, "--label-map", "map.csv")
        assert cli.main(["run", *QUICK, *flags, "--out", "o"]) == 1
        captured = capsys.readouterr()
        error = " ".join(captured.err.split())
        assert f"different numbers of them: {NETWORK} has 5, {other} has {count}. Give names" in error
        assert "epoch" not in captured.out
    same = RunSettings(data="sklearn:wine", teacher=(NETWORK, NETWORK), label_map=Path("map.csv"))
    assert len(new_teachers(same, load_data(same))) == 2


def test_names_of_one_map_fit_teachers_with_different_numbers_of_outputs() -> None:
    rows = [",".join(str(9.0 * (place == label) - 1) for place in (3, 2, 0, 1)) for label in load_wine().target]
    Path("l.csv").write_text("\n".join(["beer,white,port,red", *rows]))
    settings = RunSettings(data="sklearn:wine", teacher=("net.py:Named", "logits=l.csv"), label_map=Path("names.csv"))
    data = load_data(settings)
    _, stored = new_teachers(settings, data)
    assert all(int(stored.model(inputs[None]).argmax()) == label for inputs, label in data.val_set)  # type: ignore[attr-defined]


EMBEDDING = ("--teacher", "embeddings=e.npy", "--method", "embedding")


def test_students_of_embeddings_alone_differ_by_distance_and_their_controls_do_not() -> None:
    students = []
    for distance in ("cosine", "rkd"):
        assert cli.main(["run", *QUICK, *EMBEDDING, "--set", f"distance={distance}", "--out", "o"]) == 0
        students.append([Path(f"o/models/student_{arm}.pth").read_bytes() for arm in ("regular", "distilled")])
    (control, first), (again, second) = students
    assert control == again
    assert first != second  # the key of the training contains the distance


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--set", "distance=l1"), r"distance must be cosine, mse or rkd\. Got 'l1'"),
        (("--alpha", "0.3"), r"--temperature and --alpha are settings of kd, not of embedding\. .*distance=cosine"),
        (("--student", "net.py:Named", "--freeze", "2.*"), "the labels would train nothing"),
    ],
)
def test_settings_that_do_not_suit_embeddings_alone_are_refused(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.py").write_text(CODE.replace("4, 5", "4, 3"), encoding="utf-8")
    try:
        code: object = cli.main(["run", *QUICK, *EMBEDDING, *flags, "--out", "o"])
    except SystemExit as error_of_flags:
        code = error_of_flags.code
    assert code in (1, 2)
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("compare", "--pairs", "2", "--processes", "1"),
        ("sweep", "--vary", "distance=cosine,rkd", "--seeds", "1", "--final-pairs", "2", "--processes", "1"),
    ],
)
def test_embeddings_alone_are_judged_by_the_commands_of_many_pairs(command: tuple[str, ...]) -> None:
    assert cli.main([*command, *QUICK, *EMBEDDING, "--out", "o"]) == 0


def test_assumed_names_of_outputs_are_printed_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    Path("imagenet.csv").write_text("teacher,data\ntench,class_0\ngoldfish,class_1\nstingray,class_2\n")
    settings = RunSettings(data="sklearn:wine", label_map=Path("imagenet.csv"))
    data = load_data(settings)
    choice = ModelChoice("torchvision:resnet18", Path("t.pth"))
    adapt_teacher(settings, torch.nn.Linear(13, 1000), TeacherInputs(None, True, None, data.task, choice, data))
    output = " ".join(capsys.readouterr().out.split())
    assert "1,000 outputs are assumed to be ImageNet's classes" in output
    assert "0 'tench' and 999 'toilet tissue'" in output
