"""Report sections of a run on its three models, from the verdict to the provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from kd.arms import STUDENTS, arm_of
from kd.commands.publish import model_settings
from kd.commands.recipe_settings import CHOSEN_EPOCH
from kd.commands.run.report_gallery import show_disagreements
from kd.commands.run.report_plots import curve_panel
from kd.commands.run.report_students import compare_confusions, compare_students, compare_with_teacher
from kd.commands.run.results import ModelSize, Run, Timings, model_sizes
from kd.commands.run.verdict import choose_tone, list_remarks, write_verdict
from kd.evaluation.calibration import BINS, Bin, Calibration, ChanceError
from kd.report.blocks import Block, Card, Fold, Grid, Note, Paragraph, table
from kd.report.page import Part, Section
from kd.report.plots import accuracy_comparison, reliability_diagram
from kd.report.provenance import provenance
from kd.report.svg import figure

TERMS = {"ce": "cross-entropy", "acc": "accuracy", "soft": "soft term"}  # row titles in tables


def run_part(
    run: Run,
    *,
    weights: Mapping[str, Mapping[str, Any]],
    entries: Mapping[str, Mapping[str, Any]],
    timings: Timings,
    command: str,
) -> Part:
    """Return the report sections of a run. Only the section ``cost`` contains measured times.

    Args:
        run: results of the models ``teacher``, ``control`` and ``distilled``.
        weights: entries in ``manifest.json`` by file name.
        entries: the same entries by model.
        command: command line of the run; "" if functions were called from Python.
    """
    sizes = model_sizes(entries)
    sections = (
        Section("verdict", "Verdict", _show_cards(run, sizes)),
        Section("table", "The three models", _show_table(run, sizes)),
        Section("curves", "Training", _show_curves(run)),
        Section("comparison", "Comparison of the students", compare_students(run)),
        Section("fidelity", "Fidelity to the teacher", compare_with_teacher(run)),
        Section("reliability", "Calibration", _show_reliability(run)),
        Section("confusions", "Confusions", compare_confusions(run)),
        Section("gallery", "Disagreements", show_disagreements(run)),
        Section("cost", "Cost", _show_cost(run, sizes, timings)),
        Section("provenance", "Provenance", provenance(run.config, weights, run.test, command)),
    )
    return Part("run", write_verdict(run), run.toy, sections, choose_tone(run), model_settings(run.config))


def _show_cards(run: Run, sizes: Mapping[str, ModelSize]) -> tuple[Block, ...]:
    """Return notes of the training, a card per model, and a hint on the limits of a single pair."""
    hint = (
        "One pair of networks is not enough to judge a method: another seed gives other results. `kd compare` trains "
        "several pairs and judges their differences by a rule fixed in advance."
    )
    cards = []
    for name, accuracy in run.accuracies.items():
        share = sizes[name].share_of_teacher
        facts = (
            ("95 % interval", f"{100 * accuracy.accuracy_low_95:.2f} to {100 * accuracy.accuracy_high_95:.2f} %"),
            ("errors", f"{accuracy.errors:,} of {accuracy.images:,}"),
            ("parameters", _format_count(sizes[name], "parameters")),
            ("multiply-adds", _format_count(sizes[name], "multiply_adds")),
            ("relative to teacher", "–" if share is None else f"{100 * share:.3g} %"),
        )
        number = f"{100 * accuracy.accuracy:.2f} %"
        cards.append(Card(arm_of(name).label, number, "test accuracy", facts, model=name))
    return (*map(Note, [*run.notes, *list_remarks(run)]), Grid(tuple(cards), of="cards"), Paragraph(hint))


def _format_count(size: ModelSize, field: str) -> str:
    """Format a count, as a dash if nothing is counted: of precomputed outputs, or multiply-adds outside of torch."""
    return f"{getattr(size, field):,}" if getattr(size, field) else "–"


def _show_table(run: Run, sizes: Mapping[str, ModelSize]) -> tuple[Block, ...]:
    accuracies, calibrations = run.accuracies, run.calibrations
    intervals = "; ".join(
        f"{arm_of(name).label} {100 * accuracy.accuracy:.2f} %, {100 * accuracy.accuracy_low_95:.2f} to "
        f"{100 * accuracy.accuracy_high_95:.2f}"
        for name, accuracy in accuracies.items()
    )
    chart = figure(
        partial(accuracy_comparison, accuracies, noun=run.noun),
        alt=f"Test accuracy with 95 % intervals: {intervals}.",
        caption=f"The intervals cover only the choice of test {run.noun}, not the variation between seeds.",
    )
    rows = [
        ("accuracy", *(f"{100 * accuracy.accuracy:.2f} %" for accuracy in accuracies.values())),
        ("95 % interval, low", *(f"{100 * accuracy.accuracy_low_95:.2f} %" for accuracy in accuracies.values())),
        ("95 % interval, high", *(f"{100 * accuracy.accuracy_high_95:.2f} %" for accuracy in accuracies.values())),
        (f"errors, of {len(run.labels):,} {run.noun}", *(f"{accuracy.errors:,}" for accuracy in accuracies.values())),
        ("balanced accuracy", *(f"{100 * scores.balanced_accuracy:.2f} %" for scores in run.class_scores.values())),
        ("macro-F1", *(f"{100 * scores.macro_f1:.2f} %" for scores in run.class_scores.values())),
        ("parameters", *(_format_count(size, "parameters") for size in sizes.values())),
        (f"multiply-adds per {run.noun[:-1]}", *(_format_count(size, "multiply_adds") for size in sizes.values())),
        ("NLL, nats", *(f"{m.nll:.4f}" for m in calibrations.values())),
        ("Brier score", *(f"{m.brier:.4f}" for m in calibrations.values())),
        (f"ECE, {BINS} bins", *(f"{100 * m.ece:.2f} %" for m in calibrations.values())),
        (f"adaptive ECE, {BINS} bins", *(f"{100 * m.adaptive_ece:.2f} %" for m in calibrations.values())),
    ]
    caption = (
        f"On the test set, where always predicting {run.class_name(run.majority.label)} is right for "
        f"{100 * run.majority.share:.2f} %. Balanced accuracy: mean over the classes. The rows from NLL on rate the "
        "predicted probabilities; lower is better"
    )
    return chart, table(("measure", *map(_short_label, run.logits)), rows, caption=caption)


def _short_label(name: str) -> str:
    return arm_of(name).short


LAST_EPOCH = "The final weights are those after the last epoch; no epoch is selected by its validation results."


def _show_curves(run: Run) -> tuple[Block, ...]:
    quantities = {quantity for history in run.histories.values() for quantity in history}
    chosen = [name for name, history in run.histories.items() if history.kept]
    when = "with the final weights" if chosen else "after the last epoch"
    panels = [
        figure(
            partial(curve_panel, run.histories, quantity, title),
            alt=f"{title}, by epoch, for training and validation. Validation {when}: "
            + "; ".join(
                f"{_short_label(name)} {_format_value(history, f'val_{quantity}', history.kept - 1) or 'none'}"
                for name, history in run.histories.items()
            ),
        )
        for quantity, title in run.panels.items()
        if f"val_{quantity}" in quantities
    ]
    rows = {
        f"{TERMS[quantity]}, {meaning}": f"{split}_{quantity}"
        for quantity in run.panels
        for split, meaning in (("train", "training"), ("val", "validation"))
        if f"val_{quantity}" in quantities
    }
    models = [*map(_short_label, run.histories)]
    last_epoch = [
        (title, *(_format_value(history, quantity, history.kept - 1) for history in run.histories.values()))
        for title, quantity in rows.items()
    ]
    all_epochs = [
        (f"{epoch + 1}: {title}", *(_format_value(history, quantity, epoch) for history in run.histories.values()))
        for epoch in range(max(len(history["train_loss"]) for history in run.histories.values()))
        for title, quantity in rows.items()
    ]
    return (
        Grid((*panels, table((when, *models), last_epoch))),
        Paragraph(_describe_epochs(chosen, [name for name in run.histories if name not in chosen])),
        Fold("Every epoch as a table", (table(("epoch", *models), all_epochs),)),
    )


def _describe_epochs(chosen: Sequence[str], others: Sequence[str]) -> str:
    """Return sentences on the epochs of the final weights, chosen by the validation results or the last ones."""
    if not chosen:
        return LAST_EPOCH
    if set(STUDENTS) <= {*chosen} and not others:
        return CHOSEN_EPOCH
    first, rest = (" and ".join(f"the {arm_of(name).label}" for name in names) for names in (chosen, others))
    return (
        f"The final weights of {first} are those of the epoch with the best validation results, which are therefore "
        f"too good; the test set plays no part. Those of {rest} are the weights after the last epoch."
    )


def _format_value(history: Mapping[str, list[float]], quantity: str, epoch: int) -> str:
    if quantity not in history or epoch >= len(history[quantity]):
        return ""
    value = history[quantity][epoch]
    return f"{100 * value:.2f} %" if quantity.endswith("_acc") else f"{value:.4f}"


def _show_reliability(run: Run) -> tuple[Block, ...]:
    calibrations, chances = run.calibrations, run.chances
    bins = {name: curve.bins for name, curve in run.reliabilities.items()}
    errors = "; ".join(f"{arm_of(name).label} ECE {100 * m.ece:.2f} %" for name, m in calibrations.items())
    diagram = figure(
        partial(reliability_diagram, run.reliabilities, noun=run.noun),
        alt=f"Accuracy against confidence in {BINS} bins: {errors}. The table below lists every bin.",
        caption="Below the diagonal a model is overconfident, above it underconfident.",
    )
    rows = [
        ("confidence, mean", *(f"{100 * m.confidence:.2f} %" for m in calibrations.values())),
        ("accuracy", *(f"{100 * m.accuracy:.2f} %" for m in calibrations.values())),
        ("ECE", *(f"{100 * m.ece:.2f} %" for m in calibrations.values())),
        ("ECE by chance, mean", *(f"{100 * chance.mean:.2f} %" for chance in chances.values())),
        ("ECE by chance, 95th percentile", *(f"{100 * chance.high:.2f} %" for chance in chances.values())),
    ]
    filled = [number for number in range(BINS) if any(model[number].images for model in bins.values())]
    cells = [
        (
            f"{100 * number / BINS:.0f} to {100 * (number + 1) / BINS:.0f} %",
            _short_label(name),
            *_format_bin(bins[name][number]),
        )
        for number in filled
        for name in bins
    ]
    bin_table = table(("confidence", "model", run.noun, "mean confidence", "accuracy"), cells)
    return (
        diagram,
        table(("measure", *map(_short_label, bins)), rows),
        Paragraph(_describe_calibration(calibrations, chances, run.noun)),
        Fold("Every bin as a table", (bin_table,)),
    )


def _format_bin(values: Bin) -> tuple[str, str, str]:
    if values.confidence is None or values.accuracy is None:
        return "0", "", ""
    return f"{values.images:,}", f"{100 * values.confidence:.1f} %", f"{100 * values.accuracy:.1f} %"


def _describe_calibration(
    calibrations: Mapping[str, Calibration], chances: Mapping[str, ChanceError], noun: str
) -> str:
    """State which models have an ECE above the range expected by chance for a perfectly calibrated model."""
    miscalibrated = [
        f"the {arm_of(name).label} is {_describe_bias(m)}"
        for name, m in calibrations.items()
        if m.ece > chances[name].high
    ]
    finding = f"Here {', '.join(miscalibrated)}." if miscalibrated else "Here no model's ECE is above this level."
    return (
        "By chance, even a perfectly calibrated model has an ECE above 0; in 95 % of cases it is below the last row. "
        f"{finding} `kd compare` also measures calibration after temperature scaling, fitted on validation {noun}."
    )


def _describe_bias(calibration: Calibration) -> str:
    """Describe the direction of miscalibration; mixed if the mean gap is less than half of the ECE."""
    gap = calibration.confidence - calibration.accuracy
    if abs(gap) < calibration.ece / 2:
        return "overconfident in some predictions and underconfident in others"
    return "overconfident" if gap > 0 else "underconfident"


def _show_cost(run: Run, sizes: Mapping[str, ModelSize], timings: Timings) -> tuple[Block, ...]:
    seconds, latencies = timings.training_seconds, timings.latencies
    rows = [
        ("parameters", *(_format_count(size, "parameters") for size in sizes.values())),
        (f"multiply-adds per {run.noun[:-1]}", *(_format_count(size, "multiply_adds") for size in sizes.values())),
        ("weights file, kB", *(f"{size.bytes / 1000:,.1f}" for size in sizes.values())),
        ("training, s", *(f"{seconds[name]:,.1f}" if name in seconds else "loaded" for name in run.logits)),
        ("latency, median, ms", *(f"{1000 * latency.median:.3f}" for latency in latencies.values())),
        ("latency, 90th percentile, ms", *(f"{1000 * latency.p90:.3f}" for latency in latencies.values())),
        ("calls timed", *(f"{latency.calls:,}" for latency in latencies.values())),
    ]
    first = next(iter(latencies.values()))
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    text = (
        f"Latency: time to predict one {run.noun[:-1]} on {first.device}, {threads}, after a warm-up. Times were "
        f"measured on this machine ({timings.processor}) under its load at that time. All other numbers of this run "
        "are the same if it is repeated."
    )
    return table(("cost", *map(_short_label, sizes)), rows), Paragraph(text)
