"""This project's speed and memory against a tutorial's and against other libraries', in fresh processes that alternate.

    pip install -e ".[bench]"
    python benchmarks/against_others.py --rounds 5 --out others.json

Two questions. How long does a user wait for the documented pipeline, done by ``python main.py`` and by a tutorial's one
file? And how long is one epoch of the student, with and without a teacher? A library that is not installed is named as
such. Everything measured is in ``contenders/``, each a script of its own.
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

# torch stays out of this process while it measures: on Linux a child's peak memory starts at that of its parent.

PEERS = ("torchdistill", "lightning", "skorch", "keras")
MISSING = "not installed: pip install -e '.[bench]'"
TEACHER_LIVE, TEACHER_CACHED, PLAIN = "teacher asked at each step", "teacher's logits cached", "no teacher"

Run = Callable[[], dict[str, Any]]


def whole_pipeline(rounds: int, epochs: int = 10, limit: int | None = None, *, cached: bool = False) -> dict[str, Any]:
    """The documented pipeline, obvious and ours, each from the start of its process to its end.

    Args:
        limit: toy size; None uses all images.
        cached: let a third contender run, the obvious one that asks its teacher once for each image.

    Returns: medians by contender of ``seconds``, ``peak_rss`` (bytes), ``parts`` and ``test_errors``; ``ratios``, how
    many times as long as ours each takes in each round, and ``ratio``, their median; and every run.
    """
    with _mnist() as data:
        obvious = ("contenders/obvious.py", "--data", data)
        ours = ("contenders/ours.py",)
        contenders = {"obvious": obvious, "ours": ours, "ours, bfloat16": (*ours, "--bfloat16")}
        if cached:
            contenders[f"obvious, {TEACHER_CACHED}"] = (*obvious, "--cached")
        for script in contenders.values():  # a toy first: Python's and the system's caches are as for any later run
            measuring.fresh_process(*script, *_size(1, 600))
        runs = _rounds({name: _process(*script, *_size(epochs, limit)) for name, script in contenders.items()}, rounds)
    seconds = {name: _median(of, "process_seconds") for name, of in runs.items()}
    ratios = {name: _ratios(of, runs["ours"]) for name, of in runs.items() if name != "ours"}
    return {
        "rounds": rounds,
        "epochs": epochs,
        "limit": limit,
        "seconds": seconds,
        "ratio": {name: statistics.median(each) for name, each in ratios.items()},
        "ratios": ratios,
        "peak_rss": {name: _median(of, "peak_rss") for name, of in runs.items()},
        "parts": {name: _medians(of, "seconds") for name, of in runs.items()},
        "test_errors": {name: _medians(of, "test_errors") for name, of in runs.items()},
        "runs": runs,
    }


def student_epochs(rounds: int, epochs: int = 3, limit: int | None = None) -> dict[str, Any]:
    """One epoch of the student, by each contender that is installed.

    Returns: ``epoch_seconds`` (medians over the rounds) by way of teaching and contender; ``collecting_seconds``, what
    the cached logits take once; versions; the contenders that are ``missing``; and every run.
    """
    missing = [name for name in PEERS if not importlib.util.find_spec(name)]
    scripts = {"ours": "epoch_ours", "obvious": "epoch_obvious"}
    scripts |= {name: f"peer_{name}" for name in PEERS if name not in missing}
    with _mnist() as data:
        common = ("--data", data, *_size(epochs, limit))
        contenders: dict[str, Run] = {}
        for name, script in scripts.items():
            contenders[f"{name}, {TEACHER_LIVE}"] = _process(f"contenders/{script}.py", *common)
            contenders[f"{name}, {PLAIN}"] = _process(f"contenders/{script}.py", *common, "--no-teacher")
        cached = f"ours, {TEACHER_CACHED}"
        contenders[cached] = _process("contenders/epoch_ours.py", *common, "--cached")
        runs = _rounds(contenders, rounds)
    return {
        "rounds": rounds,
        "epochs": epochs,
        "samples": runs[cached][0]["samples"],
        "epoch_seconds": _by_teaching({name: _median(of, "epoch_seconds") for name, of in runs.items()}),
        "collecting_seconds": _median(runs[cached], "collecting_seconds"),
        "versions": {name: runs[f"{name}, {PLAIN}"][0]["version"] for name in scripts},
        "missing": missing,
        "runs": runs,
    }


def pipeline_table(result: Mapping[str, Any]) -> str:
    """``whole_pipeline`` as Markdown."""
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
    header = ["contender", "seconds in all", *(part.replace("_", " ") for part in parts), "peak memory, MB"]
    compared = "\n".join(
        f"{name}: {result['ratio'][name]:.2f} × as long as ours ({min(each):.2f} to {max(each):.2f})"
        for name, each in result["ratios"].items()
    )
    images = "60,000" if result["limit"] is None else f"{result['limit']:,}"
    size = f"{_counted(result['epochs'], 'epoch')} of 90 % of {images} images, median of {_counted(result['rounds'])}."
    return f"{measuring.table(header, rows)}\n\n{size}\n{compared}"


def epochs_table(result: Mapping[str, Any]) -> str:
    """``student_epochs`` as Markdown."""
    rows = []
    for teaching, seconds in result["epoch_seconds"].items():
        for name, value in seconds.items():
            times = f"{value / seconds['ours']:.2f} ×"
            rows.append([teaching, f"{name} {result['versions'][name]}", f"{value:.3f}", times])
    rows += [["", name, MISSING, ""] for name in result["missing"]]
    header = ["teacher", "contender and version (ours and obvious: torch's)", "seconds an epoch", "of ours"]
    return (
        f"{measuring.table(header, rows)}\n\n{result['samples']:,} images, median of {_counted(result['rounds'])}. "
        f"Collecting and verifying the logits that are cached takes {result['collecting_seconds']:.2f} s, once. Keras "
        "trains from one array in memory, as its examples do; obvious and the other peers from torchvision's dataset."
    )


@contextmanager
def _mnist() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield str(prepare(Path(folder)))


def _size(epochs: int, limit: int | None) -> tuple[str, ...]:
    return ("--epochs", str(epochs), *(() if limit is None else ("--limit", str(limit))))


def _process(*command: str) -> Run:
    return lambda: measuring.fresh_process(*command)


def _rounds(contenders: Mapping[str, Run], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """All that each contender's runs have reported, in alternating rounds."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}

    def noted(name: str) -> Callable[[], float]:
        def once() -> float:
            runs[name].append(contenders[name]())
            return float(runs[name][-1]["process_seconds"])

        return once

    measuring.alternating({name: noted(name) for name in contenders}, rounds=rounds, warm_up=0)
    return runs


