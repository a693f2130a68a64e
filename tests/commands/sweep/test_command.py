"""``kd sweep`` at toy size: fair students, the test images left alone, nothing trained twice."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import kd
from kd.commands import publish
from kd.commands.steps import TeacherWithData, prepare_distillation_data
from kd.commands.sweep import command
from kd.commands.sweep.command import Bench, explore
from kd.commands.sweep.points import Point, Score, choose, documented, grid, point
from kd.commands.sweep.settings import SweepSettings
from kd.models.inference import Predictions
from kd.storage.run_folder import open_run
from kd.training import students
from kd.training.run_steps import predict_models
from kd.training.students import DistillationData, Student, TrainedStudent
from tests.commands.compare.test_command import kd_command
from tests.commands.sweep.test_plots import found
from tests.digests import folder_digest
from tests.report.test_page import sections
from tests.test_cli import ROOT

CPU = torch.device("cpu")
SETTINGS = SweepSettings(
    limit=300, epochs=1, student_width=16, temperatures=(1, 5), alphas=(0, 0.5, 1), seeds=2, final_pairs=2, device="cpu"
)
TOY = ("--limit", "300", "--epochs", "1", "--student-width", "16", "--device", "cpu")
FEW = ("--temperatures", "5", "--alphas", "0.5", "1", "--seeds", "1", "--final-pairs", "2")


class Unasked(Dataset[Any]):
    """A test set that nobody may look at."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("a test image was asked")

    __getitems__ = __getitem__


@pytest.fixture(scope="module")
def taught() -> TeacherWithData:
    """A teacher at toy size, whose students are not to see a test image."""
    made = prepare_distillation_data(SETTINGS, CPU)
    return made._replace(distill_data=made.distill_data._replace(test=Unasked()))


