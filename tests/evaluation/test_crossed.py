"""The interval over pairs and items: against statsmodels' ANOVA, enumeration of its terms, and by its coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kd.evaluation.contrast import contrast_of
from kd.evaluation.crossed import estimate_crossed
from kd.evaluation.paired_seeds import sign_test, t_interval, t_test
from kd.evaluation.sequential import measure_evidence

SHAPES = st.tuples(st.integers(2, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))


def draw(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    pairs, items, seed = shape
    return np.random.default_rng(seed).integers(-1, 2, (pairs, items)).astype(np.float64)


def mean_squares(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean squares of rows, columns and residual, cell by cell as in a textbook."""
    pairs, items = table.shape
    mean = table.mean()
    rows = sum(items * (row.mean() - mean) ** 2 for row in table) / (pairs - 1)
    columns = sum(pairs * (column.mean() - mean) ** 2 for column in table.T) / (items - 1)
    residual = sum(
        (table[a, b] - table[a].mean() - table[:, b].mean() + mean) ** 2 for a in range(pairs) for b in range(items)
    )
    return rows, columns, residual / ((pairs - 1) * (items - 1))


@settings(max_examples=60)
@given(SHAPES)
def test_variance_and_freedom_match_the_formula_written_out(shape: tuple[int, int, int]) -> None:
    table = draw(shape)
    pairs, items = table.shape
    rows, columns, residual = mean_squares(table)
    estimate = estimate_crossed(table)
    largest = max(rows + columns - residual, rows, columns)
    if largest <= 1e-12:
        assert estimate is None
        return
    assert estimate is not None
    assert estimate.mean == pytest.approx(table.sum() / pairs)
    assert estimate.variance == pytest.approx(items**2 * largest / (pairs * items))
    if columns > residual * (1 + 1e-9) and rows > residual * (1 + 1e-9):
        parts = rows**2 / (pairs - 1) + columns**2 / (items - 1) + residual**2 / ((pairs - 1) * (items - 1))
        assert estimate.freedom == pytest.approx(max(1, (rows + columns - residual) ** 2 / parts))


def test_mean_squares_match_statsmodels() -> None:
    formula_api, anova = pytest.importorskip("statsmodels.formula.api"), pytest.importorskip("statsmodels.stats.anova")
    pandas = pytest.importorskip("pandas")
    table = draw((5, 30, 1))
    rows = [{"z": table[a, b], "pair": a, "item": b} for a in range(5) for b in range(30)]
    fitted = formula_api.ols("z ~ C(pair) + C(item)", pandas.DataFrame(rows)).fit()
    found = anova.anova_lm(fitted)["mean_sq"]
    assert list(found[["C(pair)", "C(item)", "Residual"]]) == pytest.approx(mean_squares(table))


@settings(max_examples=60)
@given(SHAPES)
def test_orders_do_not_matter_and_signs_reverse(shape: tuple[int, int, int]) -> None:
    table = draw(shape)
    estimate, shuffled, reversed_ = map(estimate_crossed, (table, table[::-1, ::-1], -table))
    if estimate is None:
        assert shuffled is None
        assert reversed_ is None
        return
    assert shuffled is not None
    assert reversed_ is not None
    assert shuffled == pytest.approx(estimate)
    assert reversed_.mean == pytest.approx(-estimate.mean)
    assert reversed_.variance == pytest.approx(estimate.variance)


