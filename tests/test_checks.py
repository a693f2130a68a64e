"""The table of ranges: what is inside passes, what is outside or not a number is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import pytest

from kd.checks import RANGES, check_ranges

# The least and the greatest value allowed, and the nearest ones that are not.
INSIDE: Mapping[str, tuple[object, ...]] = {
    "batch_size": (1, 10**6),
    "test_size": (1e-9, 0.999),
    "random_state": (0, 10**6),
    "epochs": (1, 10**6),
    "learning_rate": (1e-12, 1e36),
    "seed": (0, 10**6),
    "temperature": (1e-3, 5, 1e6),
    "alpha": (0, 0.5, 1),
    "student_width": (1, 10**6),
    "snapshot_seconds": (0, 30, math.inf),
    "pairs": (2, 10**6),
    "margin": (1e-9, 100),
    "teachers": (1, 10**6),
    "splits": (1, 10**6),
    "smoothing": (0, 0.1, 0.999),
    "seeds": (1, 10**6),
    "trials": (None, 1, 10**6),
    "final_pairs": (2, 10**6),
    "processes": (None, 1, 10**6),
    "rows": (1, 10_000),
    "views": (None, 1, 25),
    "limit": (None, 100, 60_000),
    "test_share": (1e-9, 0.5, 0.999),
    "image_size": (None, 1, 224),
}
OUTSIDE: Mapping[str, tuple[object, ...]] = {
    "batch_size": (0, -1),
    "test_size": (0, 1, -0.1, math.nan),
    "random_state": (-1,),
    "epochs": (0, -3),
    "learning_rate": (0, -1e-3, math.inf, math.nan),
    "seed": (-1,),
    "temperature": (0, -1, math.inf, math.nan),
    "alpha": (-0.01, 1.01, math.nan),
    "student_width": (0,),
    "snapshot_seconds": (-1, math.nan),
    "pairs": (1, 0),
    "margin": (0, 100.1, -0.1, math.nan),
    "teachers": (0,),
    "splits": (0,),
    "smoothing": (1, -0.1, math.nan),
    "seeds": (0, -1),
    "trials": (0, -1),
    "final_pairs": (1, 0),
    "processes": (0, -1),
    "limit": (0, 99),
    "rows": (0, -1),
    "views": (0, -1),
    "test_share": (0, 1, -0.1, math.nan),
    "image_size": (0, -1),
}


def test_both_tables_here_cover_the_one_there() -> None:
    assert set(INSIDE) == set(OUTSIDE) == set(RANGES)


@pytest.mark.parametrize("name", RANGES)
def test_a_value_inside_its_range_passes(name: str) -> None:
    for value in INSIDE[name]:
        check_ranges({name: value}, shown=str.upper)


@pytest.mark.parametrize("name", RANGES)
def test_a_value_outside_is_refused_with_name_range_and_value(name: str) -> None:
    for value in OUTSIDE[name]:
        with pytest.raises(ValueError, match=re.escape(f"<{name}> must be {RANGES[name].allowed}. Got {value!r} inst")):
            check_ranges({name: value}, shown=lambda name: f"<{name}>")


def test_what_the_table_does_not_know_is_left_alone() -> None:
    check_ranges({"out": "anywhere", "epochs": 1}, shown=str.upper)
