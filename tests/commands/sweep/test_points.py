"""Points of a sweep, the rule of choice, and the validation of settings."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    make_point,
    rank_points,
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

SCORES = st.builds(Score, st.integers(0, 4), st.sampled_from([0.1, 0.2, 0.3]))
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
        (("--vary", "seed=1,2"), "--vary must be one of student_width, learning_rate, epochs, batch_size. Got 'seed'"),
        (("--vary", "temperature=1,2"), "(use --temperatures)"),
        (("--vary", "epochs=1,two"), "--vary epochs must be integers separated by commas. Got '1,two'"),
        (("--vary", "epochs=1,0"), "--vary epochs must be an integer of at least 1. Got 0 instead"),
        (("--vary", "epochs=1,10", "--vary", "epochs=2"), "--vary epochs must be given once"),
        (("--vary", "student_width=32,64"), "--vary student_width must be values that include 256"),
        (("--vary", "learning_rate=0.1,0.2"), "or set --learning-rate to"),
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


def test_a_search_without_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--trials needs Optuna.*pip install 'paired-distillation\[search\]'"):
        dataclasses.replace(SweepSettings(), trials=3).check()
    SweepSettings().check()
