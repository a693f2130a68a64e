"""Figures are complete: no text is clipped or overlaps another, and equal numbers give equal bytes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from kd.arms import ARMS
from kd.evaluation.calibration import Bin, reliability_curve
from kd.evaluation.two_models import accuracy_of, proportion_interval
from kd.report.examples_plot import FULL, IMAGE, prediction_examples
from kd.report.plots import (
    accuracy_comparison,
    confusion_matrices,
    reliability_diagram,
    training_curves,
)
from kd.report.style import png
from tests.overlaps import clashes, outside, place_texts, texts, visible_ticks

pytestmark = pytest.mark.pictures

MODELS = ("teacher", "control", "distilled")
NAMES = tuple(f"wide name {letter * 9}" for letter in "MWGQmABCDE")  # shortened to 14 letters
MANY_NAMES = tuple(f"{letter}wmwmwmwmwmwmwmwm" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CAPTIONS = ("only the control errs", "only the distilled student errs", "both students err", "the teacher errs")
# Panels of the pipeline's training_curves.png; the last one has the longest title.
PANELS = {
    "ce": "Cross-entropy with the labels, nats",
    "acc": "Accuracy, %",
    "soft": "Soft term: (1 − α) · T² · KL, nats",
}


def histories(epochs: int) -> dict[str, dict[str, list[float]]]:
    curve = [0.5 / (epoch + 1) for epoch in range(epochs)]
    common = {f"{split}_{name}": curve for split in ("train", "val") for name in ("ce", "acc")}
    return {"control": common, "distilled": {**common, "train_soft": curve, "val_soft": curve}}


def curves(epochs: int = 10) -> Figure:
    return training_curves(histories(epochs), PANELS)


def teacher_curves() -> Figure:
    return training_curves({"teacher": histories(3)["control"]}, {"ce": "Cross-entropy, nats", "acc": "Accuracy, %"})


def comparison(errors: tuple[int, ...] = (68, 167, 143), images: int = 10_000) -> Figure:
    return accuracy_comparison({name: accuracy_of(count, images) for name, count in zip(MODELS, errors, strict=True)})


def examples(rows: int = 4, classes: int = 10, names: Sequence[str] = ()) -> Figure:
    generator = torch.Generator().manual_seed(0)
    columns = {
        title: (8 * torch.rand(rows, classes, generator=generator)).softmax(dim=1)
        for title in ("teacher", "teacher, softened (T = 5)", "control", "distilled student")
    }
    images = list(torch.rand(rows, 1, 28, 28, generator=generator))
    labels = [classes - 1 - row for row in range(rows)]
    captions = list(itertools.islice(itertools.cycle(CAPTIONS), rows))
    return prediction_examples(images, labels, captions, columns, ["#000000", "#666666", "#D55E00", "#0072B2"], names)


def matrices(classes: int = 10, mistakes: int = 40, models: int = 3, names: Sequence[str] = ()) -> Figure:
    generator = torch.Generator().manual_seed(0)
    counts = {name: torch.randint(0, mistakes + 1, (classes, classes), generator=generator) for name in MODELS[:models]}
    return confusion_matrices({name: count + 900 * torch.eye(classes).long() for name, count in counts.items()}, names)


def reliability_bins(seed: int, images: int, empty: int = 3) -> list[Bin]:
    """Return 15 realistic bins: the lowest are empty, and most images are in the last."""
    accuracies = (torch.rand(15, generator=torch.Generator().manual_seed(seed)) * 4).round() / 4
    counts = [0] * empty + [4 * (i + 1) for i in range(14 - empty)] + [images]
    middles = [(i + 0.5) / 15 for i in range(15)]
    rows = zip(counts, middles, accuracies.tolist(), strict=True)
    return [Bin(n, c, a) if n else Bin(0, None, None) for n, c, a in rows]


def diagram(models: tuple[str, ...] = MODELS, images: int = 9_876) -> Figure:
    return reliability_diagram(
        {name: reliability_curve(reliability_bins(seed, images)) for seed, name in enumerate(models)}
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    "teacher": teacher_curves,
    "students": curves,
    "one epoch": lambda: curves(epochs=1),
    "accuracy": comparison,
    "no errors at all": lambda: comparison((0, 0, 0)),
    "nothing but errors": lambda: comparison((500, 500, 500), 500),
    "accuracies far apart": lambda: comparison((70, 9_000, 170)),
    "examples": examples,
    "one example": lambda: examples(rows=1),
    "examples, 26 classes": lambda: examples(rows=2, classes=26),
    "examples, named classes": lambda: examples(names=NAMES),
    "examples, 26 named classes": lambda: examples(rows=2, classes=26, names=MANY_NAMES),
    "matrices": matrices,
    "matrices, named classes": lambda: matrices(names=NAMES),
    "matrices, 26 named classes": lambda: matrices(classes=26, models=2, names=MANY_NAMES),
    "matrices, 26 classes": lambda: matrices(classes=26, models=2),
    "matrices without mistakes": lambda: matrices(mistakes=0),
    "reliability": diagram,
    "reliability of one model": lambda: diagram(("distilled",)),
    "reliability of many images": lambda: diagram(images=1_281_167),
    "reliability of five models": lambda: diagram((*MODELS, "seed 1", "seed 2")),
}
QUICK = "LIMIT=2000"


@cache
def draw(name: str, toy: str | None = None) -> Figure:
    """Return the figure with the layout of its file."""
    figure = FIGURES[name]()
    place_texts(figure, toy=toy)
    return figure


@cache
def content(name: str, toy: str | None = None) -> bytes:
    """Return the content of the figure's file."""
    return png(FIGURES[name](), toy=toy)