def bench(taught: TeacherWithData, settings: SweepSettings = SETTINGS) -> Bench:
    return command._bench(settings, taught, CPU)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Students are trained here instead of in a pool; lists their names as they are."""
    made: list[str] = []

    def attempt(
        distill_data: Sequence[DistillationData], wanted: Mapping[str, Student], *, processes: int | None
    ) -> Iterator[tuple[str, TrainedStudent | FloatingPointError]]:
        for name, student in wanted.items():
            made.append(name)
            yield name, students._attempted(distill_data, (name, student))

    monkeypatch.setattr(command, "try_students", attempt)
    return made


# --- students


def made(settings: SweepSettings, points: Sequence[Point], taught: TeacherWithData) -> dict[str, Student]:
    return command._students(bench(taught, settings), points, [0, 1])


def test_all_points_of_a_seed_start_from_the_same_weights_and_the_seeds_from_others(taught: TeacherWithData) -> None:
    wanted = made(SETTINGS, grid(SETTINGS), taught)
    starts = {name: kd.weights_bytes(student.model) for name, student in wanted.items()}
    assert len(starts) == 5 * 2
    assert len({content for name, content in starts.items() if name.endswith("seed-0")}) == 1
    assert len(set(starts.values())) == 2


def test_a_further_setting_is_the_students_alone_and_decides_its_training(taught: TeacherWithData) -> None:
    settings = dataclasses.replace(SETTINGS, vary=("student_width=16,32", "epochs=1,2", "batch_size=128,50"))
    wanted = made(settings, grid(settings), taught)
    small, large = (
        wanted[f"T=1-alpha=0-student_width={width}-epochs={epochs}-batch_size={size}-seed-0"]
        for width, epochs, size in ((16, 1, 128), (32, 2, 50))
    )
    assert [student.model.hidden.out_features for student in (small, large)] == [16, 32]  # type: ignore[union-attr]
    assert [student.epochs for student in (small, large)] == [1, 2]
    own = bench(taught, settings).distill_data
    assert [own[student.teacher].batch_size for student in (small, large)] == [128, 50]
    assert all(distill_data.training is taught.distill_data.training for distill_data in own)


def test_students_that_compare_trains_too_have_the_names_they_have_there(taught: TeacherWithData) -> None:
    names = set(made(SETTINGS, grid(SETTINGS), taught))
    assert {"control-seed-0", "distilled-seed-0", "T=1-alpha=0.5-seed-1"} <= names
    varied = dataclasses.replace(SETTINGS, vary=("epochs=1,2",))
    names = set(made(varied, grid(varied), taught))
    assert {"control-seed-0", "distilled-seed-0", "control-epochs=2-seed-0", "T=5-alpha=0.5-epochs=2-seed-0"} <= names


@pytest.mark.parametrize("temperature", [1, 7])
def test_at_alpha_one_the_student_is_the_control_bit_for_bit(temperature: float, taught: TeacherWithData) -> None:
    """Trained as the sweep does, and as distillation with no weight on the teacher."""
    (student, _) = made(SETTINGS, [point(temperature, 1)], taught).values()
    twin = made(SETTINGS, [point(temperature, 1)], taught)["control-seed-0"]
    twin = twin._replace(objective=kd.distilled(temperature=temperature, alpha=1))
    one, other = (students.train_student(taught.distill_data, "x", each, tested=False) for each in (student, twin))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert torch.equal(one.validation.logits, other.validation.logits)


def test_a_score_is_errors_and_mean_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    got = command.score(Predictions(logits, torch.tensor([0, 1, 1])))
    right, wrong = (float(torch.tensor(x).exp().add(1).log()) for x in (-2.0, 2.0))
    assert got.errors == 1
    assert got.cross_entropy == pytest.approx((2 * right + wrong) / 3)


# --- exploring


def test_every_point_is_tried_once_and_no_test_image_is_asked(taught: TeacherWithData, in_process: list[str]) -> None:
    tried = explore(bench(taught))
    assert {each.point for each in tried} == set(grid(SETTINGS))
    assert len(in_process) == len(set(in_process)) == 5 * 2
    assert all(len(each.scores) == 2 and each.finite for each in tried)
    assert all(0 <= errors <= 30 for each in tried for errors in each.errors)
    chosen = choose(tried, documented(SETTINGS))
    assert chosen.mean == min(each.mean for each in tried)


def test_the_unasked_test_set_would_have_been_noticed(taught: TeacherWithData) -> None:
    (student, _) = made(SETTINGS, [point(5, 0.5)], taught).values()
    with pytest.raises(AssertionError, match="a test image was asked"):
        students.train_student(taught.distill_data, "x", student, tested=True)


def test_the_documented_point_and_the_control_are_tried_even_where_not_listed(
    taught: TeacherWithData, in_process: list[str]
) -> None:
    settings = dataclasses.replace(SETTINGS, temperatures=(2,), alphas=(0,), seeds=1)
    assert {each.point for each in explore(bench(taught, settings))} == {point(2, 0), point(5, 0.5), point(5, 1)}


def test_a_point_whose_loss_is_not_finite_is_given_up_and_the_others_go_on(
    taught: TeacherWithData, in_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(
        SETTINGS, temperatures=(5,), alphas=(0.5,), seeds=1, vary=("learning_rate=0.004,1e38",)
    )
    tried = explore(bench(taught, settings))
    finite = {dict(each.point.others)["learning_rate"] for each in tried if each.finite}
    assert len(tried) == 4
    assert finite == {0.004}
    assert "given up; " in capsys.readouterr().out


def test_the_scores_are_those_of_the_students_answers(taught: TeacherWithData, in_process: list[str]) -> None:
    (tried,) = (each for each in explore(bench(taught)) if each.point == point(5, 0.5))
    (name, student), *_ = made(SETTINGS, [point(5, 0.5)], taught).items()
    done = students.train_student(taught.distill_data, name, student, tested=False)
    assert tried.scores[0] == command.score(done.validation)
    own = predict_models({"x": student.model}, kd.make_loader(taught.distill_data.validation, batch_size=128))["x"]
    assert tried.scores[0] == Score(int((own.logits.argmax(1) != own.labels).sum()), pytest.approx(tried.scores[0][1]))


def test_fresh_seeds_are_none_of_those_that_chose() -> None:
    settings = dataclasses.replace(SETTINGS, seed=7, seeds=3, final_pairs=4)
    assert command._seeds(settings) == [7, 8, 9]
    assert command._final_seeds(settings) == [10, 11, 12, 13]


def test_an_interrupted_exploration_trains_nothing_twice(
    taught: TeacherWithData, in_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[str] = []
    fit = kd.training.run_steps.fit

    def counted(*args: Any, **keywords: Any) -> Any:
        if len(trainings) == 4 and not (tmp_path / "second").exists():
            raise KeyboardInterrupt
        trainings.append("one")
        return fit(*args, **keywords)

    monkeypatch.setattr("kd.training.run_steps.fit", counted)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path):
        explore(bench(taught))
    (tmp_path / "second").touch()
    with open_run(tmp_path):
        tried = explore(bench(taught))
    assert len(trainings) == 5 * 2
    assert tried == explore(bench(taught))  # as nobody interrupts


# --- a search


def test_a_search_holds_its_trials_their_controls_and_the_documented_point(
    taught: TeacherWithData, in_process: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="needs Optuna (search extra)")
    settings = dataclasses.replace(SETTINGS, out=tmp_path, trials=5, seeds=1, vary=("learning_rate=1e-3,1e-2",))
    with open_run(settings.state_dir):
        tried = explore(bench(taught, settings))
    points = [each.point for each in tried]
    distilled = [each for each in points if not each.is_control]
    assert len(distilled) == 5
    assert documented(settings) in distilled
    assert {each.control for each in distilled} <= set(points)
    assert len(in_process) == len(set(in_process))
    assert (tmp_path / ".kd" / "steps" / "search.db").is_file()


def test_a_search_that_goes_on_trains_only_what_is_new_and_ends_as_one_in_one_go(
    taught: TeacherWithData, in_process: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="needs Optuna (search extra)")
    settings = dataclasses.replace(SETTINGS, out=tmp_path / "one", seeds=1)
    found = []
    for trials, out in ((3, "one"), (6, "one"), (6, "other")):
        own = dataclasses.replace(settings, trials=trials, out=tmp_path / out)
        with open_run(own.state_dir):
            found.append(explore(bench(taught, own)))
    assert {each.point: each for each in found[1]} == {each.point: each for each in found[2]}
    counted = [in_process.count(name) for name in in_process if not name.startswith(("control", "distilled"))]
    assert set(counted) == {2}  # once in each folder


def test_the_key_of_a_search_knows_teacher_settings_and_seeds_but_not_what_does_not_count(
    taught: TeacherWithData,
) -> None:
    def key(**changed: Any) -> str:
        return command._key(bench(taught, dataclasses.replace(SETTINGS, **{"trials": 3, **changed})))

    assert key() == key(trials=9) == key(processes=1) == key(final_pairs=9) == key(out=Path("x")) == key(margin=1)
    different = [key(epochs=2), key(seed=1), key(seeds=3), key(temperature=4), key(alphas=(0, 1)), key(batch_size=64)]
    distill_data = taught.distill_data._replace(training=taught.distill_data.validation)
    different.append(command._key(bench(taught._replace(distill_data=distill_data))))
    different.append(key(student="mlp:64,64"))
    assert len({key(), *different}) == 9


# --- the command


def test_files_and_report_are_published_together(
    taught: TeacherWithData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published: list[Mapping[Path, bytes]] = []
    monkeypatch.setattr(publish, "publish", published.append)
    settings = dataclasses.replace(SETTINGS, out=tmp_path)
    command._publish(bench(taught, settings), taught, found(grid(settings)))
    (files,) = published
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files) == [
        ".kd/report/sweep.json",
        "results/metrics/sweep.csv",
        "results/metrics/sweep.json",
        "results/metrics/sweep_timings.json",
        "results/plots/sweep.png",
        "results/report.html",
    ]
    assert b"TOY RUN" in files[tmp_path / "results" / "report.html"].upper()
    assert ".kd" not in capsys.readouterr().out


@pytest.mark.slow
def test_no_process_of_the_pool_asks_a_test_image(taught: TeacherWithData) -> None:
    tried = explore(bench(taught, dataclasses.replace(SETTINGS, processes=2, seeds=1)))
    assert all(each.finite for each in tried)


@pytest.mark.slow
def test_a_sweep_uses_what_run_and_compare_have_left_and_again_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path))
    assert kd_command("run", *out, *TOY) == 0
    assert kd_command("compare", *out, *TOY, "--pairs", "3", "--smoothing", "0", "--no-longer") == 0
    steps = {path.name for path in (tmp_path / ".kd" / "steps").iterdir()}
    capsys.readouterr()
    assert kd_command("sweep", *out, *TOY, *FEW) == 0
    printed = capsys.readouterr().out
    assert "teacher: kept from an earlier run" in printed
    assert {path.name for path in (tmp_path / ".kd" / "steps").iterdir()} == steps  # seeds 0, and 1 and 2 as fresh
    summary = json.loads((tmp_path / "results" / "metrics" / "sweep.json").read_text())
    assert summary["toy"] == "LIMIT=300"
    assert summary["config"]["ALPHAS"] == [0.5, 1]
    assert (summary["seeds"], summary["final_seeds"]) == ([0], [1, 2])
    page = sections((tmp_path / "results" / "report.html").read_bytes())
    assert {"curves", "comparison", "fidelity", "map", "provenance"} <= set(page)
    assert "speak of different models" not in page["verdict"]
    before = folder_digest(tmp_path / "results")
    assert kd_command("sweep", *out, *TOY, *FEW, "--processes", "1") == 0
    assert folder_digest(tmp_path / "results") == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a Windows process at once")
@pytest.mark.parametrize("search", [(), ("--trials", "6")], ids=["grid", "search"])
def test_a_sweep_that_was_stopped_goes_on_and_ends_as_an_untouched_one(search: tuple[str, ...], tmp_path: Path) -> None:
    if search:
        pytest.importorskip("optuna", reason="needs Optuna (search extra)")
    more = ("--temperatures", "1", "10", "--alphas", "0", "1", "--seeds", "1", "--final-pairs", "2", *search)
    typed = [sys.executable, "-u", "-m", "kd", "sweep", *TOY, *more, "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*typed, "stopped"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any("  2/" in line for line in process.stdout)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "(without --fresh) to resume" in err
    for folder in ("stopped", "untouched"):
        ended = subprocess.run([*typed, folder], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    stopped, untouched = (
        {path.name: path.read_bytes() for path in (tmp_path / folder / "results").rglob("sweep.*")}
        for folder in ("stopped", "untouched")
    )
    assert set(stopped) == {"sweep.json", "sweep.csv", "sweep.png"}
    assert stopped == untouched
