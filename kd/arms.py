"""The models of an experiment: what they are called in files, figures and messages, and how they are drawn."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """One of them, or one way to train a student.

    Attributes:
        key: in JSON, in columns and rows of CSV, in names of steps and in printed lines.
        label: in legends and sentences.
        short: where there is little room.
        colour: of Okabe and Ito's palette: told apart with every common colour blindness, and in grey by lightness.
        marker: of its points, and
        line: of the line through them: told apart without colour.
        file: its weights file's name without the suffix, as ``docs/pipeline.rst`` has it; "" if a run leaves none.
    """

    key: str
    label: str
    short: str
    colour: str
    marker: str
    line: str
    file: str = ""


GREY = "#666666"  # of all that is no arm

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
OF_A_RUN = (TEACHER, CONTROL, DISTILLED)
STUDENTS = (CONTROL, DISTILLED)


def arm_of(name: str) -> Arm:
    """The arm of this key; a grey one for any other name."""
    return ARMS.get(name) or Arm(name, name, name, GREY, "P", "--")