@settings(max_examples=60)
@given(SHAPES, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_interval_contains_that_of_the_seeds_and_matches_its_p(shape: tuple[int, int, int], level: float) -> None:
    contrast = contrast_of(draw(shape))
    interval, seeds = contrast.interval(level), contrast.seeds_interval(level)
    if interval is None or seeds is None:
        return
    assert interval.low <= seeds.low
    assert seeds.high <= interval.high
    if abs(contrast.p - level) > 1e-9:
        assert (interval.low > 0 or interval.high < 0) == (contrast.p < level)


def test_without_item_effects_it_is_about_the_interval_of_the_seeds() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((10, 1)) + 0.1 * rng.standard_normal((10, 500))
    contrast = contrast_of(table)
    interval, seeds = contrast.interval(), t_interval(tuple(table.sum(axis=1)))
    assert interval is not None
    assert seeds is not None
    assert interval == pytest.approx(seeds, rel=0.01)


def test_more_pairs_do_not_remove_the_variance_of_the_items() -> None:
    rng = np.random.default_rng(1)
    items = rng.standard_normal(400)
    few, many = (estimate_crossed(items + rng.standard_normal((pairs, 400))) for pairs in (5, 500))
    assert few is not None
    assert many is not None
    assert many.from_items == pytest.approx(400 * 400 * items.var() / 400, rel=0.1)
    assert many.from_pairs < few.from_pairs / 50
    assert many.variance >= many.from_items


@pytest.mark.parametrize("table", [np.zeros((4, 9)), np.ones((1, 9)), np.ones((3, 1))])
def test_without_any_spread_there_is_no_estimate(table: NDArray[np.float64]) -> None:
    assert estimate_crossed(table) is None


@pytest.mark.parametrize(("pairs", "items"), [(5, 60), (10, 200)])
def test_the_coverage_for_new_items_is_nominal_and_that_of_the_seeds_is_not(pairs: int, items: int) -> None:
    rng = np.random.default_rng([pairs, items])
    covered, covered_by_seeds, runs = 0, 0, 1_500
    for _ in range(runs):
        table = 0.1 * rng.standard_normal((pairs, 1)) + 1.5 * rng.standard_normal(items)
        contrast = contrast_of(table + rng.standard_normal((pairs, items)))
        interval, seeds = contrast.interval(), contrast.seeds_interval()
        assert interval is not None
        assert seeds is not None
        covered += interval.low <= 0 <= interval.high
        covered_by_seeds += seeds.low <= 0 <= seeds.high
    assert scipy.stats.binomtest(covered, runs, 0.95).pvalue > 1e-3 or covered / runs > 0.95
    assert covered_by_seeds / runs < 0.85


def rare_class(
    rng: np.random.Generator, pairs: int, rare: int, share: float, majority: int = 300
) -> NDArray[np.float64]:
    """Return contributions to the balanced error: a share of the rare class is worse in every pair."""
    wrong = [(rng.random((pairs, majority)) < 0.5) & (rng.random(majority) < 0.03) for _ in range(2)]
    rows = np.zeros((pairs, rare + majority))
    rows[:, rare:] = 50 / majority * (wrong[1].astype(float) - wrong[0])
    rows[:, :rare] = 50 / rare * (rng.random(rare) < share)
    return rows


@pytest.mark.parametrize(("pairs", "rare", "expected"), [(10, 14, 0.5), (10, 14, 1), (3, 30, 1), (10, 40, 8)])
def test_a_true_difference_in_a_rare_class_is_rarely_called_smaller(pairs: int, rare: int, expected: float) -> None:
    """The sample of the class may hold none of the items that differ, or too few."""
    rng = np.random.default_rng([pairs, rare])
    truth, runs, missed, missed_before = 50 * expected / rare, 300, 0, 0
    for _ in range(runs):
        rows = rare_class(rng, pairs, rare, expected / rare)
        with_rare, without = (contrast_of(rows, one_error=50 / rare, unequal=unequal) for unequal in (True, False))
        missed += (interval := with_rare.interval(0.1)) is not None and interval.high < truth
        missed_before += (interval := without.interval(0.1)) is not None and interval.high < truth
    assert scipy.stats.binomtest(missed, runs, 0.05, alternative="greater").pvalue > 1e-3
    assert missed_before / runs > (0.1 if expected <= 1 else 0.05)


@pytest.mark.parametrize("pairs", [3, 10, 50])
@pytest.mark.parametrize("level", [0.01, 0.1])
def test_a_class_that_shows_nothing_widens_by_the_rule_of_three_whatever_the_number_of_pairs(
    pairs: int, level: float
) -> None:
    rows = rare_class(np.random.default_rng(pairs), pairs, 14, 0.0)
    plain, wide = (contrast_of(rows, one_error=50 / 14, unequal=u).interval(level) for u in (False, True))
    assert plain is not None
    assert wide is not None
    assert wide.high - wide.low > 0.9 * 2 * 50 / 14 * np.log(2 / level)
    assert pairs < 10 or plain.high - plain.low < 4


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(0, 12), st.sampled_from([0.01, 0.05, 0.2]), st.booleans())
def test_with_unequal_weights_p_also_matches_the_interval(pairs: int, share: int, level: float, anytime: bool) -> None:
    rows = rare_class(np.random.default_rng([pairs, share]), pairs, 30, share / 12)
    contrast, plain = (contrast_of(rows, one_error=50 / 30, unequal=u, anytime=anytime) for u in (True, False))
    interval, narrow = contrast.interval(level), plain.interval(level)
    assert contrast.p >= plain.p - 1e-9
    assert contrast_of(-rows, one_error=50 / 30, unequal=True, anytime=anytime).p == pytest.approx(contrast.p)
    if abs(contrast.p - level) > 1e-9:
        assert (interval is not None and not interval.low <= 0 <= interval.high) == (contrast.p < level)
    if interval is not None and narrow is not None:
        assert interval.low <= narrow.low <= narrow.high <= interval.high
        assert contrast.widening(level) > 0


