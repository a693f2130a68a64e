"""What ``kd sweep`` leaves on disk: everything as JSON, every student as a row of a table, the map as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd.commands.paired_table import describe_tests
from kd.commands.publish import csv_bytes, json_bytes, plot_files, toy_stamp
from kd.commands.sweep.plots import sweep_map
from kd.commands.sweep.points import Point, Score, Tried
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import lines
from kd.evaluation.paired_seeds import spread
from kd.report.style import png
from kd.storage.environment import versions


def sweep_files(
    folder: Path, sweep: Sweep, config: Mapping[str, Any], seconds: Mapping[str, float], *, limit: int | None
) -> dict[Path, bytes]:
    """``metrics/sweep.json`` and ``sweep.csv``, the times in a file of their own, and ``plots/sweep.png``.

    Args:
        folder: of the results.
        config: the settings that the sweep was run with.
        seconds: what the training of each student took, by its name.
        limit: the number of training images if it was a toy run, else None.
    """
    toy, metrics = toy_stamp(limit), folder / "metrics"
    times = {name: round(value, 3) for name, value in seconds.items()}
    return {
        metrics / "sweep.json": json_bytes({"toy": toy, "config": dict(config), **_summary(sweep)}),
        metrics / "sweep.csv": csv_bytes({"run": toy or "full", **row} for row in student_rows(sweep)),
        metrics / "sweep_timings.json": json_bytes({"toy": toy, "training_seconds": times}),
        **plot_files(folder, {"sweep": png(sweep_map(sweep), toy=toy)}),
    }


def student_rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """One row per student: those by which points were judged, without test errors, and the final ones.

    The control has no temperature.
    """
    for tried in sweep.tried:
        for seed, score in zip(sweep.seeds, tried.scores, strict=True):
            yield {"part": "tried", **_named(sweep, tried.point), "seed": seed, **_scores("validation", score)} | {
                "test_errors": "",
                "test_cross_entropy": "",
            }
    for point, finals in sweep.finals.items():
        for seed, final in zip(sweep.final_seeds, finals, strict=True):
            scores = _scores("validation", final.validation) | _scores("test", final.test)
            yield {"part": "final", **_named(sweep, point), "seed": seed, **scores}


def _named(sweep: Sweep, point: Point) -> dict[str, Any]:
    temperature = "" if point.temperature is None else point.temperature
    return {
        "roles": " ".join(sweep.roles_of(point)),
        "temperature": temperature,
        "alpha": point.alpha,
        **dict(point.others),
    }


def _scores(part: str, score: Score | None) -> dict[str, Any]:
    """Empty where the loss was not finite."""
    return {f"{part}_{name}": getattr(score, name, "") for name in ("errors", "cross_entropy")}


def _summary(sweep: Sweep) -> dict[str, Any]:
    judgement = sweep.judgement()
    return {
        "environment": versions(),
        "lines": lines(sweep),
        "roles": {role: _point(point) for role, point in sweep.roles.items()},
        "rates": {role: sweep.rates(point)._asdict() for role, point in sweep.roles.items()},
        "verdict": judgement and {"on": sweep.judged(), "verdict": judgement.verdict, **describe_tests(judgement)},
        "chosen_against_documented": sweep.pairs(sweep.roles["chosen"], sweep.roles["documented"])._asdict(),
        "final_seeds": list(sweep.final_seeds),
        "test_errors": {
            role: spread([final.test.errors for final in sweep.finals[point]])._asdict()
            for role, point in sweep.roles.items()
        },
        "seeds": list(sweep.seeds),
        "points": [_tried(each) for each in sweep.ordered],
    }


def _point(point: Point) -> dict[str, Any]:
    return {"temperature": point.temperature, "alpha": point.alpha, **dict(point.others)}


def _tried(tried: Tried) -> dict[str, Any]:
    """Best first; None for what the loss of a student did not live to see."""
    return {
        **_point(tried.point),
        "validation_errors": [score and score.errors for score in tried.scores],
        "mean": tried.mean if tried.finite else None,
        "sd": tried.sd if tried.finite else None,
        "cross_entropy": tried.cross_entropy if tried.finite else None,
    }
