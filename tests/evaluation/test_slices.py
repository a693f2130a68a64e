"""Differences on slices of the test set: plain counts, and Holm's adjustment."""

from __future__ import annotations

import numpy as np
import pytest

from kd.evaluation.slices import compare_slices
from kd.evaluation.verdict import holm


def draw(seed: int, rate: float) -> np.ndarray:
    return (np.random.default_rng(seed).random((6, 200)) < rate).astype(np.float64)


def test_rates_and_differences_are_plain_percentages() -> None:
    control, distilled = draw(0, 0.3), draw(1, 0.2)
    first = np.arange(200) < 50
    found = compare_slices({"first": first, "rest": ~first, "none": np.zeros(200, bool)}, control, distilled)
    assert list(found) == ["first", "rest"]
    slice = found["first"]
    assert slice.items == 50
    assert slice.control == pytest.approx(100 * control[:, :50].mean())
    assert slice.distilled == pytest.approx(100 * distilled[:, :50].mean())
    assert slice.contrast.mean == pytest.approx(slice.distilled - slice.control)
    assert [row.p for row in found.values()] == holm([row.contrast.p for row in found.values()])


def test_a_slice_where_it_harms_is_found_behind_an_overall_gain() -> None:
    control, distilled = draw(0, 0.3), draw(1, 0.1)
    rare = np.arange(200) < 40
    distilled[:, rare] = draw(2, 0.9)[:, rare]
    found = compare_slices({"rare": rare, "rest": ~rare}, control, distilled)
    assert found["rare"].contrast.mean > 0
    assert found["rest"].contrast.mean < 0
    assert max(row.p for row in found.values()) < 1e-3


@pytest.mark.parametrize(("items", "differ", "claims"), [(1, 1, False), (5, 5, False), (50, 5, False), (50, 6, True)])
def test_a_slice_on_which_few_items_differ_makes_no_claim(items: int, differ: int, claims: bool) -> None:
    """All ten pairs share these items, so they say nothing about other items."""
    control, distilled = np.zeros((10, 200)), np.zeros((10, 200))
    distilled[:, :differ] = 1
    distilled[0, :1] = 0 if claims else 1
    slice = compare_slices({"few": np.arange(200) < items}, control, distilled)["few"]
    assert slice.has_enough_items == claims
    assert (slice.p < 0.05) == claims
    assert claims or slice.p == 1
