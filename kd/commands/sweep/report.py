"""What ``kd sweep`` adds to the report: the map with every point beside it, and what fresh seeds say of the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.commands.paired_table import DIFFERENCES, difference_cells
from kd.commands.publish import model_settings, toy_stamp
from kd.commands.sweep.plots import sweep_map
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import BEST, FINALS, POINTS, best_rows, counted, final_rows, lines, point_rows, tried_title
from kd.report.blocks import Block, Fold, Paragraph, paragraphs, table
from kd.report.page import TONE_OF, Part, Section
from kd.report.provenance import provenance
from kd.report.svg import figure
from kd.storage.files import sha256


def sweep_part(
    sweep: Sweep, config: Mapping[str, Any], *, teacher: bytes, test: object, command: str, limit: int | None
) -> Part:
    """All sections of a sweep.

    Args:
        config: the settings it was run with.
        teacher: its weights as a file.
        test: the data set that was tested on.
        command: as it was typed, "" if there was none.
        limit: the number of training images if it was a toy run, else None.
    """
    choice, *against, verdict = lines(sweep)
    judgement = sweep.judgement()
    sections = (
        Section("table", "The chosen point, tested once", (_finals(sweep), *paragraphs(against))),
        Section("comparison", "Pair by pair", (_pairs(sweep),)),
        Section("map", "Which temperature, which alpha?", (Paragraph(choice), *_map(sweep))),
        Section("provenance", "Where this comes from", _provenance(sweep, config, teacher, test, command)),
    )
    return Part(
        "sweep",
        verdict,
        toy_stamp(limit),
        sections,
        TONE_OF[judgement.verdict] if judgement else "open",
        model_settings(config),
    )


def _finals(sweep: Sweep) -> Block:
    validation, test, noun = sweep.images
    caption = (
        f"Shares of {noun} with a wrong answer: of the {validation:,} validation {noun} by the "
        f"{counted(len(sweep.seeds), 'seed')} that judged every point, then by {len(sweep.final_seeds)} fresh ones, of "
        f"the same {noun} and of the {test:,} test {noun}. Test errors: mean ± standard deviation"
    )
    return table(FINALS, final_rows(sweep), caption=caption)


def _pairs(sweep: Sweep) -> Block:
    """What is judged first; then the chosen point against the documented one, where that is something else."""
    judged, roles = sweep.judged(), sweep.roles
    if judged is None:
        return Paragraph("Neither the chosen nor the documented point has a teacher: there are no pairs to judge.")
    compared = [(judged, "control")]
    if judged == "chosen" and roles["documented"] not in {roles["chosen"], roles["control"]}:
        compared.append(("chosen", "documented"))
    rows = [
        (f"{ours} minus {theirs}", *difference_cells(sweep.pairs(roles[ours], roles[theirs])))
        for ours, theirs in compared
    ]
    caption = "Differences in test errors, paired by seed; below zero is in favour of the first. The first row decides"
    return table(("pairs", *DIFFERENCES[1:]), rows, caption=caption)


def _map(sweep: Sweep) -> tuple[Block, ...]:
    told = "; ".join(f"{row[1]}: {row[0]}: {row[2]}" for row in best_rows(sweep) if row[1])
    noun = sweep.images.noun
    drawn = figure(
        sweep_map(sweep),
        alt=f"Mean errors on the validation {noun} over temperature and alpha. {told}. The numbers are in the table.",
        caption=f"Every point on the validation {noun}; the chosen and the documented one are marked",
    )
    caption = f"{tried_title(sweep)}. Mean ± standard deviation; cross-entropy with the labels, nats"
    best = table(POINTS, best_rows(sweep), caption=caption)
    if len(sweep.tried) <= BEST:
        return drawn, best
    return drawn, best, Fold(f"All {len(sweep.tried)} points", (table(POINTS, point_rows(sweep)),))


def _provenance(
    sweep: Sweep, config: Mapping[str, Any], teacher: bytes, test: object, command: str
) -> tuple[Block, ...]:
    weights = {"teacher": {"sha256": sha256(teacher), "bytes": len(teacher)}}
    judging, fresh = (", ".join(map(str, own)) for own in (sweep.seeds, sweep.final_seeds))
    seeds = f"Seeds that judged the points: {judging}; fresh ones: {fresh}. Every student is in `metrics/sweep.csv`."
    return (*provenance(config, weights, test, command), Paragraph(seeds))
