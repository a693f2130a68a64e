"""Every number on a run's page is one of ``metrics.json`` or ``timings.json``, rounded as the page rounds it."""

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
from kd.report.page import page
from tests.commands.run.test_report import a_part
from tests.commands.run.test_results import CLASSES, EPOCHS, FOLDER, NAMES, a_run, files_of
from tests.report.test_page import sections

IMAGES = 3_011  # so many that a number of the page is hardly ever another one by accident
TIMINGS = Timings(
    {"teacher": 123.457, "control": 45.678, "distilled": 56.789},
    {name: Latency(1.23456e-4 * n, 2.34567e-4 * n, 990 + n, 1, "cpu") for n, name in enumerate(NAMES, 1)},
    "x86_64 of 3.14159 GHz",
)
# Where the numbers of each section are, so that none is found elsewhere by accident.
PARTS = {
    "verdict": ("test", "models", "control_against_distilled"),
    "table": ("test", "models", "calibration", "ece_bins"),
    "curves": ("curves",),
    "comparison": ("control_against_distilled",),
    "fidelity": ("fidelity", "temperature"),
    "reliability": ("calibration", "reliability", "ece_bins"),
    "confusions": ("confusion_changes", "temperature"),
    "gallery": ("disagreements", "temperature", "test"),
    "cost": ("models", "training_seconds", "latency_seconds"),
}
# What the page says of every run: levels, the share of a draw, the KL of a copy, how many rows a table has at most.
CONSTANTS = {"90 %", "95 %", "50 %", "0", "95", "100", str(PAIRS)}
NUMBER = re.compile(r"(?<![\w.])[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?: %)?")
# Formats of what is measured with a clock, or by its size in bytes; of all others below.
CLOCK = {"training_seconds": "{:,.1f}", "median": "{ms:.3f}", "p90": "{ms:.3f}", "bytes": "{kilo:,.1f}"}

# Shares that are shown as whole percentages.
_SHARES = "control_share control_share_low_95 control_share_high_95 teacher confidence_from confidence_to probability"
WHOLE = frozenset(_SHARES.split())


def numbers(html: str) -> Iterator[str]:
    """Those in its text, in what is read out for its figures and in the bars of the gallery; not the ticks of axes."""
    html = re.sub(r'(<div class="scroll chart".*?)(<title.*?</desc>)?(?:(?!<desc).)*?</svg>', r"\2", html, flags=re.S)
    text = unescape(re.sub(r"<[^>]*>", " | ", html)).replace("\u00a0", " ").replace(TIMINGS.processor, "")
    text = re.sub(r"(\d)( to [\d.]+ %)", r"\1 %\2", text)  # both ends of a range are percentages
    for found in NUMBER.findall(text):
        yield found.rstrip(",").replace("−", "-")


def leaves(content: object, *path: str) -> Iterator[tuple[str, float]]:
    """Every number with the last name on its way."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from leaves(value, *path, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, *path)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield next((name for name in path if name in CLOCK), path[-1]), content


def shown(name: str, value: float) -> Iterator[str]:
    """The value in every form that the page has for its kind."""
    if name in CLOCK:
        yield CLOCK[name].format(value, ms=1000 * value, kilo=value / 1000)
    if name in ("temperature", "TEMPERATURE"):
        yield f"{value:g}"
    if isinstance(value, int):
        yield from (f"{value:,}", f"{value:+,}")
    elif name in WHOLE:
        yield f"{100 * value:.0f} %"
    elif name == "p_value":
        yield f"{value:.2g}"
    elif name == "share_of_teacher":
        yield f"{100 * value:.3g} %"
    else:
        yield from (f"{100 * value:.2f} %", f"{100 * value:.1f} %", f"{value:.4f}")
        if name.startswith("accuracy_"):
            yield f"{100 * value:.2f}"  # after the accuracy itself


@pytest.fixture(scope="module")
def run() -> Run:
    made = a_run(images=IMAGES)
    for n, history in enumerate(made.histories.values()):
        for m, curve in enumerate(history.values()):
            curve[:] = [(0.7319 - 0.0137 * n - 0.0041 * m) / (epoch + 1) for epoch in range(EPOCHS)]
    logits = {name: (0.55 + 0.2 * n) * values for n, (name, values) in enumerate(made.logits.items())}
    logits["distilled"] += 0.4 * nn.functional.one_hot(made.labels, CLASSES)
    return replace(made, logits=logits)


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, Any]:
    made = files_of(run, TIMINGS)
    return {name: json.loads(made[FOLDER / "metrics" / f"{name}.json"]) for name in ("metrics", "timings")}


@pytest.fixture(scope="module")
def on_the_page(run: Run) -> dict[str, list[str]]:
    made = sections(page([a_part(run, timings=TIMINGS)]))
    return {name: list(numbers(html)) for name, html in made.items() if name != "provenance"}


def missing(on_the_page: Mapping[str, list[str]], files: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Numbers of the page, by section, that no number of its part of the files is rounded to."""
    entries = {**files["metrics"], **files["timings"]}
    epochs = {str(epoch) for epoch in range(1, EPOCHS + 1)}
    absent = set()
    for section, found in on_the_page.items():
        content = {name: entries[name] for name in PARTS[section] if name in entries}
        known = {form for name, value in leaves(content) for form in shown(name, value)} | CONSTANTS | epochs
        absent |= {(section, number) for number in found if number not in known}
    return absent


def test_every_number_of_the_page_is_in_the_files(on_the_page: dict[str, list[str]], files: dict[str, Any]) -> None:
    assert sum(map(len, on_the_page.values())) > 700
    assert all(len(found) > 20 or name in ("comparison", "curves") for name, found in on_the_page.items())
    assert not missing(on_the_page, files)


# Each with a section that would have a number which is nowhere in the files, were it not for this entry.
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
    """The content without any entry of this name."""
    if isinstance(content, dict):
        return {key: without(value, name) for key, value in content.items() if key != name}
    return [without(value, name) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize(("name", "section"), ENTRIES.items(), ids=ENTRIES)
def test_an_entry_that_is_left_out_is_missed(
    name: str, section: str, on_the_page: dict[str, list[str]], files: dict[str, Any]
) -> None:
    """So that the test above can fail."""
    assert section in {where for where, _ in missing(on_the_page, without(files, name))}


def test_a_number_that_is_not_the_files_is_missed(run: Run, files: dict[str, Any]) -> None:
    content = sections(page([a_part(replace(run, temperature=3), timings=TIMINGS)]))
    assert missing({"fidelity": list(numbers(content["fidelity"]))}, files)


def test_the_metrics_are_the_same_bytes_when_a_run_is_repeated(run: Run) -> None:
    one, other = (files_of(replace(run), timings) for timings in (TIMINGS, None))
    assert {path.name for path in one if one[path] != other[path]} == {"timings.json"}


def test_perfect_students_have_files_and_a_page(run: Run) -> None:
    """None where there is nothing to divide by."""
    perfect = 9 * nn.functional.one_hot(run.labels, 4).float()
    found = replace(run, logits=dict.fromkeys(NAMES, perfect))
    metrics = json.loads(files_of(found)[FOLDER / "metrics" / "metrics.json"])
    assert metrics["control_against_distilled"]["control_share"] is None
    assert metrics["fidelity"]["distilled"]["teacher_wrong"] is None
    assert metrics["confusion_changes"]["pairs"] == metrics["disagreements"]["examples"] == []
    assert torch.tensor(metrics["confusion_matrices"]["teacher"]).trace() == IMAGES
    assert page([a_part(found)])
