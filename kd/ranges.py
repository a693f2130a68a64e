"""What each setting may be, in one table: for the constants of a pipeline and for the flags of a command alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kd.checks import require


class Range(NamedTuple):
    """A predicate, and in words what it allows and what is usual."""

    holds: Callable[[Any], bool]
    allowed: str
    advice: str = ""


RANGES: Mapping[str, Range] = {
    "batch_size": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "test_size": Range(lambda x: 0 < x < 1, "in (0, 1)", "0.1 keeps a tenth for validation"),
    "test_share": Range(lambda x: 0 < x < 1, "in (0, 1)", "0.2 keeps a fifth to test with"),
    "image_size": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1"),
    "random_state": Range(lambda n: n >= 0, "a whole number of at least 0"),
    "epochs": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "learning_rate": Range(lambda x: 0 < x < math.inf, "a finite number above 0", "0.001 is usual for Adam"),
    "seed": Range(lambda n: n >= 0, "a whole number of at least 0"),
    "temperature": Range(
        lambda x: 0 < x < math.inf, "a finite number above 0", "4 to 10 is usual; 1 turns softening off"
    ),
    "alpha": Range(lambda x: 0 <= x <= 1, "in [0, 1]", "the weight of the labels; the teacher gets the rest"),
    "student_width": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "snapshot_seconds": Range(lambda x: x >= 0, "at least 0", "30 costs next to nothing"),
    "pairs": Range(lambda n: n >= 2, "a whole number of at least 2", "10 is usual; one pair has no spread"),
    "margin": Range(lambda x: 0 < x <= 100, "above 0 and at most 100 percentage points", "0.1 is 10 of 10,000 images"),
    "teachers": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "splits": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "smoothing": Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.1 is usual; 0 leaves that control out"),
    "seeds": Range(lambda n: n >= 1, "a whole number of at least 1", "the spread of a point takes 2"),
    "trials": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1", "30 is usual"),
    "final_pairs": Range(lambda n: n >= 2, "a whole number of at least 2", "one pair has no spread"),
    "processes": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1"),
    "views": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1", "8 is a beginning"),
    "rows": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "limit": Range(lambda n: n is None or n >= 100, "None or a whole number of at least 100"),
}


def check_ranges(values: Mapping[str, object], *, shown: Callable[[str], str]) -> None:
    """Refuse a value outside its range.

    Args:
        values: by setting; those that the table does not know are not checked.
        shown: a setting's name as the reader of the error knows it, ``EPOCHS`` or ``--epochs``.

    Raises:
        ValueError: naming the setting, the value, what is allowed and what is usual.
    """
    for name in (name for name in RANGES if name in values):
        holds, allowed, advice = RANGES[name]
        require(holds(values[name]), shown(name), values[name], allowed, advice)
