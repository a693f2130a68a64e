"""Every number on a run's page is in ``metrics.json`` or ``timings.json``, up to rounding."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
import torch
from torch import nn

from kd.commands.run.report_students import PAIRS
from kd.commands.run.results import Run, Timings
from kd.evaluation.latency import Latency
from kd.formatting import format_p
from kd.report.page import page
from tests.commands.run.test_report import a_part
from tests.commands.run.test_results import CLASSES, EPOCHS, FOLDER, NAMES, a_run, files_of
from tests.report.test_page import sections

IMAGES = 3_011  # enough that two numbers of the page are hardly ever equal by accident
TIMINGS = Timings(
    {"teacher": 123.457, "control": 45.678, "distilled": 56.789},
    {name: Latency(1.23456e-4 * n, 2.34567e-4 * n, 990 + n, 1, "cpu") for n, name in enumerate(NAMES, 1)},
    "x86_64 of 3.14159 GHz",
)
# Entries that hold the numbers of each section; a number must not be found elsewhere by accident.
ENTRIES_OF = {
    "verdict": ("test", "models", "control_against_distilled"),
    "table": ("test", "models", "calibration", "ece_bins", "class_scores", "majority"),
    "curves": ("curves",),
    "comparison": ("control_against_distilled",),
    "fidelity": ("fidelity", "temperature"),
    "reliability": ("calibration", "reliability", "ece_bins"),
    "confusions": ("confusion_changes", "temperature"),
    "gallery": ("disagreements", "temperature", "test"),
    "cost": ("models", "training_seconds", "latency_seconds"),
}
# Numbers that are the same for every run: confidence levels, the fraction of equal students, KL of a copy, table rows.
CONSTANTS = {"90", "95 %", "50 %", "0", "95", "100", str(PAIRS)}
NUMBER = re.compile(r"(?<![\w.])[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?: %)?")
# Formats of times and file sizes; other formats: format_number.
CLOCK = {"training_seconds": "{:,.1f}", "median": "{ms:.3f}", "p90": "{ms:.3f}", "bytes": "{kilo:,.1f}"}

# Shares that are shown as whole percentages.
_SHARES = "control_share control_share_low_95 control_share_high_95 teacher confidence_from confidence_to probability"
WHOLE = frozenset(_SHARES.split())


def numbers(html: str) -> Iterator[str]:
    """Yield the numbers in the text, the descriptions of figures and the bars of the gallery, but not axis ticks."""
    html = re.sub(r'(<div class="scroll chart".*?)(<title.*?</desc>)?(?:(?!<desc).)*?</svg>', r"\2", html, flags=re.S)
    text = unescape(re.sub(r"<[^>]*>", " | ", html)).replace("\u00a0", " ").replace(TIMINGS.processor, "")
    text = re.sub(r"(\d)( to [\d.]+ %)", r"\1 %\2", text)  # both ends of a range are percentages
    for number in NUMBER.findall(text):
        yield number.rstrip(",").replace("−", "-")


def leaves(content: object, *path: str) -> Iterator[tuple[str, float]]:
    """Yield every number with the last key of its path."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from leaves(value, *path, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, *path)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield next((name for name in path if name in CLOCK), path[-1]), content


def format_number(name: str, value: float) -> Iterator[str]:
    """Yield the value in every format that the page uses for its kind."""
    if name in CLOCK:
        yield CLOCK[name].format(value, ms=1000 * value, kilo=value / 1000)
    if name in ("temperature", "TEMPERATURE"):
        yield f"{value:g}"
    if isinstance(value, int):
        yield from (f"{value:,}", f"{value:+,}")
    elif name in WHOLE:
        yield f"{100 * value:.0f} %"
    elif name == "p_value":
        yield format_p(value).removeprefix("< ")
    elif name == "share_of_teacher":
        yield f"{100 * value:.3g} %"
    else:
        yield from (f"{100 * value:.2f} %", f"{100 * value:.1f} %", f"{value:.4f}")
        if name.startswith("accuracy_"):
            yield f"{100 * value:.2f}"  # ends of an interval that follows an accuracy in %


@pytest.fixture(scope="module")
def run() -> Run:
    run = a_run(images=IMAGES)
    for n, history in enumerate(run.histories.values()):
        for m, curve in enumerate(history.values()):
            curve[:] = [(0.7319 - 0.0137 * n - 0.0041 * m) / (epoch + 1) for epoch in range(EPOCHS)]
    logits = {name: (0.55 + 0.2 * n) * values for n, (name, values) in enumerate(run.logits.items())}
    logits["distilled"] += 0.4 * nn.functional.one_hot(run.labels, CLASSES)
    return replace(run, logits=logits)


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, Any]:
    contents = files_of(run, TIMINGS)
    return {name: json.loads(contents[FOLDER / "metrics" / f"{name}.json"]) for name in ("metrics", "timings")}


