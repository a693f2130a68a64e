"""Quick runs of ``kd sweep``: matched students, no use of test images in the selection, nothing trained twice."""

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
from kd import cli
from kd.commands import publish
from kd.commands.ledger import Ledger, read_ledger
from kd.commands.steps import TeacherWithData, prepare_distillation_data
from kd.commands.sweep import command
from kd.commands.sweep import students as sweep_students
from kd.commands.sweep.command import explore
from kd.commands.sweep.points import Point, Score, choose_point, documented_point, list_grid, make_point
from kd.commands.sweep.settings import SweepSettings, student_settings
from kd.commands.sweep.students import SweepContext
from kd.evaluation.quantities import BALANCED, ERRORS
from kd.models.inference import Predictions
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import open_run
from kd.training import students
from kd.training.run_steps import predict_models
from kd.training.students import DistillationData, Student, TrainedStudent
from tests.commands.compare.test_command import kd_command
from tests.commands.sweep.test_plots import make_sweep
from tests.digests import folder_digest
from tests.report.test_page import sections
from tests.test_cli import ROOT

CPU = torch.device("cpu")
SETTINGS = SweepSettings(
    limit=300, epochs=1, student_width=16, temperatures=(1, 5), alphas=(0, 0.5, 1), seeds=2, final_pairs=2, device="cpu"
)
QUICK = ("--limit", "300", "--epochs", "1", "--student-width", "16", "--device", "cpu")
FEW = ("--temperatures", "5", "--alphas", "0.5", "1", "--seeds", "1", "--final-pairs", "2")


class ForbiddenDataset(Dataset[Any]):
    """A test set that raises an error on every access."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("a test image was read")

    __getitems__ = __getitem__


@pytest.fixture(scope="module")
def prepared() -> TeacherWithData:
    """A teacher of a quick run; its students fail if they read a test image."""
    result = prepare_distillation_data(SETTINGS, CPU)
    return result._replace(distill_data=result.distill_data._replace(test=ForbiddenDataset()))


def make_context(prepared: TeacherWithData, settings: SweepSettings = SETTINGS) -> SweepContext:
    return command._make_context(settings, prepared, CPU)


@pytest.fixture
def trained_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train students in this process instead of a pool; the list contains their names in order of training."""
    names: list[str] = []

    def attempt(
        distill_data: Sequence[DistillationData], to_train: Mapping[str, Student], *, processes: int | None
    ) -> Iterator[tuple[str, TrainedStudent | FloatingPointError]]:
        for name, student in to_train.items():
            names.append(name)
            yield name, students._try_training(distill_data, (name, student))

    monkeypatch.setattr(command, "try_students", attempt)
    return names


# --- students


def make_students(settings: SweepSettings, points: Sequence[Point], prepared: TeacherWithData) -> dict[str, Student]:
    return sweep_students.make_students(make_context(prepared, settings), points, [0, 1])


def test_points_share_initial_weights_per_seed_and_seeds_differ(prepared: TeacherWithData) -> None:
    by_name = make_students(SETTINGS, list_grid(SETTINGS), prepared)
    starts = {name: kd.weights_bytes(student.model) for name, student in by_name.items()}
    assert len(starts) == 5 * 2
    assert len({content for name, content in starts.items() if name.endswith("seed-0")}) == 1
    assert len(set(starts.values())) == 2


# Another value than the default for each setting that can vary, and what it needs.
OTHER_VALUES: dict[str, tuple[object, dict[str, object]]] = {
    "student_width": (32, {}),
    "batch_size": (50, {}),
    "epochs": (2, {}),
    "learning_rate": (0.01, {}),
    "optimizer": ("adamw", {}),
    "momentum": (0.5, {"optimizer": "sgd"}),
    "weight_decay": (0.05, {}),
    "schedule": ("cosine", {}),
    "warmup": (0.5, {}),
    "clip": (1.0, {}),
    "accumulate": (2, {}),
    "ema": (0.5, {}),
    "precision": ("bfloat16", {}),
    "label_smoothing": (0.1, {}),
}


