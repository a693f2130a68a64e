"""A run's part of the report: its three models, from their verdict to where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.arms import arm_of
from kd.commands.publish import telling
from kd.commands.run.report_gallery import gallery
from kd.commands.run.report_plots import curve_panel
from kd.commands.run.report_students import comparison, confusions, faithfulness
from kd.commands.run.results import ModelSize, Run, Timings, model_sizes
from kd.evaluation.calibration import BINS, Bin, Calibration, ChanceError
from kd.evaluation.two_models import McNemar
from kd.report.blocks import Block, Card, Fold, Grid, Note, Paragraph, table
from kd.report.page import Part, Section, Tone
from kd.report.plots import accuracy_comparison, reliability_diagram
from kd.report.provenance import provenance
from kd.report.svg import figure

TERMS = {"ce": "cross-entropy", "acc": "accuracy", "soft": "soft term"}  # in the heads of tables


def run_part(
    run: Run,
    *,
    weights: Mapping[str, Mapping[str, Any]],
    entries: Mapping[str, Mapping[str, Any]],
    timings: Timings,
    command: str,
) -> Part:
    """The part of a run, as ``kd.report`` puts it into a page. Only its section ``cost`` has measured times in it.

    Args:
        run: of the models ``teacher``, ``control`` and ``distilled``.
        weights: file name → its entry in ``manifest.json``.
        entries: the same by model.
        command: what was typed to make it.
    """
    sizes = model_sizes(entries)
    sections = (
        Section("verdict", "Verdict", _at_a_glance(run, sizes)),
        Section("table", "The three models", _table(run, sizes)),
        Section("curves", "Training", _curves(run)),
        Section("comparison", "Control against distilled", comparison(run)),
        Section("fidelity", "Student beside teacher", faithfulness(run)),
        Section("reliability", "Reliability", _reliability(run)),
        Section("confusions", "Confusions", confusions(run)),
        Section("gallery", "Where the students disagree", gallery(run)),
        Section("cost", "Cost", _cost(run, sizes, timings)),
        Section("provenance", "Provenance", provenance(run.config, weights, run.test, command)),
    )
    return Part("run", run.verdict, run.toy, sections, _tone(run.students.test), telling(run.config))


def _tone(test: McNemar, level: float = 0.05) -> Tone:
    """That of ``kd.evaluation.two_models.verdict``, at the level that it has by default."""
    if test.p_value >= level:
        return "open"
    return "better" if test.only_second_wrong < test.only_first_wrong else "worse"


def _at_a_glance(run: Run, sizes: Mapping[str, ModelSize]) -> tuple[Block, ...]:
    """What the verdict does not say, and a card for each model."""
    hint = (
        "One pair of networks does not judge a method: another seed gives another pair. `kd compare` trains several "
        "pairs and judges their differences by an interval that was stated before."
    )
    cards = []
    for name, found in run.accuracies.items():
        share = sizes[name].share_of_teacher
        facts = (
            ("95 % interval", f"{100 * found.accuracy_low_95:.2f} to {100 * found.accuracy_high_95:.2f} %"),
            ("errors", f"{found.errors:,} of {found.images:,}"),
            ("parameters", _counted(sizes[name], "parameters")),
            ("multiply-adds", _counted(sizes[name], "multiply_adds")),
            ("of the teacher's work", "–" if share is None else f"{100 * share:.3g} %"),
        )
        accuracy = f"{100 * found.accuracy:.2f} %"
        cards.append(Card(arm_of(name).label, accuracy, "test accuracy", facts, model=name))
    return (*map(Note, run.notes), Grid(tuple(cards), of="cards"), Paragraph(hint))


def _counted(size: ModelSize, what: str) -> str:
    """A teacher of answers alone has neither parameters nor work that would say anything."""
    return f"{getattr(size, what):,}" if size.parameters else "–"


def _table(run: Run, sizes: Mapping[str, ModelSize]) -> tuple[Block, ...]:
    found, measured = run.accuracies, run.calibrations
    told = "; ".join(
        f"{arm_of(n).label} {100 * own.accuracy:.2f} %, {100 * own.accuracy_low_95:.2f} to "
        f"{100 * own.accuracy_high_95:.2f}"
        for n, own in found.items()
    )
    drawn = figure(
        accuracy_comparison(found, noun=run.noun),
        alt=f"Test accuracy with 95 % intervals: {told}.",
        caption=f"The bars are for the choice of test {run.noun} alone. They do not say what another seed would give.",
    )
    rows = [
        ("accuracy", *(f"{100 * own.accuracy:.2f} %" for own in found.values())),
        ("95 % interval, low", *(f"{100 * own.accuracy_low_95:.2f} %" for own in found.values())),
        ("95 % interval, high", *(f"{100 * own.accuracy_high_95:.2f} %" for own in found.values())),
        (f"errors, of {len(run.labels):,} {run.noun}", *(f"{own.errors:,}" for own in found.values())),
        ("parameters", *(_counted(size, "parameters") for size in sizes.values())),
        (f"multiply-adds an {run.noun[:-1]}", *(_counted(size, "multiply_adds") for size in sizes.values())),
        ("NLL, nats", *(f"{m.nll:.4f}" for m in measured.values())),
        ("Brier score", *(f"{m.brier:.4f}" for m in measured.values())),
        (f"ECE, {BINS} bins", *(f"{100 * m.ece:.2f} %" for m in measured.values())),
        (f"adaptive ECE, {BINS} bins", *(f"{100 * m.adaptive_ece:.2f} %" for m in measured.values())),
    ]
    caption = "On the test set. From NLL on: how well the stated probabilities fit; less is better"
    return drawn, table(("measure", *map(_short, run.logits)), rows, caption=caption)


def _short(name: str) -> str:
    return arm_of(name).short


def _curves(run: Run) -> tuple[Block, ...]:
    found = {quantity for history in run.histories.values() for quantity in history}
    panels = [
        figure(
            curve_panel(run.histories, quantity, title),
            alt=f"{title}, over the epochs, in training and validation. After the last epoch, in validation: "
            + "; ".join(
                f"{_short(name)} {_at(history, f'val_{quantity}', -1) or 'has none'}"
                for name, history in run.histories.items()
            ),
        )
        for quantity, title in run.panels.items()
        if f"val_{quantity}" in found
    ]
    rows = {
        f"{TERMS[quantity]}, {meaning}": f"{split}_{quantity}"
        for quantity in run.panels
        for split, meaning in (("train", "training"), ("val", "validation"))
        if f"val_{quantity}" in found
    }
    models = [*map(_short, run.histories)]
    last = [(title, *(_at(history, q, -1) for history in run.histories.values())) for title, q in rows.items()]
    every = [
        (f"{epoch + 1}: {title}", *(_at(history, quantity, epoch) for history in run.histories.values()))
        for epoch in range(len(next(iter(run.histories.values()))["train_loss"]))
        for title, quantity in rows.items()
    ]
    return (
        Grid((*panels, table(("after the last epoch", *models), last))),
        Paragraph("The weights after the last epoch count; none was chosen by looking."),
        Fold("Every epoch as a table", (table(("epoch", *models), every),)),
    )


def _at(history: Mapping[str, list[float]], quantity: str, epoch: int) -> str:
    if quantity not in history or epoch >= len(history[quantity]):
        return ""
    value = history[quantity][epoch]
    return f"{100 * value:.2f} %" if quantity.endswith("_acc") else f"{value:.4f}"


def _reliability(run: Run) -> tuple[Block, ...]:
    measured, chances = run.calibrations, run.chances
    bins = {name: curve.bins for name, curve in run.reliabilities.items()}
    told = "; ".join(f"{arm_of(name).label} ECE {100 * m.ece:.2f} %" for name, m in measured.items())
    drawn = figure(
        reliability_diagram(run.reliabilities, noun=run.noun),
        alt=f"Accuracy against confidence in {BINS} bins: {told}. The table below has every bin.",
        caption="Below the diagonal a model is too sure of itself, above it not sure enough.",
    )
    rows = [
        ("confidence, mean", *(f"{100 * m.confidence:.2f} %" for m in measured.values())),
        ("accuracy", *(f"{100 * m.accuracy:.2f} %" for m in measured.values())),
        ("ECE", *(f"{100 * m.ece:.2f} %" for m in measured.values())),
        ("ECE by chance, mean", *(f"{100 * chance.mean:.2f} %" for chance in chances.values())),
        ("ECE by chance, 95 % below", *(f"{100 * chance.high:.2f} %" for chance in chances.values())),
    ]
    filled = [number for number in range(BINS) if any(model[number].images for model in bins.values())]
    each = [
        (f"{100 * number / BINS:.0f} to {100 * (number + 1) / BINS:.0f} %", _short(name), *_bin(bins[name][number]))
        for number in filled
        for name in bins
    ]
    every = table(("confidence", "model", run.noun, "mean confidence", "accuracy"), each)
    return (
        drawn,
        table(("measure", *map(_short, bins)), rows),
        Paragraph(_miscalibrated(measured, chances, run.noun)),
        Fold("Every bin as a table", (every,)),
    )


def _bin(found: Bin) -> tuple[str, str, str]:
    if found.confidence is None or found.accuracy is None:
        return "0", "", ""
    return f"{found.images:,}", f"{100 * found.confidence:.1f} %", f"{100 * found.accuracy:.1f} %"


def _miscalibrated(measured: Mapping[str, Calibration], chances: Mapping[str, ChanceError], noun: str) -> str:
    """Which models are not as often right as they say, beyond what chance makes of perfect calibration."""
    beyond = [f"the {arm_of(name).label} is {_bias(m)}" for name, m in measured.items() if m.ece > chances[name].high]
    found = f"Here {', '.join(beyond)}." if beyond else "Here no model's ECE is above what chance gives."
    return (
        "A perfectly calibrated model has an ECE above 0 as well, by chance: up to the last row in 95 of 100 cases. "
        f"{found} What one temperature, fitted on validation {noun}, mends of it is measured by `kd compare`."
    )


def _bias(measured: Calibration) -> str:
    """Which way a model's confidence errs, where most of its ECE is that one way."""
    gap = measured.confidence - measured.accuracy
    if abs(gap) < measured.ece / 2:
        return "too sure of some answers and too cautious of others"
    return "too sure" if gap > 0 else "too cautious"


