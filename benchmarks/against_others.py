"""Compare speed and memory with a tutorial's pipeline and with other libraries, in alternating fresh processes.

    pip install -e ".[bench]"
    python benchmarks/against_others.py --rounds 5 --out others.json

Two measurements: the documented pipeline from start to end, as ``python main.py`` ("ours") and as a tutorial's single
file ("obvious"); and one epoch of the student, with and without a teacher. Libraries that are not installed are listed
as missing. Every contender is a script in ``contenders/``.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measuring

sys.path.insert(0, str(Path(__file__).parent / "contenders"))
from mnist_folder import prepare

# Do not import torch while measuring: on Linux a child's peak memory starts at its parent's.

PEERS = ("torchdistill", "lightning", "skorch", "keras")
MISSING = "not installed: pip install -e '.[bench]'"
TEACHER_LIVE, TEACHER_CACHED, PLAIN = "online teacher", "cached logits", "no teacher"

Run = Callable[[], dict[str, Any]]


def measure_pipeline(
    rounds: int, epochs: int = 10, limit: int | None = None, *, cached: bool = False
) -> dict[str, Any]:
    """Measure the documented pipeline, obvious and ours, from the start of each process to its end.

    Args:
        limit: train on the first N images only, for quick trials; None uses all.
        cached: also run the obvious pipeline with cached teacher logits.

    Returns:
        medians by contender of ``seconds``, ``peak_rss`` (bytes), ``parts`` and ``test_errors``; ``ratios`` of each
        contender's time to ours, by round, and ``ratio``, their median; and the report of every run.
    """
    with _unpack_mnist() as data:
        obvious = ("contenders/obvious.py", "--data", data)
        ours = ("contenders/ours.py",)
        contenders = {"obvious": obvious, "ours": ours, "ours, bfloat16": (*ours, "--bfloat16")}
        if cached:
            contenders[f"obvious, {TEACHER_CACHED}"] = (*obvious, "--cached")
        for script in contenders.values():  # a quick run first, to warm Python's and the system's caches
            measuring.run_script(*script, *_size_flags(1, 600))
        runs = _run_rounds(
            {name: _make_runner(*script, *_size_flags(epochs, limit)) for name, script in contenders.items()}, rounds
        )
    seconds = {name: _median(reports, "process_seconds") for name, reports in runs.items()}
    ratios = {name: _ratios(reports, runs["ours"]) for name, reports in runs.items() if name != "ours"}
    return {
        "rounds": rounds,
        "epochs": epochs,
        "limit": limit,
        "seconds": seconds,
        "ratio": {name: statistics.median(by_round) for name, by_round in ratios.items()},
        "ratios": ratios,
        "peak_rss": {name: _median(reports, "peak_rss") for name, reports in runs.items()},
        "parts": {name: _medians(reports, "seconds") for name, reports in runs.items()},
        "test_errors": {name: _medians(reports, "test_errors") for name, reports in runs.items()},
        "runs": runs,
    }


def measure_student_epochs(rounds: int, epochs: int = 3, limit: int | None = None) -> dict[str, Any]:
    """Measure one epoch of the student for each installed contender.

    Returns:
        ``epoch_seconds`` (medians over the rounds) by kind of teacher and contender; ``collecting_seconds``, the
        one-off cost of cached logits; versions; ``missing`` contenders; and the report of every run.
    """
    missing = [name for name in PEERS if not importlib.util.find_spec(name)]
    scripts = {"ours": "epoch_ours", "obvious": "epoch_obvious"}
    scripts |= {name: f"peer_{name}" for name in PEERS if name not in missing}
    with _unpack_mnist() as data:
        common = ("--data", data, *_size_flags(epochs, limit))
        contenders: dict[str, Run] = {}
        for name, script in scripts.items():
            contenders[f"{name}, {TEACHER_LIVE}"] = _make_runner(f"contenders/{script}.py", *common)
            contenders[f"{name}, {PLAIN}"] = _make_runner(f"contenders/{script}.py", *common, "--no-teacher")
        cached = f"ours, {TEACHER_CACHED}"
        contenders[cached] = _make_runner("contenders/epoch_ours.py", *common, "--cached")
        runs = _run_rounds(contenders, rounds)
    return {
        "rounds": rounds,
        "epochs": epochs,
        "samples": runs[cached][0]["samples"],
        "epoch_seconds": _group_by_teacher({name: _median(reports, "epoch_seconds") for name, reports in runs.items()}),
        "collecting_seconds": _median(runs[cached], "collecting_seconds"),
        "versions": {name: runs[f"{name}, {PLAIN}"][0]["version"] for name in scripts},
        "missing": missing,
        "runs": runs,
    }


def format_pipeline(result: Mapping[str, Any]) -> str:
    """Format the result of ``measure_pipeline`` as Markdown."""
    parts = ("import", "teacher", "control", "distilled", "evaluation_and_saving")
    rows = [
        [
            name,
            f"{result['seconds'][name]:.1f}",
            *(f"{result['parts'][name][part]:.1f}" for part in parts),
            f"{result['peak_rss'][name] / 1e6:,.0f}",
        ]
        for name in result["seconds"]
    ]
    header = ["contender", "seconds in total", *(part.replace("_", " ") for part in parts), "peak memory, MB"]
    comparison = "\n".join(
        f"{name}: {result['ratio'][name]:.2f} times our time ({min(ratios):.2f} to {max(ratios):.2f})"
        for name, ratios in result["ratios"].items()
    )
    images = "60,000" if result["limit"] is None else f"{result['limit']:,}"
    size = (
        f"{_format_count(result['epochs'], 'epoch')} of 90 % of {images} images, "
        f"median of {_format_count(result['rounds'])}."
    )
    return f"{measuring.format_table(header, rows)}\n\n{size}\n{comparison}"


def format_epochs(result: Mapping[str, Any]) -> str:
    """Format the result of ``measure_student_epochs`` as Markdown."""
    rows = []
    for teacher, seconds in result["epoch_seconds"].items():
        for name, value in seconds.items():
            ratio = f"{value / seconds['ours']:.2f} ×"
            rows.append([teacher, f"{name} {result['versions'][name]}", f"{value:.3f}", ratio])
    rows += [["", name, MISSING, ""] for name in result["missing"]]
    header = ["teacher", "contender and version (ours and obvious: torch's)", "seconds per epoch", "relative to ours"]
    return (
        f"{measuring.format_table(header, rows)}\n\n{result['samples']:,} images, "
        f"median of {_format_count(result['rounds'])}. Collecting and verifying cached logits takes "
        f"{result['collecting_seconds']:.2f} s, once. Keras trains from one array in memory, as in its examples; "
        "obvious and the other libraries use torchvision's dataset."
    )


@contextmanager
def _unpack_mnist() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield str(prepare(Path(folder)))


def _size_flags(epochs: int, limit: int | None) -> tuple[str, ...]:
    return ("--epochs", str(epochs), *(() if limit is None else ("--limit", str(limit))))


def _make_runner(*command: str) -> Run:
    return lambda: measuring.run_script(*command)


def _run_rounds(contenders: Mapping[str, Run], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run all contenders in alternating rounds; return every report by contender."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}

    def record(name: str) -> Callable[[], float]:
        def run_once() -> float:
            runs[name].append(contenders[name]())
            return float(runs[name][-1]["process_seconds"])

        return run_once

    measuring.alternate({name: record(name) for name in contenders}, rounds=rounds, warm_up=0)
    return runs


def _median(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    return float(statistics.median(run[figure] for run in runs))


def _medians(runs: Sequence[Mapping[str, Any]], figures: str) -> dict[str, float]:
    return {name: _median([run[figures] for run in runs], name) for name in runs[0][figures]}


def _group_by_teacher(figures: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Turn ``{"ours, no teacher": s}`` into ``{"no teacher": {"ours": s}}``."""
    result: dict[str, dict[str, float]] = {TEACHER_LIVE: {}, TEACHER_CACHED: {}, PLAIN: {}}
    for name, value in figures.items():
        contender, teacher = name.split(", ")
        result[teacher][contender] = value
    return result


def _ratios(runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> list[float]:
    return [run["process_seconds"] / base["process_seconds"] for run, base in zip(runs, baseline, strict=True)]


def _format_count(number: int, noun: str = "round") -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, default=10, help="epochs of the whole pipeline (one student is timed for three)"
    )
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only, to try the script")
    parser.add_argument("--cached", action="store_true", help="also measure the obvious pipeline with cached logits")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for all measurements")
    arguments = parser.parse_args()
    pipeline = measure_pipeline(arguments.rounds, arguments.epochs, arguments.limit, cached=arguments.cached)
    epochs = measure_student_epochs(arguments.rounds, limit=arguments.limit)
    machine = measuring.describe_machine()  # last, because it imports torch
    print(format_pipeline(pipeline), format_epochs(epochs), json.dumps(machine), sep="\n\n")
    if arguments.out:
        report = {"machine": machine, "whole_pipeline": pipeline, "student_epochs": epochs}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
