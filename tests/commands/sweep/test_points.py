"""Points of a sweep, the rule of choice, and the validation of settings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.commands.sweep import settings as settings_module
from kd.commands.sweep.points import (
    Point,
    Score,
    TriedPoint,
    add_controls,
    choose_control,
    choose_point,
    distance,
    documented_point,
    format_point,
    format_value,
    list_grid,
    make_method_point,
    make_point,
    rank_points,
    settings_at,
)
from kd.commands.sweep.results import assign_roles
from kd.commands.sweep.settings import SweepSettings
from tests.commands.compare.test_command import kd_command

REFERENCE = make_point(5, 0.5)


def try_point(
    temperature: float, alpha: float, *errors: int | None, entropy: float = 0.1, **others: float
) -> TriedPoint:
    scores = tuple(None if count is None else Score(count, entropy) for count in errors)
    return TriedPoint(make_point(temperature, alpha, others), scores)


# --- the rule, for any sweep

SCORES = st.builds(Score, st.integers(0, 4), st.sampled_from([0.1, 0.2, 0.3]), st.none())
POINTS = st.builds(make_point, st.sampled_from([1, 2, 5, 10]), st.sampled_from([0, 0.25, 0.5, 1]))


@st.composite
def sweeps(draw: st.DrawFn) -> list[TriedPoint]:
    """Sweeps with few distinct values, so that ties are common, and at least one finite point."""
    seeds = draw(st.integers(1, 3))
    points = draw(st.lists(POINTS, min_size=1, max_size=12, unique=True))
    maybe = st.one_of(SCORES, st.none()) if draw(st.booleans()) else SCORES
    sweep = [TriedPoint(at, tuple(draw(maybe) for _ in range(seeds))) for at in points]
    first = TriedPoint(points[0], tuple(draw(SCORES) for _ in range(seeds)))
    return [first, *sweep[1:]]


@given(sweeps())
def test_no_finite_point_has_fewer_errors_than_the_chosen_one(sweep: list[TriedPoint]) -> None:
    chosen = choose_point(sweep, REFERENCE)
    assert chosen.finite
    assert all(sum(chosen.errors) <= sum(other.errors) for other in sweep if other.finite)


@given(sweeps())
def test_ties_are_broken_by_cross_entropy_then_by_distance_to_the_reference(sweep: list[TriedPoint]) -> None:
    chosen = choose_point(sweep, REFERENCE)
    equals = [trial for trial in sweep if trial.finite and sum(trial.errors) == sum(chosen.errors)]
    assert chosen.cross_entropy == min(trial.cross_entropy for trial in equals)
    nearest = [trial for trial in equals if trial.cross_entropy == chosen.cross_entropy]
    assert distance(chosen.point, REFERENCE) == min(distance(trial.point, REFERENCE) for trial in nearest)


@given(sweeps(), st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_points_or_seeds(sweep: list[TriedPoint], luck: Any) -> None:
    shuffled = [TriedPoint(trial.point, tuple(luck.sample(trial.scores, len(trial.scores)))) for trial in sweep]
    luck.shuffle(shuffled)
    assert choose_point(shuffled, REFERENCE).point == choose_point(sweep, REFERENCE).point
    assert [trial.point for trial in rank_points(shuffled, REFERENCE)] == [
        trial.point for trial in rank_points(sweep, REFERENCE)
    ]


@given(sweeps())
def test_a_worse_loser_or_a_better_winner_changes_nothing(sweep: list[TriedPoint]) -> None:
    chosen = choose_point(sweep, REFERENCE)

    def moved(trial: TriedPoint, by: int) -> TriedPoint:
        return TriedPoint(
            trial.point, tuple(score and Score(score.errors + by, score.cross_entropy) for score in trial.scores)
        )

    changed = [moved(trial, -1 if trial == chosen else 1) for trial in sweep]
    assert choose_point(changed, REFERENCE).point == chosen.point


def test_the_balanced_error_ranks_the_points_if_it_decides() -> None:
    """Once, a point that neglects a rare class and so has fewer errors was chosen."""
    neglecting = TriedPoint(make_point(5, 0.5), (Score(3, 0.1, 50.0), Score(4, 0.1, 50.0)))
    finding = TriedPoint(make_point(1, 0.5), (Score(9, 0.1, 20.0), Score(8, 0.1, 30.0)))
    assert choose_point([neglecting, finding], REFERENCE) == finding
    assert (finding.mean, finding.sd, finding.errors) == (25.0, pytest.approx(50**0.5), [9, 8])


def test_a_point_with_a_non_finite_student_is_never_chosen() -> None:
    assert choose_point([try_point(5, 0.5, 9, 9), try_point(1, 0.5, 0, None)], REFERENCE).point == REFERENCE
    with pytest.raises(FloatingPointError, match=r"none of the 1 points.*not finite"):
        choose_point([try_point(1, 0.5, 0, None)], REFERENCE)


def test_unequal_numbers_of_seeds_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"seeds must be equal.*Got \[1, 2\]"):
        choose_point([try_point(5, 0.5, 9, 9), try_point(1, 0.5, 0)], REFERENCE)


def test_the_control_is_the_best_of_the_same_width() -> None:
    sweep = [
        try_point(5, 0.5, 3, student_width=64, learning_rate=0.1),
        try_point(5, 1, 5, student_width=64, learning_rate=0.1),
        try_point(5, 1, 4, student_width=64, learning_rate=0.2),
        try_point(5, 1, 1, student_width=256, learning_rate=0.2),
    ]
    reference = sweep[0].point
    assert choose_control(sweep, reference, reference) == sweep[2]


def test_if_a_control_wins_the_documented_point_is_compared_with_a_control_of_its_width() -> None:
    sweep = [
        try_point(5, 0.5, 5, student_width=256),
        try_point(5, 1, 6, student_width=256),
        try_point(5, 0.5, 4, student_width=64),
        try_point(5, 1, 3, student_width=64),
    ]
    points = [trial.point for trial in sweep]
    roles = assign_roles(sweep, points[0])
    assert roles == {"chosen": points[3], "documented": points[0], "control": points[1]}


# --- points


@pytest.mark.parametrize("temperature", [1, 5, 20.0])
def test_at_alpha_one_all_temperatures_give_the_control(temperature: float) -> None:
    assert make_point(temperature, 1) == make_point(2, 1.0) == make_point(3, 0.2).control == Point(None, 1.0)
    assert make_point(temperature, 1).is_control
    assert not make_point(temperature, 0.99).is_control


def test_the_grid_has_every_combination_once_and_one_control_per_other_setting() -> None:
    settings = SweepSettings(temperatures=(1, 5, 5), alphas=(0, 0.5, 1), vary=("student_width=64,256",))
    points = list_grid(settings)
    assert len(points) == len(set(points)) == 2 * (2 * 2 + 1)
    expected = itertools.product((1, 5), (0, 0.5, 1), (64, 256))
    assert set(points) == {make_point(t, a, {"student_width": width}) for t, a, width in expected}
    assert set(add_controls(points)) == set(points)
    assert documented_point(settings) == make_point(5, 0.5, {"student_width": 256})


def test_controls_are_added_for_every_value_of_the_other_settings() -> None:
    points = add_controls(
        [make_point(2, 0.5, {"epochs": 1}), make_point(3, 0.5, {"epochs": 1}), make_point(2, 0.5, {"epochs": 2})]
    )
    assert [trial for trial in points if trial.is_control] == [
        make_point(1, 1, {"epochs": 1}),
        make_point(1, 1, {"epochs": 2}),
    ]


def test_the_default_grid_brackets_the_documented_point() -> None:
    settings = SweepSettings()
    assert documented_point(settings) == make_point(5, 0.5)
    assert documented_point(settings) in list_grid(settings)
    assert min(settings.temperatures) < 5 < max(settings.temperatures)
    assert {0, 0.5, 1} <= set(settings.alphas)


def test_distance_is_symmetric_zero_to_itself_and_counts_factors() -> None:
    points = [*list_grid(SweepSettings(vary=("learning_rate=0.001,0.01",)))]
    for first, second in itertools.product(points, points):
        assert distance(first, second) == pytest.approx(distance(second, first))
    assert distance(REFERENCE, REFERENCE) == 0
    assert distance(make_point(10, 0.5), REFERENCE) == pytest.approx(distance(make_point(2.5, 0.5), REFERENCE))


def test_a_point_is_formatted_with_all_settings() -> None:
    assert format_point(make_point(5, 0.5, {"student_width": 32})) == "T = 5, alpha = 0.5, student width 32"
    assert format_point(make_point(5, 1)) == "alpha = 1 (labels alone)"
    assert [format_value(value) for value in (5.0, 32, 0.25, 1e-5)] == ["5", "32", "0.25", "1e-05"]


# --- other methods and further settings of kd


DKD = SweepSettings(method="dkd", vary=("beta=2,8", "student_width=64,256"))


def test_the_grid_of_another_method_has_every_combination_and_a_control_per_setting_of_the_students() -> None:
    points = list_grid(DKD)
    assert len(points) == len(set(points)) == 4
    assert documented_point(DKD) in points
    assert {(dict(point.method or ())["beta"], point.width) for point in points} == {
        (2, 64),
        (2, 256),
        (8, 64),
        (8, 256),
    }
    controls = [point for point in add_controls(points) if point.is_control]
    assert sorted(str(point.width) for point in controls) == ["256", "64"]
    assert not any(point.of_kd for point in [*points, *controls])
    assert all(point.control.control == point.control for point in points)
    assert DKD.trainings == {"teacher": 1, "control": 2 * 2 + 5, "distilled": 4 * 2 + 10}


def test_a_point_has_the_settings_that_kd_run_would_have() -> None:
    chosen = settings_at(DKD, list_grid(DKD)[0])
    assert chosen.method_settings == {"temperature": 4.0, "alpha": 1.0, "beta": 2.0, "warmup": 1 / 12}
    assert chosen.student_width == 64
    kd_settings = SweepSettings(vary=("divergence=forward,skew:0.1",))
    point = make_point(2, 0.25, method={"divergence": "skew:0.1"})
    assert point in list_grid(kd_settings)
    assert settings_at(kd_settings, point).method_settings == {
        "temperature": 2.0,
        "alpha": 0.25,
        "divergence": "skew:0.1",
    }


def test_a_setting_of_the_method_changes_no_control_of_kd() -> None:
    settings = SweepSettings(temperatures=(1, 5), alphas=(0.5, 1), vary=("divergence=forward,js,reverse",))
    points = list_grid(settings)
    assert len(points) == 2 * 3 + 1
    assert [point for point in points if point.is_control] == [Point(None, 1.0)]
    assert documented_point(settings) == make_point(5, 0.5, method={"divergence": "forward"})


def test_points_of_other_methods_are_formatted_and_ordered() -> None:
    texts = [format_point(point) for point in add_controls(list_grid(DKD))]
    assert "beta = 2, student width 64" in texts
    assert "labels alone, student width 256" in texts
    assert format_point(make_method_point({"epochs": 2}, {})) == "distilled, epochs 2"
    assert format_point(make_point(5, 0.5, method={"divergence": "js"})) == "T = 5, alpha = 0.5, divergence = js"
    first, second, zero = (make_method_point({}, {"beta": beta}) for beta in (2.0, 8.0, 0.0))
    assert distance(first, second) == distance(second, first) == pytest.approx(math.log(4))
    assert distance(first, zero) == 2
    assert distance(make_method_point({}, {"form": "code"}), make_method_point({}, {"form": "paper"})) == 1
    tied = [TriedPoint(make_method_point({}, {"form": form}), (Score(1, 0.1),)) for form in ("paper", "code")]
    assert rank_points(tied, first) == rank_points(tied[::-1], first)


def test_a_method_that_trains_the_student_of_the_control_is_not_chosen_over_it() -> None:
    documented, without_weight = (make_method_point({}, {"weight": weight}) for weight in (1.0, 0.0))
    scores = {documented: 5, documented.control: 4, without_weight: 4}
    tried = [TriedPoint(point, (Score(errors, 0.1),)) for point, errors in scores.items()]
    assert choose_point(tried, documented).point == documented.control
    roles = assign_roles(tried, documented)
    assert roles == {"chosen": documented.control, "documented": documented, "control": documented.control}


def test_named_choices_of_the_students_can_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds of settings that a recipe may have; only numbers and texts can vary."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Recipe:
        optimizer: Literal["adam", "sgd"] = "adam"
        clip: Annotated[float | None, "range"] = None
        schedule: Literal["cosine"] | None = None
        nesterov: bool = False
        teacher_epochs: int = 3
        seed: int = 0
        columns: tuple[str, str] = ("a", "b")

    monkeypatch.setattr(settings_module, "RecipeSettings", Recipe)
    kinds = settings_module.student_settings()
    assert set(kinds) == {"student_width", "optimizer", "clip", "schedule"}
    assert kinds["optimizer"].parse("optimizer", "sgd,adam,sgd") == ("sgd", "adam")
    assert kinds["clip"].parse("clip", "none,1,0.5") == (None, 1.0, 0.5)
    assert not settings_module.is_range((None, 1.0))
    with pytest.raises(ValueError, match=r"--vary optimizer must be one of adam, sgd\. Got 'adma'"):
        kinds["optimizer"].parse("optimizer", "adma")


def test_a_name_of_both_is_the_students_unless_it_says_set(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"warmup": settings_module.Kind(float, (), False), **settings_module.student_settings()}
    monkeypatch.setattr(settings_module, "student_settings", lambda: both)
    settings = SweepSettings(method="dkd", vary=("warmup=0.5,1", "set.warmup=0,0.25", "set.beta=8"))
    assert settings.varied == {"warmup": (0.5, 1.0)}
    assert settings.varied_of_method == {"set.warmup": (0.0, 0.25), "beta": (8.0,)}


# --- settings


def test_varied_settings_are_parsed_with_their_types_and_without_duplicates() -> None:
    varied = SweepSettings(vary=("student-width=32,256,32", "learning_rate=1e-3,4e-3")).varied
    assert varied == {"student_width": (32, 256), "learning_rate": (0.001, 0.004)}
    assert all(type(value) is int for value in varied["student_width"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperatures", "1", "0"), "--temperatures must be a finite number above 0. Got 0.0 instead"),
        (("--temperatures",), "--temperatures must be at least one number"),
        (("--alphas", "0", "1.5"), "--alphas must be in [0, 1]. Got 1.5 instead"),
        (("--vary", "student_width"), "--vary must be NAME=VALUE,VALUE,…"),
        (
            ("--vary", "seed=1,2"),
            "--vary must be one of student_width, batch_size, epochs, learning_rate, optimizer",
        ),
        (("--vary", "temperature=1,2"), "(use --temperatures)"),
        (("--vary", "epochs=1,two"), "--vary epochs must be integers separated by commas. Got '1,two'"),
        (("--vary", "epochs=1,0"), "--vary epochs must be an integer of at least 1. Got 0 instead"),
        (("--vary", "epochs=1,10", "--vary", "epochs=2"), "--vary epochs must be given once"),
        (("--vary", "student_width=32,64"), "--vary student_width must be values that include 256"),
        (("--vary", "learning_rate=0.1,0.2"), "or set --learning-rate to"),
        (
            ("--vary", "divergence=reverse,js"),
            "--vary divergence must be values that include forward, the value of --set",
        ),
        (("--method", "dkd"), "--vary must be given for --method dkd: NAME=VALUE"),
        (
            ("--method", "dkd", "--vary", "beta=1,2"),
            "--vary beta must be values that include 8.0, the value of --set beta",
        ),
        (
            ("--method", "sdd", "--vary", "scales=1,2,4"),
            "--vary scales must be omitted: '1,2,4', the value of --set scales, has commas",
        ),
        (
            ("--method", "fitnet", "--vary", "student_layers=a,b"),
            "must be values that include '', the value of --set student_layers. Got ('a', 'b') instead (or set --set "
            "student_layers to one of your values; a value with commas, such as a list of layers, cannot be varied)",
        ),
        (("--method", "dkd", "--vary", "beta=8,x"), "--vary beta: beta must be a float. Got 'x' instead"),
        (("--method", "dkd", "--vary", "beta=8,-1"), "--vary beta: beta must be a finite number of at least 0"),
        (
            ("--method", "dkd", "--vary", "gamma=8"),
            "--vary must be one of student_width, batch_size, epochs, learning_rate, ",
        ),
        (
            ("--method", "dkd", "--vary", "beta=8", "--temperatures", "2"),
            "--temperatures must be used with --method kd. Got (2.0,) instead (for dkd use --vary temperature=",
        ),
        (("--method", "ttm", "--vary", "gamma=0.1", "--temperatures", "2"), "instead (ttm has no temperature)"),
        (("--method", "dkd", "--vary", "beta=8", "--temperature", "2"), "--temperature and --alpha are settings of kd"),
        (
            ("--vary", "epochs=1,10", "--vary", "warmup=0,2"),
            "--vary epochs=1 --vary warmup=2.0: --warmup must be below the number of epochs, 1. Got 2.0",
        ),
        (
            ("--vary", "warmup=0,2", "--trials", "3"),
            "--vary warmup must be all below 1 or all at least 1 with --trials. Got (0.0, 2.0)",
        ),
        (("--vary", "momentum=0.9,0.5"), "--vary momentum=0.9: --momentum must be omitted without --optimizer sgd"),
        (
            ("--optimizer", "sgd", "--vary", "optimizer=sgd,adam", "--vary", "momentum=0.9,0.5"),
            "--vary optimizer=adam --vary momentum=0.9: --momentum must be omitted without --optimizer sgd",
        ),
        (
            ("--method=label-smoothing", "--set=smoothing=0.2", "--label-smoothing=0.1", "--vary=smoothing=0.1,0.2"),
            "--vary smoothing=0.1: --label-smoothing must be unlike smoothing=0.1 of --method label-smoothing",
        ),
        (
            ("--method", "label-smoothing", "--vary", "label_smoothing=0,0.1"),
            "--vary label_smoothing=0.1: --label-smoothing must be unlike smoothing=0.1",
        ),
        (("--seeds", "0"), "--seeds must be an integer of at least 1"),
        (("--trials", "0"), "--trials must be None or an integer of at least 1"),
        (("--final-pairs", "1"), "--final-pairs must be an integer of at least 2"),
        (("--margin", "0"), "--margin must be above 0"),
    ],
)
def test_a_bad_setting_is_rejected_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kd_command("sweep", "--out", str(tmp_path / "new"), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "settings",
    [
        SweepSettings(vary=("epochs=1,10",), teacher_warmup=2.0),  # the teacher's epochs do not vary
        SweepSettings(vary=("epochs=5,10", "warmup=0,2")),
        SweepSettings(vary=("warmup=0,0.5",), trials=3),
        SweepSettings(vary=("warmup=1,2",), warmup=1.0, trials=3),
        SweepSettings(vary=("momentum=0.9,0.5",), optimizer="sgd"),
        SweepSettings(vary=("optimizer=sgd,adam",), optimizer="sgd", momentum=0.5),
        SweepSettings(method="label-smoothing", vary=("smoothing=0.1,0.2",), label_smoothing=0.3),
    ],
)
def test_combinations_that_make_sense_are_accepted(settings: SweepSettings) -> None:
    settings.check()


def test_a_search_without_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--trials needs Optuna.*pip install 'paired-distillation\[search\]'"):
        dataclasses.replace(SweepSettings(), trials=3).check()
    SweepSettings().check()
