"""The figures of a run, and the test images in its examples: kinds take turns, and captions are true."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import kd
from kd.commands.publish import plot_files, quick_run_stamp
from kd.commands.run.disagreements import EXAMPLES, choose_examples
from kd.commands.run.plots import prediction_examples, run_figures
from kd.commands.run.results import Run

pytestmark = pytest.mark.pictures

NAMES = ("teacher", "control", "distilled")
# Whether the teacher, the control and the distilled student are wrong according to each caption; None: either.
CLAIMS: Mapping[str, tuple[bool | None, ...]] = {
    "only the control errs": (False, True, False),
    "only the distilled student errs": (False, False, True),
    "both students err": (False, True, True),
    "the teacher errs": (True, None, None),
}
ROWS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=40)


def some_logits(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 3 * torch.randn(count, 5, generator=generator) for name in NAMES}


def masks(rows: list[tuple[bool, ...]]) -> dict[str, Tensor]:
    return dict(zip(NAMES, torch.tensor(rows, dtype=torch.bool).unbind(1), strict=True))


def fits(caption: str, row: tuple[bool, ...]) -> bool:
    return all(claim is None or claim == wrong for claim, wrong in zip(CLAIMS[caption], row, strict=True))


def take_turns(available: Counter[str]) -> Counter[str]:
    """Count the examples of each kind if the kinds take turns until EXAMPLES are chosen or none are left."""
    counts: Counter[str] = Counter()
    while sum(counts.values()) < min(EXAMPLES, sum(available.values())):
        for kind in CLAIMS:
            if counts[kind] < available[kind] and sum(counts.values()) < EXAMPLES:
                counts[kind] += 1
    return counts


@settings(max_examples=50)
@given(ROWS, st.integers(0, 100))
def test_captions_of_examples_are_true_and_the_kinds_take_turns(rows: list[tuple[bool, ...]], seed: int) -> None:
    logits = some_logits(len(rows), seed)
    chosen = choose_examples(masks(rows), logits)
    assert all(fits(caption, rows[index]) for index, caption in chosen)
    assert len({index for index, _ in chosen}) == len(chosen) <= EXAMPLES
    available = Counter(kind for row in rows for kind in CLAIMS if fits(kind, row))
    assert Counter(caption for _, caption in chosen) == take_turns(available)
    assert choose_examples(masks(rows), logits) == chosen


def test_images_without_errors_are_not_shown() -> None:
    assert choose_examples(masks([(False, False, False)] * 9), some_logits(9)) == []


def test_images_with_the_most_different_students_come_first() -> None:
    count = 3 * EXAMPLES
    logits = some_logits(count) | {"teacher": torch.zeros(count, 5)}
    chosen = [index for index, _ in choose_examples(masks([(False, True, False)] * count), logits)]
    apart = (logits["control"].softmax(dim=1) - logits["distilled"].softmax(dim=1)).abs().sum(dim=1)
    assert chosen == apart.argsort(descending=True)[:EXAMPLES].tolist()


def test_among_equal_students_the_least_certain_teacher_comes_first() -> None:
    count = 3 * EXAMPLES
    logits = some_logits(count)
    logits["distilled"] = logits["control"]
    chosen = [index for index, _ in choose_examples(masks([(True, True, True)] * count), logits)]
    assert chosen == logits["teacher"].softmax(dim=1).amax(dim=1).argsort()[:EXAMPLES].tolist()


# --- figures


def history(*extra: str) -> kd.History:
    return kd.History({f"{s}_{name}": [0.5, 0.4] for s in ("train", "val") for name in ("loss", "acc", "ce", *extra)})


def a_run(logits: dict[str, Tensor], labels: Tensor, limit: int | None = None, *, temperature: float = 5) -> Run:
    images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
    return Run(
        histories={"teacher": history(), "control": history("hard"), "distilled": history("hard", "soft")},
        logits=logits,
        labels=labels,
        test=kd.ImageDataset(images, labels, mean=0.1, std=0.3),
        config={},
        temperature=temperature,
        toy=quick_run_stamp(limit),
    )


def test_every_figure_is_drawn_as_png() -> None:
    figures = run_figures(a_run(some_logits(30), torch.arange(30) % 5))
    names = ("teacher_training", "training_curves", "accuracy_comparison", "prediction_examples", "confusion_matrices")
    assert set(figures) == set(names)
    assert {Image.open(io.BytesIO(content)).format for content in figures.values()} == {"PNG"}


def test_perfect_models_have_figures() -> None:
    labels = torch.arange(20) % 5
    perfect = torch.nn.functional.one_hot(labels, 5).float()
    assert run_figures(a_run(dict.fromkeys(NAMES, perfect), labels))


@pytest.mark.parametrize("limit", [None, 2000])
def test_every_figure_of_a_quick_run_is_stamped(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.commands.run.plots.png", lambda figure, *, toy: str(toy).encode())
    figures = run_figures(a_run(some_logits(30), torch.arange(30) % 5, limit))
    assert set(figures.values()) == {b"None" if limit is None else b"LIMIT=2000"}


def test_examples_show_the_probabilities_of_all_models() -> None:
    run = a_run(some_logits(30), torch.arange(30) % 5, temperature=3)
    rows = [index for index, _ in choose_examples(run.wrong, run.logits)]
    _, labels, captions, probabilities, colours, classes = prediction_examples(run).args
    assert classes == run.classes
    assert labels == run.labels[rows].tolist()
    assert len(captions) == len(rows) == EXAMPLES
    assert len(colours) == len(probabilities)
    expected = {
        "teacher": run.logits["teacher"],
        "teacher, softened (T = 3)": run.logits["teacher"] / 3,
        "control": run.logits["control"],
        "distilled student": run.logits["distilled"],
    }
    assert list(probabilities) == list(expected)
    for title, logits in expected.items():
        torch.testing.assert_close(probabilities[title], logits[rows].softmax(dim=1))


def test_only_a_quick_run_has_a_stamp_and_it_names_the_limit() -> None:
    assert quick_run_stamp(2000) == "LIMIT=2000"
    assert quick_run_stamp(None) is None


def test_figures_are_saved_in_the_plots_folder(tmp_path: Path) -> None:
    assert plot_files(tmp_path, {"curves": b"1"}) == {tmp_path / "plots" / "curves.png": b"1"}
