"""The points of a sweep and the rule by which one is chosen; what the command can be told, and what it refuses."""

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
    Tried,
    choose,
    choose_control,
    distance,
    documented,
    grid,
    label,
    plain,
    point,
    ranked,
    with_controls,
)
from kd.commands.sweep.results import roles
from kd.commands.sweep.settings import SweepSettings
from tests.commands.compare.test_command import kd_command

REFERENCE = point(5, 0.5)


def tried(temperature: float, alpha: float, *errors: int | None, entropy: float = 0.1, **others: float) -> Tried:
    scores = tuple(None if count is None else Score(count, entropy) for count in errors)
    return Tried(point(temperature, alpha, others), scores)


# --- the rule, for any sweep

SCORES = st.builds(Score, st.integers(0, 4), st.sampled_from([0.1, 0.2, 0.3]))
POINTS = st.builds(point, st.sampled_from([1, 2, 5, 10]), st.sampled_from([0, 0.25, 0.5, 1]))


@st.composite
def sweeps(draw: st.DrawFn) -> list[Tried]:
    """Few values, so that ties are common; at least one point that is finite."""
    seeds = draw(st.integers(1, 3))
    points = draw(st.lists(POINTS, min_size=1, max_size=12, unique=True))
    maybe = st.one_of(SCORES, st.none()) if draw(st.booleans()) else SCORES
    sweep = [Tried(each, tuple(draw(maybe) for _ in range(seeds))) for each in points]
    first = Tried(points[0], tuple(draw(SCORES) for _ in range(seeds)))
    return [first, *sweep[1:]]


@given(sweeps())
def test_no_finite_point_has_fewer_errors_than_the_chosen_one(sweep: list[Tried]) -> None:
    chosen = choose(sweep, REFERENCE)
    assert chosen.finite
    assert all(sum(chosen.errors) <= sum(other.errors) for other in sweep if other.finite)


@given(sweeps())
def test_among_equals_cross_entropy_decides_and_then_nearness_to_the_reference(sweep: list[Tried]) -> None:
    chosen = choose(sweep, REFERENCE)
    equals = [each for each in sweep if each.finite and sum(each.errors) == sum(chosen.errors)]
    assert chosen.cross_entropy == min(each.cross_entropy for each in equals)
    nearest = [each for each in equals if each.cross_entropy == chosen.cross_entropy]
    assert distance(chosen.point, REFERENCE) == min(distance(each.point, REFERENCE) for each in nearest)


@given(sweeps(), st.randoms())
def test_the_choice_depends_neither_on_the_order_of_points_nor_on_that_of_seeds(sweep: list[Tried], luck: Any) -> None:
    shuffled = [Tried(each.point, tuple(luck.sample(each.scores, len(each.scores)))) for each in sweep]
    luck.shuffle(shuffled)
    assert choose(shuffled, REFERENCE).point == choose(sweep, REFERENCE).point
    assert [each.point for each in ranked(shuffled, REFERENCE)] == [each.point for each in ranked(sweep, REFERENCE)]


@given(sweeps())
def test_a_worse_loser_or_a_better_winner_changes_nothing(sweep: list[Tried]) -> None:
    chosen = choose(sweep, REFERENCE)

    def moved(each: Tried, by: int) -> Tried:
        return Tried(
            each.point, tuple(score and Score(score.errors + by, score.cross_entropy) for score in each.scores)
        )

    changed = [moved(each, -1 if each == chosen else 1) for each in sweep]
    assert choose(changed, REFERENCE).point == chosen.point


def test_a_point_with_one_student_that_was_not_finite_is_never_chosen() -> None:
    assert choose([tried(5, 0.5, 9, 9), tried(1, 0.5, 0, None)], REFERENCE).point == REFERENCE
    with pytest.raises(FloatingPointError, match="none of the 1 points was trained to its end"):
        choose([tried(1, 0.5, 0, None)], REFERENCE)


def test_points_of_unequal_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds must be as many at each point\. Got \[1, 2\]"):
        choose([tried(5, 0.5, 9, 9), tried(1, 0.5, 0)], REFERENCE)


def test_the_control_is_the_best_of_the_same_width_whatever_the_method_chose_besides() -> None:
    sweep = [
        tried(5, 0.5, 3, student_width=64, learning_rate=0.1),
        tried(5, 1, 5, student_width=64, learning_rate=0.1),
        tried(5, 1, 4, student_width=64, learning_rate=0.2),
        tried(5, 1, 1, student_width=256, learning_rate=0.2),
    ]
    reference = sweep[0].point
    assert choose_control(sweep, reference, reference) == sweep[2]


