"""The figures that a run saves as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from kd.arms import ARMS, GREY, STUDENTS, TEACHER
from kd.commands.run.results import Run, is_image
from kd.report import examples_plot
from kd.report import plots as draw
from kd.report.drawings import Drawing
from kd.report.pictures import holds_drawings, stored_image
from kd.report.style import png


def teacher_figure(histories: Mapping[str, Mapping[str, list[float]]], toy: str | None) -> dict[str, bytes]:
    """Return ``teacher_training`` as PNG: the teacher's loss and accuracy by epoch; an empty dict if it was loaded.

    Args:
        toy: stamp of a quick run, else None.
    """
    if TEACHER not in histories:
        return {}
    panels = {"loss": "Cross-entropy, nats", "acc": "Accuracy, %"}
    return {"teacher_training": png(partial(draw.training_curves, {TEACHER: histories[TEACHER]}, panels), toy=toy)}


def run_figures(run: Run) -> dict[str, bytes]:
    """Return all figures of a run as PNG, by name."""
    students = {name: history for name, history in run.histories.items() if name != TEACHER}
    drawings = {
        "training_curves": partial(draw.training_curves, students, run.panels),
        "accuracy_comparison": partial(draw.accuracy_comparison, run.accuracies, noun=run.noun),
        "confusion_matrices": partial(draw.confusion_matrices, run.confusion_matrices, run.classes),
    }
    if is_image(run.test[0][0]):
        drawings["prediction_examples"] = prediction_examples(run)
    # Draw one figure at a time: a figure takes megabytes of memory, a PNG far less.
    images = {name: png(drawing, toy=run.toy) for name, drawing in drawings.items()}
    return teacher_figure(run.histories, run.toy) | images


def prediction_examples(run: Run) -> Drawing:
    """Return the drawing of selected test images with all models' probabilities, and the teacher's softened by T."""
    examples = run.illustrations
    return partial(
        examples_plot.prediction_examples,
        [stored_image(run.test, index) for index in examples.indices],
        examples.labels,
        examples.captions,
        examples.probabilities,
        [ARMS[TEACHER].colour, GREY, *(ARMS[name].colour for name in STUDENTS)],
        run.classes,
        ink=holds_drawings(run.test),
    )
