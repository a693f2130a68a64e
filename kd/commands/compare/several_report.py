"""Report sections of several methods of ``kd compare``: a table of the methods, then each method's details, folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.commands.compare.report import (
    describe_epoch,
    show_arms,
    show_cost,
    show_provenance,
    tabulate_calibration,
    tabulate_fidelity,
)
from kd.commands.compare.several import (
    METHODS,
    Results,
    lead_sentence,
    merge_arms,
    method_rows,
    methods_caption,
    methods_drawings,
)
from kd.commands.differences_report import show_differences
from kd.commands.publish import model_settings, quick_run_stamp
from kd.commands.slices_report import show_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.report.blocks import Block, Fold, paragraphs, table
from kd.report.page import TONE_OF, Part, Section, Tone
from kd.report.svg import figure

_OF_METHODS = ("METHOD", "SET", "TEMPERATURE", "ALPHA")  # settings that differ by method


def methods_part(
    results: Results, *, test: object, command: str, limit: int | None, questions: tuple[Block, ...] = ()
) -> Part:
    """Build the report sections of several methods; the arguments are those of ``compare_part``."""
    verdicts, comparison = results.verdicts, results.shared
    arms, shared = merge_arms(verdicts), _shared_config(results)
    drawing = methods_drawings(verdicts)["comparisons_errors"]
    sections = (
        Section(
            "table",
            "Methods",
            (*_show_methods(verdicts), *show_arms(comparison, arms, drawing), *describe_epoch(shared)),
        ),
        Section("comparison", "Paired differences", (*_fold_differences(verdicts), *questions)),
        Section("slices", "Where it helps", _fold(_show_slices(results))),
        Section("reliability", "Calibration", (tabulate_calibration(comparison, arms),)),
        Section("fidelity", "Fidelity to the teacher", tabulate_fidelity(comparison, arms)),
        Section("cost", "Cost", show_cost(comparison, results.costs)),
        Section(
            "provenance",
            "Provenance",
            show_provenance(comparison, next(iter(results.costs.values())), shared, test, command),
        ),
    )
    models = {name: value for name, value in model_settings(shared).items() if name not in _OF_METHODS}
    return Part("compare", lead_sentence(verdicts), quick_run_stamp(limit), sections, _find_tone(verdicts), models)


def _find_tone(verdicts: Mapping[str, Verdicts]) -> Tone:
    tones = {TONE_OF[own.main.verdict] for own in verdicts.values()}
    return tones.pop() if len(tones) == 1 else "mixed"


def _shared_config(results: Results) -> dict[str, Any]:
    """Return the settings with a line for each method in place of its own settings."""
    first = next(iter(results.configs.values()))
    methods = {f"METHOD {number}": own.comparison.method for number, own in enumerate(results.verdicts.values(), 1)}
    return {**methods, **{name: value for name, value in first.items() if name not in _OF_METHODS}}


def _show_methods(verdicts: Mapping[str, Verdicts]) -> tuple[Block, ...]:
    rows = method_rows(verdicts)
    alt = "; ".join(f"{row[0]} minus control: {row[1]} ({row[2]})" for row in rows)
    drawing = figure(methods_drawings(verdicts)["comparisons_differences"], alt=f"Paired differences. {alt}.")
    sentences = paragraphs(own.lines[-1] for own in verdicts.values())
    return (table(METHODS, rows, caption=methods_caption(verdicts)), drawing, *sentences)


def _show_slices(results: Results) -> dict[str, tuple[Block, ...]]:
    return {name: show_slices(own, withheld=results.verdicts[name].is_withheld) for name, own in results.slices.items()}


def _fold_differences(verdicts: Mapping[str, Verdicts]) -> tuple[Block, ...]:
    return _fold({name: (*show_differences(own), *paragraphs(own.lines[:-1])) for name, own in verdicts.items()})


def _fold(blocks: Mapping[str, tuple[Block, ...]]) -> tuple[Block, ...]:
    return tuple(Fold(name, content) for name, content in blocks.items())