def test_if_a_control_wins_the_documented_point_is_held_against_the_control_of_its_own_width() -> None:
    sweep = [
        tried(5, 0.5, 5, student_width=256),
        tried(5, 1, 6, student_width=256),
        tried(5, 0.5, 4, student_width=64),
        tried(5, 1, 3, student_width=64),
    ]
    points = [each.point for each in sweep]
    found = roles(sweep, points[0])
    assert found == {"chosen": points[3], "documented": points[0], "control": points[1]}


# --- points


@pytest.mark.parametrize("temperature", [1, 5, 20.0])
def test_at_alpha_one_all_temperatures_are_the_same_point_and_that_is_the_control(temperature: float) -> None:
    assert point(temperature, 1) == point(2, 1.0) == point(3, 0.2).control == Point(None, 1.0)
    assert point(temperature, 1).is_control
    assert not point(temperature, 0.99).is_control


def test_the_grid_holds_every_combination_once_and_one_control_for_each_of_the_others() -> None:
    settings = SweepSettings(temperatures=(1, 5, 5), alphas=(0, 0.5, 1), vary=("student_width=64,256",))
    points = grid(settings)
    assert len(points) == len(set(points)) == 2 * (2 * 2 + 1)
    expected = itertools.product((1, 5), (0, 0.5, 1), (64, 256))
    assert set(points) == {point(t, a, {"student_width": width}) for t, a, width in expected}
    assert set(with_controls(points)) == set(points)
    assert documented(settings) == point(5, 0.5, {"student_width": 256})


def test_controls_are_added_for_every_value_of_the_other_settings() -> None:
    points = with_controls([point(2, 0.5, {"epochs": 1}), point(3, 0.5, {"epochs": 1}), point(2, 0.5, {"epochs": 2})])
    assert [each for each in points if each.is_control] == [point(1, 1, {"epochs": 1}), point(1, 1, {"epochs": 2})]


def test_the_defaults_bracket_the_documented_point_and_hold_both_ends() -> None:
    settings = SweepSettings()
    assert documented(settings) == point(5, 0.5)
    assert documented(settings) in grid(settings)
    assert min(settings.temperatures) < 5 < max(settings.temperatures)
    assert {0, 0.5, 1} <= set(settings.alphas)


def test_distance_is_symmetric_zero_to_itself_and_counts_factors() -> None:
    points = [*grid(SweepSettings(vary=("learning_rate=0.001,0.01",)))]
    for one, other in itertools.product(points, points):
        assert distance(one, other) == pytest.approx(distance(other, one))
    assert distance(REFERENCE, REFERENCE) == 0
    assert distance(point(10, 0.5), REFERENCE) == pytest.approx(distance(point(2.5, 0.5), REFERENCE))


def test_a_point_is_named_in_full() -> None:
    assert label(point(5, 0.5, {"student_width": 32})) == "T = 5, alpha = 0.5, student width 32"
    assert label(point(5, 1)) == "alpha = 1 (labels alone)"
    assert [plain(value) for value in (5.0, 32, 0.25, 1e-5)] == ["5", "32", "0.25", "1e-05"]


# --- settings


def test_further_settings_are_read_with_their_types_and_without_repetitions() -> None:
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
        (("--vary", "temperature=1,2"), "(--temperatures lists its values)"),
        (("--vary", "epochs=1,two"), "--vary epochs must be whole numbers with commas between. Got '1,two'"),
        (("--vary", "epochs=1,0"), "--vary epochs must be a whole number of at least 1. Got 0 instead"),
        (("--vary", "epochs=1,10", "--vary", "epochs=2"), "--vary epochs must be given once"),
        (("--vary", "student_width=32,64"), "--vary student_width must be values with 256 among them, which is"),
        (("--vary", "learning_rate=0.1,0.2"), "or set --learning-rate to one of yours"),
        (("--seeds", "0"), "--seeds must be a whole number of at least 1"),
        (("--trials", "0"), "--trials must be None or a whole number of at least 1"),
        (("--final-pairs", "1"), "--final-pairs must be a whole number of at least 2"),
        (("--margin", "0"), "--margin must be above 0"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_done(
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