STAMPED = ("teacher", "accuracy", "examples", "matrices, named classes", "reliability")


@pytest.mark.parametrize(("name", "toy"), [*((name, None) for name in FIGURES), *((name, QUICK) for name in STAMPED)])
def test_no_text_is_clipped_or_overlaps_another(name: str, toy: str | None) -> None:
    figure = draw(name, toy)
    boxes = texts(figure)
    assert len(boxes) > 5
    assert outside(figure, boxes) == []
    assert clashes(boxes) == []


def test_the_check_detects_clipped_and_overlapping_texts() -> None:
    figure = Figure(figsize=(2, 2))
    FigureCanvasAgg(figure)
    for x, text in ((0.1, "below"), (0.15, "above"), (0.95, "clipped")):
        figure.text(x, 0.5, text)
    boxes = texts(figure)
    assert outside(figure, boxes) == ["clipped"]
    assert clashes(boxes) == [("below", "above")]


@pytest.mark.parametrize(("distance", "apart"), [(0.02, False), (0.12, True)])
def test_slanted_texts_side_by_side_do_not_overlap(distance: float, apart: bool) -> None:
    figure = Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    for number in range(3):
        figure.text(0.2 + distance * number, 0.3, f"slanted {number}", rotation=45)
    assert (clashes(texts(figure)) == []) is apart


def test_the_title_of_the_soft_term_is_complete() -> None:
    figure = draw("students")
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(PANELS.values())


@pytest.mark.parametrize("name", ["teacher", "students", "accuracy", "examples", "matrices", "reliability"])
def test_the_same_numbers_give_the_same_decodable_bytes(name: str) -> None:
    image = Image.open(io.BytesIO(content(name)))
    image.verify()
    assert image.format == "PNG"
    assert min(image.size) > 300
    assert png(FIGURES[name]()) == content(name)


def test_different_numbers_give_a_different_image() -> None:
    assert png(comparison((68, 167, 144))) != content("accuracy")


@pytest.mark.parametrize("name", STAMPED)
def test_a_toy_run_is_stamped_and_a_full_one_is_not(name: str) -> None:
    assert f"QUICK RUN ({QUICK})" in draw(name, QUICK).get_suptitle()
    assert "QUICK" not in draw(name).get_suptitle()


def test_the_stamp_is_drawn() -> None:
    assert content("accuracy", QUICK) != content("accuracy")


def test_the_stamp_keeps_the_figures_title() -> None:
    assert draw("examples", QUICK).get_suptitle().startswith(draw("examples").get_suptitle())


# --- content of the figures


