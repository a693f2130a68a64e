"""Arms of an experiment (teacher, control, distilled, …): their names and their style in plots."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """A model of an experiment: the teacher, or a student with its way of training.

    Attributes:
        key: identifier in JSON, CSV columns and rows, step names and printed lines.
        label: name in legends and sentences.
        short: name for narrow places.
        colour: from the Okabe-Ito palette, safe for common colour blindness; lightness differs too, for greyscale.
        marker: matplotlib marker of points; distinct without colour.
        line: matplotlib line style; distinct without colour.
        file: name of the weights file without suffix (see ``docs/pipeline.rst``); "" if a run saves no weights.
    """

    key: str
    label: str
    short: str
    colour: str
    marker: str
    line: str
    file: str = ""


GREY = "#666666"  # for everything that is not an arm

TEACHER, CONTROL, DISTILLED, SMOOTHED, LONGER = "teacher", "control", "distilled", "smoothed", "longer"
ARMS = {
    arm.key: arm
    for arm in (
        Arm(TEACHER, "teacher", "teacher", "#000000", "o", "-", "teacher_model"),
        Arm(CONTROL, "control", "control", "#D55E00", "s", "--", "student_regular"),
        Arm(DISTILLED, "distilled student", "distilled", "#0072B2", "^", ":", "student_distilled"),
        Arm(SMOOTHED, "label smoothing", "smoothed", "#009E73", "D", "-."),
        Arm(LONGER, "longer on the labels", "longer", "#CC79A7", "v", "-"),
    )
}
RUN_ARMS = (TEACHER, CONTROL, DISTILLED)
STUDENTS = (CONTROL, DISTILLED)


def arm_of(name: str) -> Arm:
    """Return the arm with this key, or a grey placeholder arm for any other name."""
    return ARMS.get(name) or Arm(name, name, name, GREY, "P", "--")
