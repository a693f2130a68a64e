"""Flags of the training recipe reach the trainings that they name, and no other."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kd import cli
from kd.commands import step_times
from kd.commands.data import load_data
from kd.commands.dry_run import plan
from kd.commands.recipe import make_recipe, say_recipe
from kd.commands.recipe_settings import RECIPE_FLAGS, describe_recipe, teacher_settings
from kd.commands.settings import RunSettings
from kd.commands.settings_file import settings_in
from kd.commands.sweep.settings import SweepSettings
from kd.models.build import build
from kd.training.recipe import Recipe

QUICK = ("run", "--data", "sklearn:digits", "--teacher", "mlp:32", "--student-width", "8", "--epochs", "2")
CHANGED: dict[str, Any] = {
    "learning_rate": 0.1,
    "epochs": 7,
    "optimizer": "sgd",
    "momentum": 0.5,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 0.25,
    "clip": 2.0,
    "accumulate": 3,
    "ema": 0.99,
    "precision": "bfloat16",
    "keep": "best",
    "patience": 4,
}


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    try:
        code = cli.main([*QUICK, *flags])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def metrics(folder: Path) -> Any:
    return json.loads((folder / "results" / "metrics" / "metrics.json").read_bytes())


def test_the_defaults_are_those_of_the_recipe() -> None:
    assert make_recipe(RunSettings()) == Recipe()
    assert set(CHANGED) | {"nesterov"} == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("name", CHANGED)
def test_a_flag_changes_its_value_alone_and_that_of_the_teacher_the_teachers_alone(name: str) -> None:
    both = RunSettings(**{name: CHANGED[name]})
    assert (
        make_recipe(both)
        == make_recipe(teacher_settings(both))
        == dataclasses.replace(Recipe(), **{name: CHANGED[name]})
    )
    own = RunSettings(**{f"teacher_{name}": CHANGED[name]})
    assert make_recipe(own) == Recipe()
    assert make_recipe(teacher_settings(own)) == dataclasses.replace(Recipe(), **{name: CHANGED[name]})


def test_the_teacher_can_switch_off_what_the_students_have() -> None:
    settings = RunSettings(
        clip=1.0, ema=0.9, patience=3, keep="best", teacher_clip=0, teacher_ema=0, teacher_patience=0
    )
    recipe = make_recipe(teacher_settings(settings))
    assert (recipe.clip, recipe.ema, recipe.patience, recipe.keep) == (0, 0, 0, "best")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--optimizer", "lion"), "--optimizer must be adam, adamw or sgd. Got 'lion'"),
        (("--teacher-schedule", "poly"), "--teacher-schedule must be None or linear, cosine, constant or step"),
        (("--nesterov",), "--nesterov must be omitted without --optimizer sgd"),
        (("--nesterov", "--optimizer=sgd", "--momentum=0"), "--momentum must be above 0 with --nesterov"),
        (("--patience", "3"), "--patience must be 0, or given with --keep best. Got 3"),
        (("--teacher-patience", "3"), "--teacher-patience must be 0, or given with --teacher-keep best. Got 3"),
        (("--warmup", "2"), "--warmup must be below the number of epochs, 2. Got 2.0"),
        (("--warmup", "3", "--epochs", "5", "--teacher-epochs", "3"), "--teacher-warmup must be below the number"),
        (("--momentum", "0.5"), "--momentum must be omitted without --optimizer sgd. Got 0.5"),
        (("--teacher-momentum=0.5", "--optimizer=adamw"), "--teacher-momentum must be omitted without --teacher-opt"),
        (("--momentum=0.5", "--optimizer=sgd", "--teacher-optimizer=adam", "--teacher-momentum=0.9"), "--teacher-mom"),
        (("--bfloat16",), "--bfloat16 was replaced: use --precision bfloat16 for every training, or --teacher"),
        (("--no-bfloat16",), "--bfloat16 was replaced: use --precision bfloat16"),
    ],
)  # fmt: skip
def test_a_wrong_value_or_a_clash_is_named_before_any_work(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, error = run(capsys, "--out", str(tmp_path / "out"), *flags)
    assert code == 2
    assert message in " ".join(error.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name in sorted(RECIPE_FLAGS) if name.startswith("teacher_")])
@pytest.mark.parametrize("teacher", ["mlp:8=weights.pth", "logits=outputs.npy"])
def test_a_flag_for_the_teachers_training_is_refused_if_none_is_trained(teacher: str, name: str) -> None:
    recipe: dict[str, Any] = {"keep": "best", "optimizer": "sgd", f"{name}": CHANGED.get(name[8:], 64)}
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"{flag} must be omitted with a loaded teacher. Got .*no teacher is trained"):
        RunSettings(teacher=(teacher,), **recipe).check()
    several = ("mlp:8",) if "logits" in teacher else (teacher, "mlp:8")
    RunSettings(teacher=several, **recipe).check()


def test_a_teacher_whose_file_loads_its_weights_is_not_trained_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n\ndef make(input_shape, classes):\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
        "    torch.nn.init.zeros_(net[1].weight)\n    torch.nn.init.zeros_(net[1].bias)\n    return net\n"
    )
    flags = ("--teacher", f"{file}:make", "--teacher-epochs", "3", "--out", str(tmp_path / "out"))
    code = cli.main(["run", "--data", "sklearn:digits", "--student-width", "8", "--epochs", "2", *flags])
    assert code == 1
    assert "--teacher-epochs must be omitted with a loaded teacher" in " ".join(capsys.readouterr().err.split())


def test_bfloat16_in_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("epochs = 3\nbfloat16 = false\n")
    assert settings_in(file, RunSettings) == RunSettings(epochs=3)
    file.write_text("epochs = 3\nbfloat16 = true\n")
    with pytest.raises(ValueError, match=r"run\.toml: bfloat16 was replaced: use --precision bfloat16"):
        settings_in(file, SweepSettings)


def test_a_run_applies_the_recipe_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--optimizer=adamw", "--weight-decay=0.05", "--schedule=cosine", "--warmup=0.2", "--ema=0.9", "--clip=1")
    flags += ("--accumulate=2", "--keep=best", "--teacher-epochs=3", "--teacher-batch-size=64", "--teacher-keep=last")
    code, out, error = run(capsys, "--out", str(tmp_path), *flags)
    assert (code, error) == (0, "")
    assert "training recipe: --optimizer adamw --weight-decay 0.05" in out
    assert "the averaged weights are evaluated and saved; the validation set chooses the epoch" in out
    assert re.search(r"^control: The weights are those of epoch [12] of 2, chosen by the val", out, re.MULTILINE)
    found = metrics(tmp_path)
    assert [len(curves["val_acc"]) for curves in found["curves"].values()] == [3, 2, 2]
    assert (found["config"]["EMA"], found["config"]["TEACHER_EPOCHS"], found["config"]["BFLOAT16"]) == (0.9, 3, False)
    assert [note.partition(":")[0] for note in found["notes"]] == ["control", "distilled"]
    assert all(re.search(r"the weights are those of epoch [12] of 2, chosen by", n, re.I) for n in found["notes"])
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "chosen by the validation set" in page
    assert "no epoch is selected" not in page


def test_only_trainings_whose_recipe_changed_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--out", str(tmp_path))[0] == 0
    _, out, _ = run(capsys, "--out", str(tmp_path), "--optimizer=sgd", "--teacher-optimizer=adam")
    reused = re.findall(r"^(\S+): up to date, reused", out, flags=re.MULTILINE)
    assert reused == ["teacher", "logits-training", "logits-validation"]
    _, out, _ = run(capsys, "--out", str(tmp_path), "--teacher-ema=0.9")
    assert "control: up to date, reused" in out
    assert not re.search(r"^(teacher|distilled): up to date", out, flags=re.MULTILINE)


@pytest.mark.parametrize("flags", [("--precision=float16",), ("--teacher-precision=bfloat16",)])
def test_precisions_run_and_change_the_trainings_they_name(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "--out", str(tmp_path / "plain"))[0] == 0
    assert run(capsys, "--out", str(tmp_path / "other"), *flags)[0] == 0
    weights = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "models").glob("*.pth")}
        for name in ("plain", "other")
    ]
    same = {name for name, content in weights[0].items() if weights[1][name] == content}
    assert same == ({"student_regular.pth"} if "--teacher" in flags[0] else set())
    assert metrics(tmp_path / "other")["config"]["BFLOAT16"] is ("--teacher" in flags[0])


@pytest.mark.parametrize(
    ("recipe", "warned"),
    [
        ({"epochs": 1}, []),
        ({"epochs": 1, "ema": 0.5}, ["--ema 0.5 is too long an average for 1 steps:"]),
        ({"epochs": 100, "ema": 0.9}, []),
        ({"epochs": 2, "ema": 0.9}, ["--ema 0.9 is too long an average for 2 steps:"]),
        (
            {"epochs": 100, "ema": 0.9, "teacher_epochs": 2},
            ["--ema 0.9 is too long an average for 2 steps of the teac"],
        ),
        ({"epochs": 2, "ema": 0.9, "teacher_epochs": 100}, ["--ema 0.9 is too long an average for 2 steps:"]),
        ({"epochs": 2, "teacher_ema": 0.9}, ["--teacher-ema 0.9 is too long an average for 2 steps of the teacher:"]),
        ({"epochs": 2, "ema": 0.9, "teacher_ema": 0.0}, ["--ema 0.9 is too long an average for 2 steps:"]),
        ({"epochs": 1, "teacher_epochs": 2, "ema": 0.0}, []),
    ],
)
def test_an_average_that_spans_more_than_the_training_is_named(
    recipe: dict[str, Any], warned: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    say_recipe(RunSettings(**recipe), 100)
    assert [str(warning.message)[: len(text)] for warning, text in zip(recwarn, warned, strict=True)] == warned


def test_a_teacher_with_its_own_batch_size_does_not_depend_on_that_of_the_students(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--out", str(tmp_path), "--teacher-batch-size", "64", "--batch-size")
    assert run(capsys, *flags, "100")[0] == 0
    code, out, _ = run(capsys, *flags, "50")
    assert code == 0
    assert "teacher: up to date, reused" in out
    assert "control: up to date, reused" not in out


def test_adamw_without_weight_decay_is_said_to_equal_adam() -> None:
    text = "adamw without weight decay equals adam"
    assert text in describe_recipe(RunSettings(optimizer="adamw"))
    assert text in describe_recipe(RunSettings(teacher_optimizer="adamw"))
    assert text not in describe_recipe(RunSettings(optimizer="adamw", weight_decay=0.1))
    assert text not in describe_recipe(RunSettings(teacher_optimizer="adamw", teacher_weight_decay=0.1))


def test_times_of_a_teacher_with_larger_batches_are_of_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RunSettings(data="sklearn:digits", teacher=("mlp:8",), batch_size=10, teacher_batch_size=100)
    data, sizes = load_data(settings), list[int]()
    monkeypatch.setattr(step_times, "_time_step", lambda *arguments: sizes.append(len(arguments[-1])) or 1.0)
    teacher, student = (build("mlp:8", input_shape=data.task.input_shape, classes=10, seed=seed) for seed in (0, 1))
    step_times.time_steps(settings, data, teacher, student, is_parallel=False)
    assert min(sizes) == step_times.STEPS


def test_a_dry_run_counts_the_teachers_own_recipe() -> None:
    settings = RunSettings(
        data="sklearn:digits", teacher=("mlp:32",), epochs=2, teacher_epochs=6, teacher_batch_size=64
    )
    data = load_data(settings)
    plain, own = (
        plan(changed, data, torch.device("cpu"))
        for changed in (dataclasses.replace(settings, teacher_epochs=None, teacher_batch_size=None), settings)
    )
    rows = data.sizes["training"]
    assert own.steps == {"teacher": 6 * -(-rows // 64), "student": plain.steps["student"]}
    assert own.models["teacher"].training == 3 * plain.models["teacher"].training
    assert own.models["student"].training == plain.models["student"].training
    kept = plan(dataclasses.replace(settings, ema=0.9, keep="best", accumulate=2), data, torch.device("cpu"))
    assert kept.disk > own.disk


def test_a_description_names_every_flag_that_differs() -> None:
    assert describe_recipe(RunSettings(epochs=3, batch_size=7)) == ""
    for name in RECIPE_FLAGS:
        value: Any = {"nesterov": True}.get(name, CHANGED.get(name.removeprefix("teacher_"), 3))
        assert f"--{name.replace('_', '-')}" in describe_recipe(dataclasses.replace(RunSettings(), **{name: value}))
