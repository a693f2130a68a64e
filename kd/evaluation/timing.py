"""Times of repeated calls, without torch: also of models that other libraries run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

SECONDS = 0.3  # time budget of one measurement
WARM_UP, MAX_CALLS = 20, 1000  # maximum number of warm-up calls and of timed calls
_MIN_CALLS = 3  # minimum number of timed calls, even if they exceed the budget


def time_calls(call: Callable[[], object], seconds: float = SECONDS) -> list[float]:
    """Return the seconds of each call after a warm-up of at least one call and at most a quarter of the budget."""
    start = time.perf_counter()
    for _ in range(WARM_UP):
        call()
        if time.perf_counter() - start > seconds / 4:
            break
    times: list[float] = []
    while len(times) < MAX_CALLS:
        call_start = time.perf_counter()
        call()
        call_end = time.perf_counter()
        times.append(call_end - call_start)
        if call_end - start > seconds and len(times) >= _MIN_CALLS:
            break
    return times


def summarise_times(times: Sequence[float]) -> tuple[float, float, int]:
    """Return the median, the 90th percentile (nearest rank: the ⌈0.9 n⌉-th smallest time) and the number of times."""
    return statistics.median(times), sorted(times)[-(-9 * len(times) // 10) - 1], len(times)
