"""Report sections of ``kd sweep``: test of the choice with fresh seeds, paired differences, map, all points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.commands.differences import contrast_cells, contrast_header
from kd.commands.paired_table import DIFFERENCES, difference_cells
from kd.commands.publish import model_settings, quick_run_stamp
from kd.commands.sweep.plots import map_drawing, name_mean
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import (
    BEST,
    FINALS,
    best_rows,
    final_rows,
    lines,
    name_rate,
    point_header,
    point_rows,
    tried_title,
)
from kd.formatting import count_noun
from kd.report.blocks import Block, Fold, Paragraph, paragraphs, table
from kd.report.page import TONE_OF, Part, Section
from kd.report.provenance import provenance
from kd.report.svg import figure
from kd.storage.files import sha256


def sweep_part(
    sweep: Sweep,
    config: Mapping[str, Any],
    *,
    teacher: bytes,
    test: object,
    command: str,
    limit: int | None,
    questions: tuple[Block, ...] = (),
) -> Part:
    """Build the report sections of a sweep.

    Args:
        config: the settings of the sweep.
        teacher: content of its weights file.
        test: the test set.
        command: the command line as typed; "" if there was none.
        limit: the number of training images of a quick run, else None.
        questions: table of all questions asked of the test set.
    """
    choice, *middle_lines, verdict = lines(sweep)
    judgement = sweep.judgement()
    sections = (
        Section("table", "Test of the chosen point", (_show_finals(sweep), *paragraphs(middle_lines))),
        Section("comparison", "Paired differences", (*_show_pairs(sweep), *questions)),
        Section(
            "map",
            "Temperature and alpha" if sweep.method == "kd" else f"Settings of {sweep.method}",
            (Paragraph(choice), *_show_map(sweep)),
        ),
        Section("provenance", "Provenance", _show_provenance(sweep, config, teacher, test, command)),
    )
    return Part(
        "sweep",
        verdict,
        quick_run_stamp(limit),
        sections,
        TONE_OF[judgement.verdict] if judgement else "open",
        model_settings(config),
    )


def _show_finals(sweep: Sweep) -> Block:
    validation, test, noun = sweep.images
    caption = (
        f"{name_rate(sweep).capitalize()}s on the {validation:,} validation {noun} with the "
        f"{count_noun(len(sweep.seeds), 'seed')} of the selection and with {len(sweep.final_seeds)} fresh seeds, and "
        f"on the {test:,} test {noun} with the fresh seeds. Test errors: mean ± standard deviation."
    )
    return table(FINALS, final_rows(sweep), caption=caption)


def _show_pairs(sweep: Sweep) -> tuple[Block, ...]:
    """Show the pairs of the verdict, then chosen minus documented point unless this repeats them."""
    judged_role, roles = sweep.judged_role(), sweep.roles
    if judged_role is None:
        text = "Neither the chosen nor the documented point uses the teacher, so there are no pairs to judge."
        return (Paragraph(text),)
    role_pairs = [(judged_role, "control")]
    if judged_role == "chosen" and roles["documented"] not in {roles["chosen"], roles["control"]}:
        role_pairs.append(("chosen", "documented"))
    points = {f"{role} minus {reference}": (roles[role], roles[reference]) for role, reference in role_pairs}
    rows = [(name, *contrast_cells(sweep.contrast(*pair), sweep.quantity)) for name, pair in points.items()]
    further = [(name, *difference_cells(sweep.pairs(*pair))) for name, pair in points.items()]
    caption = (
        f"Differences in {sweep.quantity.name}, paired by seed; values below zero favour the point named first. The "
        "verdict uses the first row."
    )
    header = ("pairs", *contrast_header(sweep.images.noun)[1:])
    tests = Fold("Further tests on the numbers of errors", (table(("pairs", *DIFFERENCES[1:]), further),))
    return table(header, rows, caption=caption), tests


def _show_map(sweep: Sweep) -> tuple[Block, ...]:
    description = "; ".join(f"{row[1]}: {row[0]}: {row[2]}" for row in best_rows(sweep) if row[1])
    noun = sweep.images.noun
    over = " over temperature and alpha" if sweep.method == "kd" else f" by settings of {sweep.method}"
    drawing = figure(
        map_drawing(sweep),
        alt=f"{name_mean(sweep)} on the validation {noun}{over}. {description}. Numbers: see table.",
        caption=f"All points on the validation {noun}; the chosen and the documented point are marked.",
    )
    caption = f"{tried_title(sweep)}. Mean ± standard deviation; cross-entropy with the labels in nats."
    best = table(point_header(sweep), best_rows(sweep), caption=caption)
    if len(sweep.tried) <= BEST:
        return drawing, best
    return drawing, best, Fold(f"All {len(sweep.tried)} points", (table(point_header(sweep), point_rows(sweep)),))


def _show_provenance(
    sweep: Sweep, config: Mapping[str, Any], teacher: bytes, test: object, command: str
) -> tuple[Block, ...]:
    weights = {"teacher": {"sha256": sha256(teacher), "bytes": len(teacher)}}
    selection, final = (", ".join(map(str, group)) for group in (sweep.seeds, sweep.final_seeds))
    seeds = f"Seeds of the selection: {selection}; of the test: {final}. All students are in `metrics/sweep.csv`."
    return (*provenance(config, weights, test, command), Paragraph(seeds))