def test_every_setting_that_can_vary_changes_the_students_training(prepared: TeacherWithData) -> None:
    assert OTHER_VALUES.keys() == student_settings().keys()
    one = dataclasses.replace(SETTINGS, temperatures=(5.0,), alphas=(0.5,))
    for name, (other, needed) in OTHER_VALUES.items():
        settings = dataclasses.replace(one, **needed)  # type: ignore[arg-type]
        settings = dataclasses.replace(settings, vary=(f"{name}={getattr(settings, name)},{other}",))
        settings.check()
        context, points = make_context(prepared, settings), list_grid(settings)
        students = [sweep_students.make_students(context, [point], [0]).popitem()[1] for point in points]
        parts = [
            (student.model, student.objective, student.train, context.distill_data[student.teacher].batch_size)
            for student in students
        ]
        assert len({digest(describe(list(part))) for part in parts}) == len(points) == 2, name


@pytest.mark.parametrize("text", ["keep=last,best", "patience=0,3", "mixup=none,0.2", "cutmix=none,1"])
def test_what_makes_points_incomparable_cannot_vary(text: str) -> None:
    with pytest.raises(ValueError, match=f"--vary must be one of .*Got '{text.partition('=')[0]}'"):
        dataclasses.replace(SETTINGS, keep="best", vary=(text,)).check()


def test_a_varied_setting_affects_the_students_only(prepared: TeacherWithData) -> None:
    settings = dataclasses.replace(SETTINGS, vary=("student_width=16,32", "epochs=1,2", "batch_size=128,50"))
    by_name = make_students(settings, list_grid(settings), prepared)
    small, large = (
        by_name[f"T=1-alpha=0-student_width={width}-epochs={epochs}-batch_size={size}-seed-0"]
        for width, epochs, size in ((16, 1, 128), (32, 2, 50))
    )
    assert [student.model.hidden.out_features for student in (small, large)] == [16, 32]  # type: ignore[union-attr]
    assert [student.epochs for student in (small, large)] == [1, 2]
    data_by_size = make_context(prepared, settings).distill_data
    assert [data_by_size[student.teacher].batch_size for student in (small, large)] == [128, 50]
    assert all(distill_data.training is prepared.distill_data.training for distill_data in data_by_size)


def test_students_shared_with_compare_have_the_same_names(prepared: TeacherWithData) -> None:
    names = set(make_students(SETTINGS, list_grid(SETTINGS), prepared))
    assert {"control-seed-0", "distilled-seed-0", "T=1-alpha=0.5-seed-1"} <= names
    varied = dataclasses.replace(SETTINGS, vary=("epochs=1,2",))
    names = set(make_students(varied, list_grid(varied), prepared))
    assert {"control-seed-0", "distilled-seed-0", "control-epochs=2-seed-0", "T=5-alpha=0.5-epochs=2-seed-0"} <= names


@pytest.mark.parametrize("temperature", [1, 7])
def test_at_alpha_one_the_student_equals_the_control_bit_for_bit(temperature: float, prepared: TeacherWithData) -> None:
    """Train once as the sweep does and once by distillation without weight on the teacher."""
    (student, _) = make_students(SETTINGS, [make_point(temperature, 1)], prepared).values()
    twin = make_students(SETTINGS, [make_point(temperature, 1)], prepared)["control-seed-0"]
    twin = twin._replace(objective=kd.distilled(temperature=temperature, alpha=1))
    first, second = (students.train_student(prepared.distill_data, "x", s, tested=False) for s in (student, twin))
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert torch.equal(first.validation.logits, second.validation.logits)


def test_a_score_is_errors_and_mean_cross_entropy() -> None:
    predictions = Predictions(torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]))
    score = command.score(predictions, ERRORS)
    assert score.deciding == 1
    assert command.score(predictions, BALANCED) == (*score[:2], 25.0)
    right, wrong = (float(torch.tensor(x).exp().add(1).log()) for x in (-2.0, 2.0))
    assert score.errors == 1
    assert score.cross_entropy == pytest.approx((2 * right + wrong) / 3)


# --- selection