def test_curves_start_at_epoch_one_with_accuracy_in_percent() -> None:
    numbers = histories(3)
    figure = training_curves({"control": numbers["control"]}, {"ce": "a", "acc": "b"})
    for axes, quantity, scale in zip(figure.axes, ("ce", "acc"), (1, 100), strict=True):
        lines = {str(line.get_linestyle()): line for line in axes.lines}
        assert set(lines) == {"--", "-"}
        for style, split in (("--", "train"), ("-", "val")):
            assert list(np.asarray(lines[style].get_xdata())) == [1, 2, 3]
            expected = [scale * value for value in numbers["control"][f"{split}_{quantity}"]]
            assert list(np.asarray(lines[style].get_ydata())) == pytest.approx(expected)


def test_a_model_without_a_quantity_is_not_drawn() -> None:
    figure = draw("students")
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 2]
    assert {line.get_label() for line in figure.axes[2].lines} == {
        "distilled student, training",
        "distilled student, validation",
    }


def test_each_curve_is_named_once_in_the_legend() -> None:
    (legend,) = draw("students").legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize(("name", "marked"), [("one epoch", True), ("students", False)])
def test_a_single_epoch_is_drawn_as_a_marker(name: str, marked: bool) -> None:
    markers = {line.get_marker() for axes in draw(name).axes for line in axes.lines}
    assert markers == ({"o"} if marked else {"None"})


@pytest.mark.parametrize(
    "name",
    [
        "teacher",
        "students",
        "one epoch",
    ],
)
def test_epoch_ticks_are_integers(name: str) -> None:
    labels = [text.get_text() for axes in draw(name).axes for text in visible_ticks(axes, "x")]
    assert labels
    assert all(label.isdigit() for label in labels)


def test_the_accuracy_axis_is_zoomed_to_the_differences() -> None:
    low, high = draw("accuracy").axes[0].get_xlim()
    assert 97 < low < 98.33 < 99.32 < high
    assert high - low < 2.5


def test_the_accuracy_figure_contains_the_numbers() -> None:
    text = " ".join(text for text, _ in texts(draw("accuracy")))
    for value in ("99.32%", "68 errors", "98.33%", "167 errors", "98.57%", "143 errors", "10,000 test images"):
        assert value in text


def test_the_drawn_interval_is_the_computed_interval() -> None:
    figure = draw("accuracy")
    for container, errors in zip(figure.axes[0].containers, (68, 167, 143), strict=True):
        assert isinstance(container, ErrorbarContainer)
        ((left, _), (right, _)) = container.lines[2][0].get_segments()[0]
        assert (left / 100, right / 100) == pytest.approx(proportion_interval(10_000 - errors, 10_000))


def test_example_bars_are_the_probabilities_and_the_true_class_is_hatched() -> None:
    values = torch.tensor([[0.7, 0.2, 0.1]])
    figure = prediction_examples([torch.zeros(1, 4, 4)], [1], ["both students err"], {"teacher": values}, ["#000000"])
    bars = [bar for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() / FULL for bar in bars] == pytest.approx([0.7, 0.2, 0.1])
    assert [bar.get_hatch() is not None for bar in bars] == [False, True, False]
    written = [text.get_text() for text in figure.axes[0].texts]
    assert {"label 1: both students err", "teacher", "0: 70%", "0 %", "100 %", "0", "1", "2"} == {*written}


def test_an_invisible_bar_is_drawn_only_for_the_true_class() -> None:
    values = torch.tensor([[0.0, 0.001, 0.999]])
    for label, heights in ((0, [0, 0.999]), (1, [0.001, 0.999]), (2, [0.999])):
        figure = prediction_examples([torch.zeros(1, 4, 4)], [label], ["x"], {"teacher": values}, ["#000000"])
        bars = [bar for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
        assert [bar.get_height() / FULL for bar in bars] == pytest.approx(heights)
        assert [bar.get_hatch() is not None for bar in bars].index(True) == min(label, 0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 20), (1, 10, 60)])
def test_an_example_image_keeps_its_proportions(shape: tuple[int, int, int]) -> None:
    values = torch.tensor([[0.5, 0.5]])
    figure = prediction_examples([torch.zeros(shape)], [1], ["x"], {"teacher": values}, ["#000000"])
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left) / (top - bottom) == pytest.approx(shape[2] / shape[1])
    assert max(right - left, top - bottom) == pytest.approx(IMAGE)


def test_the_examples_figure_works_without_disagreements() -> None:
    assert png(examples(rows=0))