@pytest.fixture(scope="module")
def on_the_page(run: Run) -> dict[str, list[str]]:
    html_of = sections(page([a_part(run, timings=TIMINGS)]))
    return {name: list(numbers(html)) for name, html in html_of.items() if name != "provenance"}


def missing(on_the_page: Mapping[str, list[str]], files: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the numbers of the page, with their section, that are not a rounded number of the section's entries."""
    entries = {**files["metrics"], **files["timings"]}
    epochs = {str(epoch) for epoch in range(1, EPOCHS + 1)}
    absent = set()
    for section, section_numbers in on_the_page.items():
        content = {name: entries[name] for name in ENTRIES_OF[section] if name in entries}
        known = {text for name, value in leaves(content) for text in format_number(name, value)} | CONSTANTS | epochs
        absent |= {(section, number) for number in section_numbers if number not in known}
    return absent


def test_every_number_of_the_page_is_in_the_files(on_the_page: dict[str, list[str]], files: dict[str, Any]) -> None:
    assert sum(map(len, on_the_page.values())) > 700
    assert all(len(texts) > 20 or name in ("comparison", "curves") for name, texts in on_the_page.items())
    assert not missing(on_the_page, files)


# Entries, each with a section that has numbers from this entry only.
ENTRIES = {
    "accuracy_low_95": "table",
    "errors": "verdict",
    "parameters": "cost",
    "share_of_teacher": "verdict",
    "bytes": "cost",
    "nll": "table",
    "brier": "table",
    "ece": "reliability",
    "adaptive_ece": "table",
    "ece_by_chance": "reliability",
    "confidence": "reliability",
    "reliability": "reliability",
    "control_against_distilled": "comparison",
    "exactly_one_wrong": "comparison",
    "control_share": "comparison",
    "control_share_low_95": "comparison",
    "both_right": "comparison",
    "accuracy_high_95": "verdict",
    "teacher": "confusions",
    "likeliest": "gallery",
    "p_value": "comparison",
    "agreement": "fidelity",
    "kl": "fidelity",
    "softened_kl": "fidelity",
    "teacher_wrong": "fidelity",
    "fewer": "confusions",
    "confusion_changes": "confusions",
    "mended": "confusions",
    "kinds": "gallery",
    "item": "gallery",
    "examples": "gallery",
    "curves": "curves",
    "training_seconds": "cost",
    "median": "cost",
    "p90": "cost",
    "calls": "cost",
}


def without(content: Any, name: str) -> Any:
    """Return the content without entries of this name, at any depth."""
    if isinstance(content, dict):
        return {key: without(value, name) for key, value in content.items() if key != name}
    return [without(value, name) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize(("name", "section"), ENTRIES.items(), ids=ENTRIES)
def test_a_missing_entry_is_noticed(
    name: str, section: str, on_the_page: dict[str, list[str]], files: dict[str, Any]
) -> None:
    """Shows that the test above can fail."""
    assert section in {affected for affected, _ in missing(on_the_page, without(files, name))}


def test_a_number_that_is_not_in_the_files_is_noticed(run: Run, files: dict[str, Any]) -> None:
    content = sections(page([a_part(replace(run, temperature=3), timings=TIMINGS)]))
    assert missing({"fidelity": list(numbers(content["fidelity"]))}, files)


def test_only_timings_differ_between_equal_runs(run: Run) -> None:
    first, second = (files_of(replace(run), timings) for timings in (TIMINGS, None))
    assert {path.name for path in first if first[path] != second[path]} == {"timings.json"}


def test_perfect_students_have_files_and_a_page(run: Run) -> None:
    """Shares of zero errors are None."""
    logits = 9 * nn.functional.one_hot(run.labels, 4).float()
    perfect = replace(run, logits=dict.fromkeys(NAMES, logits))
    metrics = json.loads(files_of(perfect)[FOLDER / "metrics" / "metrics.json"])
    assert metrics["control_against_distilled"]["control_share"] is None
    assert metrics["fidelity"]["distilled"]["teacher_wrong"] is None
    assert metrics["confusion_changes"]["pairs"] == metrics["disagreements"]["examples"] == []
    assert torch.tensor(metrics["confusion_matrices"]["teacher"]).trace() == IMAGES
    assert page([a_part(perfect)])