def test_every_point_is_tried_once_without_test_images(prepared: TeacherWithData, trained_names: list[str]) -> None:
    tried = explore(make_context(prepared))
    assert {trial.point for trial in tried} == set(list_grid(SETTINGS))
    assert len(trained_names) == len(set(trained_names)) == 5 * 2
    assert all(len(trial.scores) == 2 and trial.finite for trial in tried)
    assert all(0 <= errors <= 30 for trial in tried for errors in trial.errors)
    chosen = choose_point(tried, documented_point(SETTINGS))
    assert chosen.mean == min(trial.mean for trial in tried)


def test_use_of_the_forbidden_test_set_raises(prepared: TeacherWithData) -> None:
    (student, _) = make_students(SETTINGS, [make_point(5, 0.5)], prepared).values()
    with pytest.raises(AssertionError, match="a test image was read"):
        students.train_student(prepared.distill_data, "x", student, tested=True)


def test_the_documented_point_and_the_control_are_tried_even_if_not_listed(
    prepared: TeacherWithData, trained_names: list[str]
) -> None:
    settings = dataclasses.replace(SETTINGS, temperatures=(2,), alphas=(0,), seeds=1)
    assert {trial.point for trial in explore(make_context(prepared, settings))} == {
        make_point(2, 0),
        make_point(5, 0.5),
        make_point(5, 1),
    }


