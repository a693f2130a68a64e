"""Several methods of ``kd compare`` asked together: their verdicts, printed output and files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kd.arms import ARMS, DISTILLED, TEACHER
from kd.commands.compare.files import describe_comparison, describe_times
from kd.commands.compare.plots import count_errors, errors_by_arm
from kd.commands.compare.text import LATENCY, MODEL_CELLS, cost_sentences, model_cells, print_arms
from kd.commands.differences import print_differences
from kd.commands.differences_report import paired_differences
from kd.commands.publish import csv_bytes, json_bytes, plot_files, quick_run_stamp
from kd.console import print_table, say
from kd.evaluation.comparison import Comparison
from kd.evaluation.comparison_rows import student_rows, summaries
from kd.evaluation.comparison_slices import Slices, describe_slices
from kd.evaluation.comparison_verdict import Verdicts, describe_arms
from kd.evaluation.cost import Cost
from kd.evaluation.paired_seeds import Spread
from kd.evaluation.verdict import Judgement
from kd.evaluation.verdict_text import describe_verdict, format_interval
from kd.formatting import count_noun, format_p, format_signed
from kd.report.drawings import Drawing
from kd.report.style import png
from kd.storage.files import name_for_file
from kd.training.students import TrainedStudent


class Results(NamedTuple):
    """Results of several methods with the same teachers and controls; all mappings are by the method's name.

    Attributes:
        configs: the settings of each method alone.
        trained: all students by name.
    """

    verdicts: Mapping[str, Verdicts]
    slices: Mapping[str, Slices]
    configs: Mapping[str, Mapping[str, Any]]
    trained: Mapping[str, TrainedStudent]
    costs: Mapping[str, Cost]

    @property
    def shared(self) -> Comparison:
        """The first comparison, for what all have in common."""
        return next(iter(self.verdicts.values())).comparison


METHODS = ("method", "minus control", "interval", "p (Holm)", "p (Holm), label smoothing too", "verdict")


def method_rows(verdicts: Mapping[str, Verdicts]) -> list[tuple[str, ...]]:
    """Return a row for each method under the header ``METHODS``."""
    return [(name, *_method_cells(own.main, own.comparison)) for name, own in verdicts.items()]


def _method_cells(judgement: Judgement, comparison: Comparison) -> tuple[str, ...]:
    quantity = comparison.quantity
    return (
        format_signed(judgement.question.control.mean, quantity.spec),
        format_interval(judgement.interval, 1 - judgement.level, quantity),
        format_p(judgement.p),
        format_p(judgement.p_helps),
        describe_verdict(judgement.verdict, judgement.margin, quantity),
    )


def methods_caption(verdicts: Mapping[str, Verdicts]) -> str:
    """Return the caption of the table of methods."""
    first = next(iter(verdicts.values()))
    return (
        f"Methods asked together, {first.comparison.quantity.name}, with the same teacher and controls; intervals and "
        f"p-values are adjusted by Holm's procedure for {count_noun(first.main.family, 'question')} of this test set"
    )


def lead_sentence(verdicts: Mapping[str, Verdicts]) -> str:
    """Return the paragraph that heads the page: failures and warnings, the methods by verdict, what each costs."""
    by_verdict: dict[str, list[str]] = {}
    for name, own in verdicts.items():
        mean, quantity = own.main.question.control.mean, own.comparison.quantity
        difference = quantity.describe(mean) if quantity.shows(mean) else "no difference"
        interval = format_interval(own.main.interval, 1 - own.main.level, quantity)
        verdict = describe_verdict(own.main.verdict, own.main.margin, quantity)
        by_verdict.setdefault(verdict, []).append(f"{name} ({difference}, {interval})")
    groups = [f"{verdict[0].upper()}{verdict[1:]}: {', '.join(names)}." for verdict, names in by_verdict.items()]
    first = next(iter(verdicts.values()))
    accuracy = first.teacher_accuracy(None)
    return " ".join(
        [
            *_said_first(verdicts),
            f"{len(verdicts)} methods{f' ({accuracy})' if accuracy else ''}, each compared with the same control on "
            f"{first.comparison.images:,} test {first.comparison.noun}.",
            *groups,
            *first.comparison.remarks,
            *_own_remarks(verdicts),
            f"The verdicts are adjusted for {count_noun(first.main.family, 'question')} of these "
            f"{first.comparison.noun}.",
        ]
    )


def _own_remarks(verdicts: Mapping[str, Verdicts]) -> list[str]:
    """Return what is to be said of each method: label smoothing, which may do as well, and losses as of calibration."""
    return [
        f"{name}: {text}"
        for name, own in verdicts.items()
        for text in [*own.describe_smoothing(), *own.own_remarks(own.main, None if own.overall is not None else 0)]
    ]


def _said_first(verdicts: Mapping[str, Verdicts]) -> list[str]:
    """Return failures and warnings to print before the verdicts: of all arms, with each method's distilled students."""
    one = next(iter(verdicts.values()))
    arms = [TEACHER, *(arm for arm in one.comparison.students if arm != DISTILLED)]
    shared = {ARMS[arm].label: (one, arm) for arm in arms}
    distilled = {f"{ARMS[DISTILLED].label} of {name}": (own, DISTILLED) for name, own in verdicts.items()}
    first = describe_arms({**shared, **distilled})
    under_trained = [name for name, own in verdicts.items() if own.under_trained]
    if under_trained:
        comparison = one.comparison
        budget = f" (the cost of {comparison.longer_of})" if comparison.longer_of else ""
        first.append(
            f"The students are under-trained: training on the labels alone for {comparison.longer_epochs} epochs"
            f"{budget} beats the control and the distilled students of {', '.join(under_trained)}."
        )
    return [*first, *one.weak_teacher()]