def _median(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    return float(statistics.median(run[figure] for run in runs))


def _medians(runs: Sequence[Mapping[str, Any]], figures: str) -> dict[str, float]:
    return {name: _median([run[figures] for run in runs], name) for name in runs[0][figures]}


def _by_teaching(figures: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """``{"ours, no teacher": s}`` as ``{"no teacher": {"ours": s}}``."""
    result: dict[str, dict[str, float]] = {TEACHER_LIVE: {}, TEACHER_CACHED: {}, PLAIN: {}}
    for name, value in figures.items():
        contender, teaching = name.split(", ")
        result[teaching][contender] = value
    return result


def _ratios(runs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> list[float]:
    return [one["process_seconds"] / other["process_seconds"] for one, other in zip(runs, ours, strict=True)]


def _counted(number: int, what: str = "round") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of the whole pipeline; the student's epochs are three")
    parser.add_argument("--limit", type=int, default=None, help="toy size, to try the script")
    parser.add_argument("--cached", action="store_true", help="also the obvious pipeline with the logits cached")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of everything measured")
    arguments = parser.parse_args()
    pipeline = whole_pipeline(arguments.rounds, arguments.epochs, arguments.limit, cached=arguments.cached)
    epochs = student_epochs(arguments.rounds, limit=arguments.limit)
    machine = measuring.machine()  # last: it imports torch
    print(pipeline_table(pipeline), epochs_table(epochs), json.dumps(machine), sep="\n\n")
    if arguments.out:
        report = {"machine": machine, "whole_pipeline": pipeline, "student_epochs": epochs}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