def test_a_point_with_a_non_finite_loss_fails_and_the_others_continue(
    prepared: TeacherWithData, trained_names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(
        SETTINGS, temperatures=(5,), alphas=(0.5,), seeds=1, vary=("learning_rate=0.004,1e38",)
    )
    tried = explore(make_context(prepared, settings))
    finite = {dict(trial.point.others)["learning_rate"] for trial in tried if trial.finite}
    assert len(tried) == 4
    assert finite == {0.004}
    assert "failed; " in capsys.readouterr().out


def test_scores_match_the_students_predictions(prepared: TeacherWithData, trained_names: list[str]) -> None:
    (tried,) = (trial for trial in explore(make_context(prepared)) if trial.point == make_point(5, 0.5))
    (name, student), *_ = make_students(SETTINGS, [make_point(5, 0.5)], prepared).items()
    trained = students.train_student(prepared.distill_data, name, student, tested=False)
    assert tried.scores[0] == command.score(trained.validation, ERRORS)
    predictions = predict_models(
        {"x": student.model}, kd.make_loader(prepared.distill_data.validation, batch_size=128)
    )["x"]
    assert tried.scores[0] == Score(
        int((predictions.logits.argmax(1) != predictions.labels).sum()), pytest.approx(tried.scores[0][1])
    )


def test_fresh_seeds_differ_from_the_seeds_of_the_selection() -> None:
    settings = dataclasses.replace(SETTINGS, seed=7, seeds=3, final_pairs=4)
    assert command._list_seeds(settings) == [7, 8, 9]
    assert command._list_final_seeds(settings) == [600_007, 600_008, 600_009, 600_010]


@pytest.mark.slow
def test_a_resumed_sweep_trains_nothing_twice(
    prepared: TeacherWithData, trained_names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[str] = []
    fit = kd.training.run_steps.fit

    def counting_fit(*args: Any, **keywords: Any) -> Any:
        if len(trainings) == 4 and not (tmp_path / "second").exists():
            raise KeyboardInterrupt
        trainings.append("one")
        return fit(*args, **keywords)

    monkeypatch.setattr("kd.training.run_steps.fit", counting_fit)
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path):
        explore(make_context(prepared))
    (tmp_path / "second").touch()
    with open_run(tmp_path):
        tried = explore(make_context(prepared))
    assert len(trainings) == 5 * 2
    assert tried == explore(make_context(prepared))  # the same as without an interruption


# --- a search


def test_a_search_includes_controls_and_the_documented_point(
    prepared: TeacherWithData, trained_names: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="needs Optuna (search extra)")
    settings = dataclasses.replace(SETTINGS, out=tmp_path, trials=5, seeds=1, vary=("learning_rate=1e-3,1e-2",))
    with open_run(settings.state_dir):
        tried = explore(make_context(prepared, settings))
    points = [trial.point for trial in tried]
    distilled = [trial for trial in points if not trial.is_control]
    assert len(distilled) == 5
    assert documented_point(settings) in distilled
    assert {trial.control for trial in distilled} <= set(points)
    assert len(trained_names) == len(set(trained_names))
    assert (tmp_path / ".kd" / "steps" / "search.db").is_file()


@pytest.mark.slow
def test_an_extended_search_trains_only_new_points_and_equals_a_single_search(
    prepared: TeacherWithData, trained_names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="needs Optuna (search extra)")
    settings = dataclasses.replace(SETTINGS, out=tmp_path / "one", seeds=1)
    results, contexts = [], []
    for trials, out in ((3, "one"), (6, "one"), (6, "other")):
        run_settings = dataclasses.replace(settings, trials=trials, out=tmp_path / out)
        contexts.append(make_context(prepared, run_settings))
        with open_run(run_settings.state_dir):
            results.append(explore(contexts[-1]))
    assert results[1] == results[2]
    assert contexts[0].seconds.items() <= contexts[1].seconds.items()  # the times of the first training
    assert contexts[1].seconds.keys() == contexts[2].seconds.keys()
    printed = capsys.readouterr().out
    for name in contexts[1].seconds:  # trained once in each folder, and reused in the first one
        assert trained_names.count(name) - printed.count(f"{name}: up to date, reused") == 2


def test_the_search_key_covers_all_inputs_and_nothing_else(
    prepared: TeacherWithData,
) -> None:
    def key(**changed: Any) -> str:
        return command._search_key(make_context(prepared, dataclasses.replace(SETTINGS, **{"trials": 3, **changed})))

    assert key() == key(trials=9) == key(processes=1) == key(final_pairs=9) == key(out=Path("x")) == key(margin=1)
    different = [key(epochs=2), key(seed=1), key(seeds=3), key(temperature=4), key(alphas=(0, 1)), key(batch_size=64)]
    distill_data = prepared.distill_data._replace(training=prepared.distill_data.validation)
    different.append(command._search_key(make_context(prepared._replace(distill_data=distill_data))))
    different.append(key(student="mlp:64,64"))
    different += [key(freeze=("hidden.*",)), key(freeze=("hidden.weight",)), key(freeze=("output.bias",))]
    assert len({key(), *different}) == 12


# --- the command


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--vary", "divergence=forward,foo"), "--vary divergence=foo: divergence must be"),
        (("--method", "dkd", "--vary", "temperature=0,4"), "--vary temperature=0.0: temperature must be"),
        (("--method", "nkd", "--vary", "gamma=1.5,3", "--vary", "temperature=0,1"), "--vary temperature=0.0: "),
    ],
)
def test_a_value_that_the_method_refuses_is_refused_before_the_teacher_is_trained(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", "sklearn:digits", "--teacher", "mlp:16")
    assert cli.main(["sweep", "--out", str(tmp_path), *data, "--epochs", "1", "--device", "cpu", *flags]) != 0
    printed = capsys.readouterr()
    assert message in printed.err
    assert "epoch" not in printed.out


def test_files_and_report_are_published_together(
    prepared: TeacherWithData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published: list[Mapping[Path, bytes]] = []
    monkeypatch.setattr(publish, "publish", published.append)
    settings = dataclasses.replace(SETTINGS, out=tmp_path)
    command._publish(make_context(prepared, settings), prepared, make_sweep(list_grid(settings)), Ledger(), None)
    (files,) = published
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files) == [
        ".kd/report/sweep.json",
        "results/metrics/sweep.csv",
        "results/metrics/sweep.json",
        "results/metrics/sweep_timings.json",
        "results/plots/sweep.png",
        "results/report.html",
    ]
    assert b"kd sweep: LIMIT=300" in files[tmp_path / "results" / "report.html"]
    assert ".kd" not in capsys.readouterr().out


def test_a_verdict_is_recorded_before_it_is_printed(
    prepared: TeacherWithData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SETTINGS, out=tmp_path)
    grid = make_sweep(list_grid(settings))

    def interrupt(*_: object, **__: object) -> None:
        assert len(read_ledger(settings.state_dir).entries) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "prepare_distillation_data", lambda *_, **__: prepared)
    monkeypatch.setattr(command, "explore", lambda _: list_grid(settings))
    monkeypatch.setattr(command, "_test_roles", lambda *_: grid)
    monkeypatch.setattr(command, "print_sweep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        command.run(settings)


@pytest.mark.slow
def test_worker_processes_do_not_use_test_images(prepared: TeacherWithData) -> None:
    tried = explore(make_context(prepared, dataclasses.replace(SETTINGS, processes=2, seeds=1)))
    assert all(trial.finite for trial in tried)


@pytest.mark.slow
def test_a_sweep_reuses_steps_of_run_and_compare_and_a_second_sweep_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path))
    assert kd_command("run", *out, *QUICK) == 0
    assert kd_command("compare", *out, *QUICK, "--pairs", "3", "--smoothing", "0", "--no-longer") == 0
    steps = {path.name for path in (tmp_path / ".kd" / "steps").iterdir()}
    capsys.readouterr()
    assert kd_command("sweep", *out, *QUICK, *FEW) == 0
    printed = capsys.readouterr().out
    assert "teacher: up to date, reused" in printed
    new = {path.name for path in (tmp_path / ".kd" / "steps").iterdir()} - steps
    assert len({name for name in new if "-seed-6" in name}) == len(new)  # only the fresh seeds are trained
    summary = json.loads((tmp_path / "results" / "metrics" / "sweep.json").read_text())
    assert summary["toy"] == "LIMIT=300"
    assert summary["config"]["ALPHAS"] == [0.5, 1]
    assert (summary["seeds"], summary["final_seeds"]) == ([0], [600_000, 600_001])
    page = sections((tmp_path / "results" / "report.html").read_bytes())
    assert {"curves", "comparison", "fidelity", "map", "provenance"} <= set(page)
    assert "describe different models" not in page["verdict"]
    compared, swept = read_ledger(tmp_path / ".kd").entries
    assert (compared.command, compared.pairs, swept.command, swept.pairs) == ("compare", 3, "sweep", 2)
    assert compared.test == swept.test
    assert "for 2 questions" in summary["lines"][-1]
    assert swept.title in page["comparison"].replace("\u00a0", " ")
    if compared.verdict in ("inconclusive", "not decided"):
        assert swept.verdict == summary["verdict"]["verdict"] == "not decided"
        assert "kd compare is undecided with 3 pairs" in summary["lines"][-1]
    before, times = folder_digest(tmp_path / "results"), tmp_path / "results" / "metrics" / "sweep_timings.json"
    content = times.read_bytes()
    assert kd_command("sweep", *out, *QUICK, *FEW, "--processes", "1") == 0
    assert folder_digest(tmp_path / "results") == before
    assert times.read_bytes() == content


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a Windows process at once")
@pytest.mark.parametrize("search", [(), ("--trials", "6")], ids=["grid", "search"])
def test_a_stopped_sweep_resumes_with_identical_results(search: tuple[str, ...], tmp_path: Path) -> None:
    if search:
        pytest.importorskip("optuna", reason="needs Optuna (search extra)")
    more = ("--temperatures", "1", "10", "--alphas", "0", "1", "--seeds", "1", "--final-pairs", "2", *search)
    typed = [sys.executable, "-u", "-m", "kd", "sweep", *QUICK, *more, "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*typed, "stopped"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("  2/" in line for line in process.stdout)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "(without --fresh) to resume" in err
    for folder in ("stopped", "untouched"):
        result = subprocess.run([*typed, folder], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    stopped, untouched = (
        {path.name: path.read_bytes() for path in (tmp_path / folder / "results").rglob("sweep.*")}
        for folder in ("stopped", "untouched")
    )
    assert set(stopped) == {"sweep.json", "sweep.csv", "sweep.png"}
    assert stopped == untouched
