"""Table of arms: distinct styles, and the documented file names."""

from __future__ import annotations

from pathlib import Path

import main
from kd.arms import ARMS, RUN_ARMS, arm_of


def test_no_two_arms_have_a_name_a_colour_or_a_marker_in_common() -> None:
    for field in ("key", "label", "short", "colour", "marker"):
        assert len({getattr(arm, field) for arm in ARMS.values()}) == len(ARMS), field
    assert list(ARMS) == [arm.key for arm in ARMS.values()]


def test_the_files_of_a_run_match_the_documented_pipeline() -> None:
    reference = (Path(main.__file__).parent / "docs" / "pipeline.rst").read_text(encoding="utf-8")
    assert all(f"``{ARMS[name].file}.pth``" in reference for name in RUN_ARMS)
    assert len(RUN_ARMS) == len(main.TestMetrics._fields) == len(main.TrainMetrics._fields)


def test_an_unknown_name_is_shown_unchanged() -> None:
    other = arm_of("seed 1")
    assert (other.label, other.short) == ("seed 1", "seed 1")
    assert other.colour not in {arm.colour for arm in ARMS.values()}