def merge_arms(verdicts: Mapping[str, Verdicts]) -> dict[str, Mapping[str, Spread]]:
    """Return the spreads of all arms: the distilled students of each method under its name, then the controls."""
    by_method = {name: summaries(own.comparison) for name, own in verdicts.items()}
    controls = {arm: spreads for arm, spreads in next(iter(by_method.values())).items() if arm != DISTILLED}
    return {**{name: spreads[DISTILLED] for name, spreads in by_method.items()}, **controls}


def methods_drawings(verdicts: Mapping[str, Verdicts]) -> dict[str, Drawing]:
    """Return the drawings of all methods together: test errors, and differences from the control."""
    first = next(iter(verdicts.values())).comparison
    distilled = {name: count_errors(own.comparison)[DISTILLED] for name, own in verdicts.items()}
    shared = {arm: counts for arm, counts in count_errors(first).items() if arm != DISTILLED}
    errors = {TEACHER: shared.pop(TEACHER), **distilled, **shared}
    rows = [
        own.comparison.contrasts[0]._replace(title=name, contrast=own.main.question.control)
        for name, own in verdicts.items()
    ]
    return {
        "comparisons_errors": partial(errors_by_arm, errors, images=first.images, noun=first.noun),
        "comparisons_differences": partial(
            paired_differences,
            rows,
            quantity=first.quantity,
            margin=first.unit_margin,
            noun=first.noun,
            label="{}\nminus control",
            levels=[own.main.level for own in verdicts.values()],
        ),
    }


def print_methods(results: Results, *, limit: int | None) -> None:
    """Print the arms, the differences of each method, the cost, the table of methods and the verdicts.

    Args:
        limit: the number of training images of a quick run, else None.
    """
    comparison = results.shared
    toy = f", QUICK RUN on {limit:,} training {comparison.noun}" if limit is not None else ""
    print_arms(comparison, merge_arms(results.verdicts), f"{comparison.images:,} test {comparison.noun}{toy}")
    for name, own in results.verdicts.items():
        say(f"{name}:")
        print_differences(own)
        for line in describe_slices(results.slices[name], withheld=own.is_withheld):
            say(line)
    rows = {name: model_cells(footprint) for name, footprint in next(iter(results.costs.values())).models.items()}
    print_table(f"Cost of inference ({LATENCY})", MODEL_CELLS, rows)
    for line in cost_sentences(comparison, results.costs):
        say(line)
    for own in results.verdicts.values():
        for line in own.lines:
            say(line)
    table = {name: list(cells) for name, *cells in method_rows(results.verdicts)}
    print_table(methods_caption(results.verdicts), METHODS, table)
    say(lead_sentence(results.verdicts))


def method_files(folder: Path, results: Results, *, limit: int | None) -> dict[Path, bytes]:
    """Return path → content of ``metrics/comparisons.json``, two files for each method, times and plots.

    Args:
        folder: the results folder.
        limit: the number of training images of a quick run, else None.
    """
    toy, metrics, files = quick_run_stamp(limit), folder / "metrics", dict[Path, bytes]()
    summaries_by_method = {}
    for name, own in results.verdicts.items():
        config, stem = results.configs[name], f"comparison-{name_for_file(name)}"
        content = describe_comparison(own, results.costs[name], config, results.slices[name], toy)
        files[metrics / f"{stem}.json"] = json_bytes(content)
        files[metrics / f"{stem}_students.csv"] = csv_bytes(
            {"run": toy or "full", **row} for row in student_rows(own.comparison)
        )
        summaries_by_method[name] = {
            "file": f"{stem}.json",
            "verdict": own.main.verdict,
            "difference": own.main.question.control.mean,
            "interval": own.main.interval,
            "interval_confidence": 1 - own.main.level,
            "p": own.main.p,
            "p_helps": own.main.p_helps,
            "sentence": own.lines[-1],
        }
    first = next(iter(results.verdicts.values())).main
    overview = {
        "toy": toy,
        "decides": results.shared.quantity.key,
        "sentence": lead_sentence(results.verdicts),
        "questions": first.family,
        "methods": summaries_by_method,
    }
    return {
        metrics / "comparisons.json": json_bytes(overview),
        **files,
        metrics / "comparisons_timings.json": json_bytes({"toy": toy, **_describe_times(results)}),
        **plot_files(folder, {n: png(drawing, toy=toy) for n, drawing in methods_drawings(results.verdicts).items()}),
    }


def _describe_times(results: Results) -> dict[str, Any]:
    """Return the measured times, with the teacher's time saved by method."""
    times = {name: describe_times(results.trained, cost) for name, cost in results.costs.items()}
    saved = {name: own["teacher_seconds_saved"] for name, own in times.items()}
    return {**next(iter(times.values())), "teacher_seconds_saved": saved}
