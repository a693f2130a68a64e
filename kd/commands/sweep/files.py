"""Output files of ``kd sweep``: results as JSON, one CSV row per student, times, and the map as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd.commands.judgement_json import describe_judgement
from kd.commands.publish import csv_bytes, json_bytes, plot_files, quick_run_stamp
from kd.commands.sweep.plots import map_drawing
from kd.commands.sweep.points import Point, Score, TriedPoint
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import lines
from kd.evaluation.paired_seeds import Pairs, spread
from kd.report.style import png
from kd.storage.environment import versions


def sweep_files(
    folder: Path, sweep: Sweep, config: Mapping[str, Any], seconds: Mapping[str, float], *, limit: int | None
) -> dict[Path, bytes]:
    """Return path → content of ``metrics/sweep.json``, ``sweep.csv``, ``sweep_timings.json``, ``plots/sweep.png``.

    Args:
        folder: the results folder.
        config: the settings of the sweep.
        seconds: training time of each student by name.
        limit: the number of training images of a quick run, else None.
    """
    toy, metrics = quick_run_stamp(limit), folder / "metrics"
    times = {name: round(value, 3) for name, value in sorted(seconds.items())}  # trained in any order
    return {
        metrics / "sweep.json": json_bytes({"toy": toy, "config": dict(config), **_summarize(sweep)}),
        metrics / "sweep.csv": csv_bytes({"run": toy or "full", **row} for row in student_rows(sweep)),
        metrics / "sweep_timings.json": json_bytes({"toy": toy, "training_seconds": times}),
        **plot_files(folder, {"sweep": png(map_drawing(sweep), toy=toy)}),
    }


def student_rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Yield one row per student: first the students of the selection, without test scores, then the tested ones.

    Controls have no temperature.
    """
    for trial in sweep.tried:
        for seed, score in zip(sweep.seeds, trial.scores, strict=True):
            yield {
                "part": "tried",
                **_describe_point(sweep, trial.point),
                "seed": seed,
                **_score_columns(sweep, "validation", score),
                **_score_columns(sweep, "test", None),
            }
    for point, finals in sweep.finals.items():
        for seed, final in zip(sweep.final_seeds, finals, strict=True):
            scores = _score_columns(sweep, "validation", final.validation) | _score_columns(sweep, "test", final.test)
            yield {"part": "final", **_describe_point(sweep, point), "seed": seed, **scores}


def _describe_point(sweep: Sweep, point: Point) -> dict[str, Any]:
    settings = _point_settings(sweep, point)
    return {
        "roles": " ".join(sweep.roles_of(point)),
        **{name: "" if value is None and name not in dict(point.others) else value for name, value in settings.items()},
    }


def _score_columns(sweep: Sweep, split: str, score: Score | None) -> dict[str, Any]:
    """Return the columns of a score; values are empty if the loss was not finite."""
    names = [name for name in Score._fields if name != "balanced_error" or not sweep.decides_by_errors]
    return {f"{split}_{name}": getattr(score, name, "") for name in names}


def _summarize(sweep: Sweep) -> dict[str, Any]:
    judgement = sweep.judgement()
    return {
        "environment": versions(),
        "lines": lines(sweep),
        "decides": sweep.quantity.key,
        "failures": sweep.failures,
        "roles": {role: _point_settings(sweep, point) for role, point in sweep.roles.items()},
        "rates": {role: sweep.rates(point)._asdict() for role, point in sweep.roles.items()},
        "verdict": judgement and {"on": sweep.judged_role(), **describe_judgement(judgement, _judged_pairs(sweep))},
        "chosen_against_documented": sweep.pairs(sweep.roles["chosen"], sweep.roles["documented"])._asdict(),
        "final_seeds": list(sweep.final_seeds),
        "test_errors": {
            role: spread([final.test.errors for final in sweep.finals[point]])._asdict()
            for role, point in sweep.roles.items()
        },
        "seeds": list(sweep.seeds),
        "points": [_describe_tried(sweep, trial) for trial in sweep.ordered],
    }


def _judged_pairs(sweep: Sweep) -> Pairs:
    role = sweep.judged_role()
    assert role is not None
    return sweep.pairs(sweep.roles[role], sweep.roles["control"])


def _point_settings(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Return the values of all varied settings; those of the method are None for a control."""
    names = dict.fromkeys(name for trial in sweep.tried for name, _ in trial.point.method or ())
    grid = {"temperature": point.temperature, "alpha": point.alpha} if point.of_kd else {"control": point.is_control}
    return {**grid, **names, **dict(point.method or ()), **dict(point.others)}


def _describe_tried(sweep: Sweep, trial: TriedPoint) -> dict[str, Any]:
    """Describe a tried point, with mean and deviation of what decides; values are None if a loss was not finite."""
    balanced = {"validation_balanced_error": [score and score.balanced_error for score in trial.scores]}
    if sweep.decides_by_errors:
        balanced = {}
    return {
        **_point_settings(sweep, trial.point),
        "validation_errors": [score and score.errors for score in trial.scores],
        **balanced,
        "mean": trial.mean if trial.finite else None,
        "sd": trial.sd if trial.finite else None,
        "cross_entropy": trial.cross_entropy if trial.finite else None,
    }
