"""The simulated looks at differences use the e-value of the package, and skewness raises their error rate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kd.evaluation.sequential import FEWEST, e_value

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import verdict_designs
import verdict_looks


def test_the_simulated_evidence_is_that_of_the_package() -> None:
    rows = np.random.default_rng(0).normal(0.5, 1, (3, 9))
    expected = [[e_value(row[:count]) for count in range(FEWEST, 10)] for row in rows.tolist()]
    assert verdict_looks.e_values(rows) == pytest.approx(np.array(expected))


def test_skewed_differences_reach_the_evidence_more_often_than_normal_ones() -> None:
    normal, skewed, very_skewed = (
        [float(cell) for cell in line.split("|")[2:-1]]
        for line in verdict_looks.format_skewed_looks(200).splitlines()[2:]
    )
    assert max(normal) < 4
    assert all(a < b < c for a, b, c in zip(normal, skewed, very_skewed, strict=True))
    assert min(very_skewed) > 5


def test_students_that_are_all_alike_do_not_collapse() -> None:
    rows = [line.split("|")[1:-1] for line in verdict_designs.format_false_collapse(50).splitlines()[2:]]
    assert [float(row[3]) for row in rows] == [0.0] * len(rows)
    assert float(rows[-1][4]) == 100
