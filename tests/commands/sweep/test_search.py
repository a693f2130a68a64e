"""Search with Optuna: resumes with the same proposals, tries no point twice, stays within the ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs Optuna (search extra)")

from kd.commands.sweep.points import Point, Score, TriedPoint, documented_point, make_point
from kd.commands.sweep.search import ROUND, search
from kd.commands.sweep.settings import SweepSettings

SETTINGS = SweepSettings(temperatures=(1, 20), alphas=(0, 1), vary=("learning_rate=1e-3,1e-2", "student_width=64,256"))
WORST = 100


class Bowl:
    """Replaces training: errors grow with the distance from T = 3, alpha = 0.2."""

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.tried_points: list[Point] = []
        self.dies_after = dies_after

    def __call__(self, points: Sequence[Point]) -> dict[Point, TriedPoint]:
        if self.dies_after is not None and len(self.tried_points) >= self.dies_after:
            raise KeyboardInterrupt
        self.tried_points += points
        return {trial: TriedPoint(trial, (self.score(trial), self.score(trial))) for trial in points}

    def score(self, at: Point) -> Score | None:
        if dict(at.others)["learning_rate"] > 0.006:
            return None
        errors = 10 * abs((at.temperature or 20) - 3) + 100 * abs(at.alpha - 0.2)
        return Score(round(errors), errors / 100)


def run_search(
    folder: Path, trials: int, bowl: Bowl | None = None, *, seed: int = 0, key: str = "k"
) -> list[TriedPoint]:
    settings = dataclasses.replace(SETTINGS, trials=trials, seed=seed)
    return search(settings, folder / "search.db", key, bowl or Bowl(), worst=WORST)


def test_every_proposal_lies_within_the_ranges_and_the_documented_point_comes_first(tmp_path: Path) -> None:
    trials = run_search(tmp_path, 14)
    assert len(trials) == 14
    assert trials[0].point == documented_point(SETTINGS)
    assert len({trial.point for trial in trials}) == 14
    for trial in trials:
        others = dict(trial.point.others)
        assert 1 <= (trial.point.temperature or 1) <= 20
        assert 0 <= trial.point.alpha <= 1
        assert 1e-3 <= others["learning_rate"] <= 1e-2
        assert others["student_width"] in (64, 256)
        assert len(f"{trial.point.temperature!r}".replace(".", "").strip("0")) <= 3  # few enough digits to type


def test_equal_seeds_propose_equal_points_and_different_seeds_differ(tmp_path: Path) -> None:
    runs = [run_search(tmp_path, 10, seed=seed, key=key) for seed, key in ((0, "a"), (0, "b"), (1, "c"))]
    assert runs[0] == runs[1]
    assert runs[0][1:] != runs[2][1:]


@pytest.mark.parametrize("first", [1, ROUND - 1, ROUND, ROUND + 1, 2 * ROUND + 3])
@pytest.mark.slow
def test_a_resumed_search_equals_a_single_search_and_tries_nothing_twice(first: int, tmp_path: Path) -> None:
    """Resume after any number of trials, including within a round."""
    before, after = Bowl(), Bowl()
    begun = run_search(tmp_path, first, before)
    whole = run_search(tmp_path, 13, after)
    assert whole[:first] == begun
    assert len(before.tried_points) + len(after.tried_points) == 13
    assert not set(before.tried_points) & set(after.tried_points)
    (tmp_path / "other").mkdir()
    assert run_search(tmp_path / "other", 13) == whole


def test_a_search_killed_within_a_round_proposes_the_round_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, 12, Bowl(dies_after=ROUND))
    after = Bowl()
    assert run_search(tmp_path, 12, after) == run_search(tmp_path, 12, Bowl(), key="untouched")
    assert len(after.tried_points) == 12 - ROUND


def test_a_finished_search_trains_nothing_and_returns_its_trials(tmp_path: Path) -> None:
    trials, again = run_search(tmp_path, 9), Bowl()
    assert run_search(tmp_path, 9, again) == trials
    assert run_search(tmp_path, 5, again) == trials[:5]
    assert again.tried_points == []


def test_each_key_has_its_own_study_in_the_file(tmp_path: Path) -> None:
    run_search(tmp_path, 4)
    other = Bowl()
    run_search(tmp_path, 4, other, key="another teacher")
    assert len(other.tried_points) == 4


def test_later_proposals_are_better(tmp_path: Path) -> None:
    """The second half of the proposals has clearly fewer errors on average; a random search shows no such trend."""
    trials = run_search(tmp_path, 40)
    errors = [trial.mean if trial.finite else WORST for trial in trials]
    assert sum(errors[20:]) < 0.8 * sum(errors[:20])


def test_a_non_finite_point_is_saved(tmp_path: Path) -> None:
    trials = run_search(tmp_path, 20)
    failed = [trial for trial in trials if not trial.finite]
    assert failed
    assert run_search(tmp_path, 20) == trials


def test_a_documented_point_outside_the_ranges_is_not_proposed(tmp_path: Path) -> None:
    settings = SweepSettings(temperatures=(6, 20), trials=4)

    def attempt(points: Sequence[Point]) -> dict[Point, TriedPoint]:
        return {trial: TriedPoint(trial, (Score(1, 1.0),)) for trial in points}

    trials = search(settings, tmp_path / "search.db", "k", attempt, worst=WORST)
    assert make_point(5, 0.5) not in {trial.point for trial in trials}


def test_a_search_over_single_values_works(tmp_path: Path) -> None:
    settings = SweepSettings(temperatures=(5,), alphas=(0, 1), trials=5)

    def attempt(points: Sequence[Point]) -> dict[Point, TriedPoint]:
        return {trial: TriedPoint(trial, (Score(1, 1.0),)) for trial in points}

    trials = search(settings, tmp_path / "search.db", "k", attempt, worst=WORST)
    assert {trial.point.temperature for trial in trials} == {5}


def test_a_damaged_database_raises_an_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(OSError, match=r"search\.db is not usable: .*delete it"):
        run_search(tmp_path, 4)


def test_a_search_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_search(tmp_path, 5)
    assert capfd.readouterr() == ("", "")


def test_a_search_proposes_settings_of_any_method_within_their_ranges(tmp_path: Path) -> None:
    vary = ("beta=0,16", "temperature=2,8", "set.alpha=1", "student_width=64,256")
    settings = SweepSettings(method="dkd", vary=vary, trials=10)

    def attempt(points: Sequence[Point]) -> dict[Point, TriedPoint]:
        return {
            trial: TriedPoint(trial, (Score(round(10 * dict(trial.method or ())["beta"]), 0.1),)) for trial in points
        }

    trials = search(settings, tmp_path / "search.db", "k", attempt, worst=WORST)
    assert trials[0].point == documented_point(settings)
    for trial in trials:
        assert trial.point.temperature is None
        assert not trial.point.is_control
        method = dict(trial.point.method or ())
        assert list(method) == ["beta", "temperature", "alpha"]
        assert 0 <= method["beta"] <= 16
        assert 2 <= method["temperature"] <= 8
        assert trial.point.width in (64, 256)
    assert search(settings, tmp_path / "search.db", "k", attempt, worst=WORST) == trials  # as they were saved


def test_a_search_chooses_among_texts(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, vary=("divergence=forward,js,skew:0.3",), trials=12)

    def attempt(points: Sequence[Point]) -> dict[Point, TriedPoint]:
        return {trial: TriedPoint(trial, (Score(1, 1.0),)) for trial in points}

    trials = search(settings, tmp_path / "search.db", "k", attempt, worst=WORST)
    found = {dict(trial.point.method or ()).get("divergence") for trial in trials}
    assert {"forward", "js"} <= found <= {"forward", "js", "skew:0.3", None}  # None at alpha = 1
    assert search(settings, tmp_path / "search.db", "k", attempt, worst=WORST) == trials


def test_a_search_resumes_with_the_balanced_errors(tmp_path: Path) -> None:
    class Balanced(Bowl):
        def score(self, at: Point) -> Score | None:
            score = super().score(at)
            return score and score._replace(balanced_error=score.errors / 3)

    trials = run_search(tmp_path, 6, Balanced())
    assert trials == run_search(tmp_path, 6, Balanced(dies_after=0))
    assert trials[0].mean == trials[0].errors[0] / 3
