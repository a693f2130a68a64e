"""One table of the models: no two look alike, and files are named as the documented pipeline has them."""

from __future__ import annotations

from pathlib import Path

import main
from kd.arms import ARMS, RUN_ARMS, arm_of


def test_no_two_arms_have_a_name_a_colour_or_a_marker_in_common() -> None:
    for field in ("key", "label", "short", "colour", "marker"):
        assert len({getattr(arm, field) for arm in ARMS.values()}) == len(ARMS), field
    assert list(ARMS) == [arm.key for arm in ARMS.values()]


def test_the_files_of_a_run_are_those_of_the_documented_pipeline() -> None:
    reference = (Path(main.__file__).parent / "docs" / "pipeline.rst").read_text(encoding="utf-8")
    assert all(f"``{ARMS[name].file}.pth``" in reference for name in RUN_ARMS)
    assert len(RUN_ARMS) == len(main.TestMetrics._fields) == len(main.TrainMetrics._fields)


def test_another_name_is_shown_as_it_is() -> None:
    other = arm_of("seed 1")
    assert (other.label, other.short) == ("seed 1", "seed 1")
    assert other.colour not in {arm.colour for arm in ARMS.values()}