def _cost(run: Run, sizes: Mapping[str, ModelSize], timings: Timings) -> tuple[Block, ...]:
    seconds, latencies = timings.training_seconds, timings.latencies
    rows = [
        ("parameters", *(_counted(size, "parameters") for size in sizes.values())),
        (f"multiply-adds an {run.noun[:-1]}", *(_counted(size, "multiply_adds") for size in sizes.values())),
        ("weights file, kB", *(f"{size.bytes / 1000:,.1f}" for size in sizes.values())),
        ("training, s", *(f"{seconds[name]:,.1f}" if name in seconds else "came trained" for name in run.logits)),
        ("latency, median, ms", *(f"{1000 * found.median:.3f}" for found in latencies.values())),
        ("latency, 90 % below, ms", *(f"{1000 * found.p90:.3f}" for found in latencies.values())),
        ("calls timed", *(f"{found.calls:,}" for found in latencies.values())),
    ]
    one = next(iter(latencies.values()))
    threads = "1 thread" if one.threads == 1 else f"{one.threads} threads"
    text = (
        f"Latency: from one {run.noun[:-1]} on {one.device} to its answer, {threads}, after a warm-up. The times are "
        f"those of this machine ({timings.processor}), with whatever else it was doing. All else that the run "
        "says here comes out the same when it is repeated; times do not."
    )
    return table(("cost", *map(_short, sizes)), rows), Paragraph(text)
