"""The ``kd judge`` command: read predictions, judge them, write the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kd.commands.differences import print_differences
from kd.commands.differences_report import show_differences
from kd.commands.judge.files import naming_files, read_predictions
from kd.commands.judge.settings import JudgeSettings
from kd.commands.judgement_json import describe_judgement
from kd.commands.publish import json_bytes, publish_with_report, result_folders
from kd.commands.slices_report import show_slices
from kd.console import say
from kd.evaluation.comparison_slices import describe_slices
from kd.evaluation.judging import Judged, judge
from kd.report.page import TONE_OF, Part, Section
from kd.storage.environment import versions
from kd.storage.files import require_writable
from kd.storage.places import use_folders


def run(settings: JudgeSettings) -> None:
    """Read the predictions, print the verdict and write the report.

    Raises:
        ValueError: a file is damaged or does not fit the others.
        OSError: a file cannot be read, or the folder is not writable or in use.
    """
    settings.check()
    results = settings.out / "results"
    require_writable(results / "metrics")
    predictions = read_predictions(settings)
    with naming_files(settings):
        judged = judge(
            predictions.control,
            predictions.distilled,
            predictions.labels,
            smoothed=predictions.smoothed,
            kind=settings.kind,
            decide=settings.decide,
            margin=settings.margin,
            class_names=settings.class_names,
        )
    quantity, margin = judged.comparison.quantity, judged.comparison.unit_margin
    say(f"decided by: {quantity.name}; equivalence margin: {quantity.describe_bound(margin)}")
    print_differences(judged.verdicts)
    for line in (*describe_slices(judged.slices, withheld=judged.verdicts.is_withheld), judged.sentence):
        say(line)
    content = {
        "settings": {name: _to_plain(value) for name, value in dataclasses.asdict(settings).items()},
        "environment": versions(),
        "decides": judged.comparison.quantity.key,
        "sentence": judged.sentence,
        **describe_judgement(judged.judgement, judged.comparison.pairs(0)),
    }
    with use_folders([results, *result_folders(settings.out)]):
        publish_with_report(
            {results / "metrics" / "judgement.json": json_bytes(content)},
            _make_part(judged),
            results_dir=results,
            state_dir=settings.out / ".kd",
        )


def _make_part(judged: Judged) -> Part:
    sections = (
        Section("comparison", "Paired differences", show_differences(judged.verdicts)),
        Section("slices", "Where it helps", show_slices(judged.slices, withheld=judged.verdicts.is_withheld)),
    )
    return Part("judge", judged.sentence, None, sections, TONE_OF[judged.verdict])


def _to_plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_to_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