@settings(max_examples=30)
@given(SHAPES, st.sampled_from([0.01, 0.05, 0.3]), st.booleans())
def test_intervals_end_at_the_largest_possible_difference(
    shape: tuple[int, int, int], level: float, unequal: bool
) -> None:
    rows, items = draw(shape), float(shape[1])
    free, bounded = (contrast_of(rows, unequal=unequal, largest=largest) for largest in (None, items))
    for whole, part in (
        (free.interval(level), bounded.interval(level)),
        (free.seeds_interval(), bounded.seeds_interval()),
    ):
        assert part == (whole and (max(-items, whole.low), min(items, whole.high)))
    assert (bounded.p, bounded.widening(level)) == (free.p, free.widening(level))


def test_many_items_of_equal_weight_hardly_widen_it() -> None:
    rows = (np.random.default_rng(0).random((5, 20_000)) < 0.1).astype(float)
    plain, wide = (contrast_of(rows - rows[::-1].mean(), unequal=unequal).interval() for unequal in (False, True))
    assert plain is not None
    assert wide is not None
    assert wide.high - wide.low < 1.2 * (plain.high - plain.low)


@pytest.mark.parametrize("pairs", [2, 3, 5])
def test_differences_that_are_equal_but_for_rounding_count_as_equal(pairs: int) -> None:
    """Four weights are summed in another order in each pair."""
    rng = np.random.default_rng(pairs)
    weights = np.repeat(25 / np.array([7, 11, 13, 60]), [7, 11, 13, 60])
    rows = np.zeros((pairs, len(weights)))
    for row in rows:
        for start, size, count in ((0, 7, 3), (7, 11, 2), (18, 13, 2), (31, 60, 9)):
            row[start + rng.choice(size, count, replace=False)] = 1
    rows = np.array([rng.permutation(row) for row in rows * weights])
    assert len(set(rows.sum(axis=1))) > 1
    contrast = contrast_of(rows)
    assert len(set(contrast.differences)) == 1
    assert t_test(contrast.differences) == sign_test([1.0] * pairs)
    assert measure_evidence(rows) <= 2.0 ** (pairs - 1)
    none = contrast_of(np.concatenate([rows, -rng.permuted(rows, axis=1)], axis=1))
    assert set(none.differences) == {0.0}