def test_the_heat_map_shows_only_mistakes() -> None:
    matrix = torch.tensor([[50, 3], [0, 40]])
    figure = confusion_matrices({"control": matrix})
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["3"]
    assert figure.axes[0].get_title().endswith(": 3 errors")
    assert matrix.tolist() == [[50, 3], [0, 40]]


def error_bars(figure: Figure) -> list[ErrorbarContainer]:
    return [container for container in figure.axes[0].containers if isinstance(container, ErrorbarContainer)]


def test_reliability_points_are_in_percent_and_empty_bins_have_none() -> None:
    figure = draw("reliability")
    for seed, bars in enumerate(error_bars(figure)):
        assert not bars.lines[0].get_clip_on()  # at 100 % half of the marker is outside the axes
        full = [b for b in reliability_bins(seed, 9_876) if b.images]
        assert len(full) == 12
        for which, values in ((0, [b.confidence for b in full]), (1, [b.accuracy for b in full])):
            assert np.asarray(bars.lines[0].get_data()[which]) == pytest.approx([100 * (v or 0) for v in values])
        for segment, (n, _, a) in zip(bars.lines[2][0].get_segments(), full, strict=True):
            low, high = proportion_interval(round(n * (a or 0)), n)
            assert [y / 100 for _, y in segment] == pytest.approx([low, high], abs=1e-9)


def test_models_in_the_reliability_diagram_differ_without_colour() -> None:
    bars = error_bars(draw("reliability"))
    assert len({container.lines[0].get_marker() for container in bars}) == 3
    joined = [line for line in draw("reliability").axes[0].lines if line.get_linestyle() in {"-", "--", ":"}]
    assert len({line.get_linestyle() for line in joined}) == 3


def test_only_points_of_enough_images_are_joined() -> None:
    """Bins with 4 and 8 images are not joined; bins with 12 or more are."""
    figure = draw("reliability of one model")
    style = ARMS["distilled"].line
    (line,) = [line for line in figure.axes[0].lines if line.get_linestyle() == style and line.get_marker() == "None"]
    assert list(np.asarray(line.get_xdata())) == pytest.approx([100 * (i + 0.5) / 15 for i in range(5, 15)])


def test_the_reliability_diagram_contains_all_counts_and_errors() -> None:
    figure = draw("reliability of one model")
    counts = [text.get_text() for text in figure.axes[1].texts]
    assert counts == [f"{b.images:,}" for b in reliability_bins(0, 9_876)]
    bins = reliability_bins(0, 9_876)
    error = sum(n * abs((a or 0) - (c or 0)) for n, c, a in bins) / sum(n for n, _, _ in bins)
    (legend,) = figure.legends
    expected = ["perfectly calibrated", f"distilled student: ECE {100 * error:.2f} %"]
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(expected)
    assert "1,281k" in [text.get_text() for text in draw("reliability of many images").axes[1].texts]


def test_counts_are_below_their_bins() -> None:
    figure = draw("reliability")
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == (0, 100)
    rows = {text.get_position()[1] for text in figure.axes[1].texts}
    assert len(rows) == 3
    for text, column in zip(figure.axes[1].texts, itertools.cycle(range(15))):
        assert text.get_position()[0] == pytest.approx(100 * (column + 0.5) / 15)


def test_dollar_signs_in_class_names_are_literal() -> None:
    classes = ("$1m_$2m", "$10^$20", "$$", "a$b")
    figure = confusion_matrices({"teacher": torch.eye(4, dtype=torch.int64)}, classes)
    png(figure)
    labels = [text.get_text().replace(r"\$", "$") for text in figure.axes[0].get_xticklabels()]
    assert labels == list(classes)


def test_students_on_the_same_images_have_the_interval_of_one_student() -> None:
    bins = [Bin(4000, 0.95, 0.9)]
    figures = [
        reliability_diagram({"control": reliability_curve(summed, students=n)})
        for summed, n in ((bins, 10), ([Bin(400, 0.95, 0.9)], 1))
    ]
    segments = [error_bars(figure)[0].lines[2][0].get_segments()[0] for figure in figures]
    assert np.array_equal(*segments)
    assert [figure.axes[1].texts[0].get_text() for figure in figures] == ["400", "400"]
