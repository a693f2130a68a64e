"""The search by Optuna: the same points however often it was killed, none tried twice, all within the ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs Optuna (search extra)")

from kd.commands.sweep.points import Point, Score, Tried, documented, point
from kd.commands.sweep.search import ROUND, search
from kd.commands.sweep.settings import SweepSettings

SETTINGS = SweepSettings(temperatures=(1, 20), alphas=(0, 1), vary=("learning_rate=1e-3,1e-2", "student_width=64,256"))
WORST = 100


class Bowl:
    """Stands in for training: errors grow with the distance from T = 3, alpha = 0.2; counts what it was asked for."""

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.asked: list[Point] = []
        self.dies_after = dies_after

    def __call__(self, points: Sequence[Point]) -> dict[Point, Tried]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += points
        return {each: Tried(each, (self.score(each), self.score(each))) for each in points}

    def score(self, at: Point) -> Score | None:
        if dict(at.others)["learning_rate"] > 0.006:
            return None
        errors = 10 * abs((at.temperature or 20) - 3) + 100 * abs(at.alpha - 0.2)
        return Score(round(errors), errors / 100)


def found(folder: Path, trials: int, bowl: Bowl | None = None, *, seed: int = 0, key: str = "k") -> list[Tried]:
    settings = dataclasses.replace(SETTINGS, trials=trials, seed=seed)
    return search(settings, folder / "search.db", key, bowl or Bowl(), worst=WORST)


def test_every_proposal_lies_within_the_ranges_and_the_documented_point_comes_first(tmp_path: Path) -> None:
    trials = found(tmp_path, 14)
    assert len(trials) == 14
    assert trials[0].point == documented(SETTINGS)
    assert len({each.point for each in trials}) == 14
    for each in trials:
        others = dict(each.point.others)
        assert 1 <= (each.point.temperature or 1) <= 20
        assert 0 <= each.point.alpha <= 1
        assert 1e-3 <= others["learning_rate"] <= 1e-2
        assert others["student_width"] in (64, 256)
        assert len(f"{each.point.temperature!r}".replace(".", "").strip("0")) <= 3  # a person can type it


def test_the_same_seed_proposes_the_same_points_and_another_one_others(tmp_path: Path) -> None:
    runs = [found(tmp_path, 10, seed=seed, key=key) for seed, key in ((0, "a"), (0, "b"), (1, "c"))]
    assert runs[0] == runs[1]
    assert runs[0][1:] != runs[2][1:]


@pytest.mark.parametrize("first", [1, ROUND - 1, ROUND, ROUND + 1, 2 * ROUND + 3])
def test_a_search_that_goes_on_ends_as_one_in_one_go_and_tries_nothing_twice(first: int, tmp_path: Path) -> None:
    """Also where only some trials of a round were written down before it was killed."""
    before, after = Bowl(), Bowl()
    begun = found(tmp_path, first, before)
    whole = found(tmp_path, 13, after)
    assert whole[:first] == begun
    assert len(before.asked) + len(after.asked) == 13
    assert not set(before.asked) & set(after.asked)
    (tmp_path / "other").mkdir()
    assert found(tmp_path / "other", 13) == whole


def test_killed_in_the_middle_of_a_round_it_proposes_that_round_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path, 12, Bowl(dies_after=ROUND))
    after = Bowl()
    assert found(tmp_path, 12, after) == found(tmp_path, 12, Bowl(), key="untouched")
    assert len(after.asked) == 12 - ROUND


def test_a_finished_search_asks_for_nothing_and_gives_what_it_found(tmp_path: Path) -> None:
    trials, again = found(tmp_path, 9), Bowl()
    assert found(tmp_path, 9, again) == trials
    assert found(tmp_path, 5, again) == trials[:5]
    assert again.asked == []


def test_another_key_is_another_study_in_the_same_file(tmp_path: Path) -> None:
    found(tmp_path, 4)
    other = Bowl()
    found(tmp_path, 4, other, key="another teacher")
    assert len(other.asked) == 4


def test_it_learns(tmp_path: Path) -> None:
    """The second half of the proposals is better than the first on average, as a random search's is not."""
    trials = found(tmp_path, 40)
    errors = [each.mean if each.finite else WORST for each in trials]
    assert sum(errors[20:]) < 0.8 * sum(errors[:20])


def test_a_point_that_is_not_finite_is_kept_as_such(tmp_path: Path) -> None:
    trials = found(tmp_path, 20)
    failed = [each for each in trials if not each.finite]
    assert failed
    assert found(tmp_path, 20) == trials


def test_a_documented_point_outside_the_ranges_is_not_proposed(tmp_path: Path) -> None:
    settings = SweepSettings(temperatures=(6, 20), trials=4)

    def attempt(points: Sequence[Point]) -> dict[Point, Tried]:
        return {each: Tried(each, (Score(1, 1.0),)) for each in points}

    trials = search(settings, tmp_path / "search.db", "k", attempt, worst=WORST)
    assert point(5, 0.5) not in {each.point for each in trials}


def test_single_values_leave_nothing_to_propose_but_work(tmp_path: Path) -> None:
    settings = SweepSettings(temperatures=(5,), alphas=(0, 1), trials=5)

    def attempt(points: Sequence[Point]) -> dict[Point, Tried]:
        return {each: Tried(each, (Score(1, 1.0),)) for each in points}

    trials = search(settings, tmp_path / "search.db", "k", attempt, worst=WORST)
    assert {each.point.temperature for each in trials} == {5}


def test_a_damaged_database_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(OSError, match=r"search\.db cannot be used: .*delete it"):
        found(tmp_path, 4)


def test_it_says_nothing_on_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found(tmp_path, 5)
    assert capfd.readouterr() == ("", "")
