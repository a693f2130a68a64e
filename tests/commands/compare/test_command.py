"""Quick runs of ``kd compare``: matched pairs, reuse of saved students and of the teacher of ``kd run``."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kd
from kd import cli
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.students import choose_arms
from kd.commands.compare.students import make_students as make_all_students
from kd.commands.compare.teachers import Teacher, list_seeds, teacher_settings
from kd.commands.data import Task
from kd.commands.ledger import read_ledger
from kd.evaluation.cost import Cost, Saved, TrainingCost
from kd.storage.fingerprint import describe

MNIST = Task((1, 28, 28), tuple("0123456789"))
CPU = torch.device("cpu")
QUICK = ("--limit", "300", "--epochs", "1", "--student-width", "16", "--device", "cpu")
SETTINGS = CompareSettings(limit=300, epochs=1, student_width=16, pairs=3)
SPENT = Cost(TrainingCost(teacher=300, cache=0, student=10, epochs=1, served=3), {}, Saved(1.0, 3))


def kd_command(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def make_students(
    settings: CompareSettings, teachers: int = 1, weights: tuple[torch.Tensor | None, ...] = (None, None)
) -> dict[str, Any]:
    predictions: Any = None
    teacher_list = []
    for number in range(teachers):
        prepared: Any = SimpleNamespace(data=SimpleNamespace(task=MNIST, class_weights=weights[number]))
        objective = kd.distilled(temperature=5, alpha=(1 + number) / 10)
        teacher_list.append(Teacher(number, settings, prepared, predictions, objective, list_seeds(settings, number)))
    return dict(make_all_students({"kd": teacher_list}, choose_arms(settings, SPENT, 0.1), CPU))


def test_students_of_a_seed_share_initial_weights_and_seeds_differ() -> None:
    students = make_students(SETTINGS)
    starts = {name: kd.weights_bytes(student.model) for name, student in students.items()}
    assert len(starts) == 4 * 3
    for seed in range(3):
        assert len({starts[f"{arm}-seed-{seed}"] for arm in ("control", "distilled", "smoothed", "longer")}) == 1
    assert len(set(starts.values())) == 3
    assert {name: students[f"{name}-seed-0"].epochs for name in ("control", "distilled", "smoothed", "longer")} == {
        "control": 1,
        "distilled": 1,
        "smoothed": 1,
        "longer": SPENT.training.longer_epochs,
    }


def test_teachers_share_no_seed_and_no_student() -> None:
    students = make_students(SETTINGS, teachers=2)
    assert len(students) == 2 * 4 * 3
    assert len({kd.weights_bytes(student.model) for student in students.values()}) == 6
    assert list_seeds(SETTINGS, 0) == [0, 1, 2]
    assert list_seeds(SETTINGS, 1) == [3, 4, 5]


def test_distilled_students_have_the_objective_of_their_own_teacher() -> None:
    students = make_students(SETTINGS, teachers=2)
    first, second = (students[name].objective for name in ("distilled-seed-0", "distilled-seed-3-teacher-1"))
    assert describe(first) != describe(second)
    assert all(describe(students[f"distilled-seed-{seed}"].objective) == describe(first) for seed in (1, 2))


def test_controls_have_the_class_weights_of_their_split_and_the_label_smoothing() -> None:
    weights = (torch.arange(1.0, 11.0), torch.arange(10.0, 0.0, -1.0))
    students = make_students(dataclasses.replace(SETTINGS, label_smoothing=0.2), teachers=2, weights=weights)
    batch = torch.rand(8, *MNIST.input_shape), torch.arange(8)
    for arm in ("control", "longer", "smoothed"):
        for number, name in enumerate((f"{arm}-seed-0", f"{arm}-seed-3-teacher-1")):
            output, terms = students[name].objective(students[name].model, batch)
            expected = torch.nn.CrossEntropyLoss(weights[number], label_smoothing=0.2)(output, batch[1])
            if arm == "smoothed":  # as from a uniform teacher, whose part has no class weights
                labels = torch.nn.CrossEntropyLoss(weights[number])(output, batch[1])
                expected = 0.9 * labels - 0.1 * output.log_softmax(dim=1).mean()
            torch.testing.assert_close(terms["hard"], expected)


@pytest.mark.parametrize(
    ("change", "arms"),
    [
        ({}, ["control", "distilled", "smoothed", "longer"]),
        ({"longer": False}, ["control", "distilled", "smoothed"]),
    ],
)
def test_additional_controls_can_be_omitted(change: dict[str, Any], arms: list[str]) -> None:
    assert list(choose_arms(dataclasses.replace(SETTINGS, **change), SPENT, 0.1)) == arms
    assert list(choose_arms(dataclasses.replace(SETTINGS, **change), SPENT, 0)) == [
        arm for arm in arms if arm != "smoothed"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairs", "1"), "--pairs must be an integer of at least 2. Got 1 instead (10 is usual"),
        (("--margin", "0"), "--margin must be above 0 and at most 100 percentage points"),
        (("--teachers", "0"), "--teachers must be an integer of at least 1"),
        (("--splits", "0"), "--splits must be None or an integer of at least 1"),
        (("--smoothing", "1"), "--smoothing must be None or in [0, 1)"),
        (("--processes", "0"), "--processes must be None or an integer of at least 1"),
    ],
)
def test_a_bad_setting_is_rejected_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kd_command("compare", "--out", str(tmp_path / "new"), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_compare_reuses_the_teacher_of_run_and_a_second_compare_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path))
    assert kd_command("run", *out, *QUICK) == 0
    capsys.readouterr()
    assert kd_command("compare", *out, *QUICK, "--pairs", "2") == 0
    printed = capsys.readouterr().out
    assert "teacher: up to date, reused" in printed
    assert "logits-training: up to date, reused" in printed
    assert "8/8" in printed
    metrics = tmp_path / "results" / "metrics"
    summary = json.loads((metrics / "comparison.json").read_text())
    assert summary["toy"] == "LIMIT=300"
    assert summary["config"]["PAIRS"] == 2
    run_metrics = json.loads((metrics / "metrics.json").read_text())["test"]
    assert summary["teacher_errors"] == [run_metrics["teacher"]["errors"]]
    with (metrics / "comparison_students.csv").open() as table:
        assert len(list(csv.DictReader(table))) == 8
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    saved_steps = sorted(path.name for path in (tmp_path / ".kd").rglob("*.pt"))
    assert kd_command("compare", *out, *QUICK, "--pairs", "2") == 0
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (tmp_path / ".kd").rglob("*.pt")) == saved_steps
    assert kd_command("compare", *out, *QUICK, "--pairs", "3", "--processes", "1") == 0
    more = json.loads((metrics / "comparison.json").read_text())
    assert more["verdicts"][0]["pairs"]["differences"][:2] == summary["verdicts"][0]["pairs"]["differences"]


@pytest.mark.slow
def test_the_first_pair_equals_the_students_of_kd_run_on_one_thread(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert kd_command("run", "--out", str(tmp_path / "run"), *QUICK) == 0
        assert kd_command("compare", "--out", str(tmp_path / "compare"), *QUICK, "--pairs", "2") == 0
    finally:
        torch.set_num_threads(threads)
    test = json.loads((tmp_path / "run" / "results" / "metrics" / "metrics.json").read_text())["test"]
    with (tmp_path / "compare" / "results" / "metrics" / "comparison_students.csv").open() as table:
        errors = {(row["arm"], row["seed"]): int(row["test_errors"]) for row in csv.DictReader(table)}
    assert errors["control", "0"] == test["control"]["errors"]
    assert errors["distilled", "0"] == test["distilled"]["errors"]


@pytest.mark.slow
def test_several_teachers_have_one_verdict_each_and_one_overall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--pairs", "2", "--teachers", "2", "--splits", "2", "--smoothing", "0", "--no-longer")
    assert kd_command("compare", "--out", str(tmp_path), *QUICK, *few) == 0
    summary = json.loads((tmp_path / "results" / "metrics" / "comparison.json").read_text())
    assert len(summary["verdicts"]) == len(summary["teacher_errors"]) == 2
    assert summary["sentence"] in capsys.readouterr().out.replace("\n", " ")
    assert list(summary["arms"]) == ["control", "distilled"]


@pytest.mark.slow
def test_changed_images_are_another_slice_and_the_same_question(tmp_path: Path) -> None:
    few = ("compare", "--out", str(tmp_path), *QUICK, "--pairs", "2", "--smoothing", "0", "--no-longer")
    metrics = tmp_path / "results" / "metrics"
    assert kd_command(*few) == 0
    before = json.loads((metrics / "comparison.json").read_text())
    assert kd_command(*few, "--shifts") == 0
    after = json.loads((metrics / "comparison.json").read_text())
    assert list(after["slices"].pop("shift")) == ["rotation-15", "noise-0.1", "blur-1"]
    assert (after["slices"], after["verdicts"]) == (before["slices"], before["verdicts"])
    assert set(after["config"]) - set(before["config"]) == {"SHIFTS"}
    assert len(read_ledger(tmp_path / ".kd").entries) == 1


def test_changed_images_need_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", "sklearn:wine", "--epochs", "1", "--teacher", "mlp:8", "--student", "mlp:4", "--device", "cpu")
    for dry_run in ((), ("--dry-run",)):
        assert kd_command("compare", "--out", str(tmp_path), *flags, "--pairs", "2", "--shifts", *dry_run) == 1
        assert "--shifts: augmentation needs images stored as uint8" in " ".join(capsys.readouterr().err.split())


def test_each_teacher_has_its_own_seed_and_its_own_split() -> None:
    def seeds(**counts: int) -> list[tuple[int, int]]:
        settings = dataclasses.replace(SETTINGS, **counts)  # type: ignore[arg-type]
        made = [teacher_settings(settings, number) for number in range(settings.runs)]
        return [(teacher.seed, teacher.random_state) for teacher in made]

    assert seeds(teachers=3, splits=2) == [(0, 42), (1, 43), (2, 42)]
    assert seeds(teachers=3) == [(0, 42), (1, 43), (2, 44)]
    assert seeds(teachers=2, splits=1) == [(0, 42), (1, 42)]
    assert seeds(splits=3) == [(0, 42), (0, 43), (0, 44)]


@pytest.mark.slow
def test_a_teacher_like_the_student_takes_another_seed_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first control was the teacher, bit for bit."""
    alike = ("--teacher", "mlp:16", "--pairs", "2", "--smoothing", "0", "--no-longer")
    assert kd_command("compare", "--out", str(tmp_path), *QUICK, *alike) == 0
    assert "teacher: it has the student's architecture, so it takes seed 500009" in capsys.readouterr().out
    summary = json.loads((tmp_path / "results" / "metrics" / "comparison.json").read_text())
    with (tmp_path / "results" / "metrics" / "comparison_students.csv").open() as table:
        controls = {row["weights_sha256"] for row in csv.DictReader(table)}
    assert summary["teacher_weights_sha256"][0] not in controls
