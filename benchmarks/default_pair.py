"""Test whether distillation helps the default pair: paired seeds, one teacher each, with the pipeline's functions.

    python benchmarks/default_pair.py --split val --seeds 0-9 --widths 32 64 128 256 --out val.json
    python benchmarks/default_pair.py --split test --seeds 100-109 --widths 256 --out test.json

For each seed: a teacher, then for each width a control and a distilled student with the same initial weights and
batches. Errors after the last epoch are counted on the validation images (``val``, to choose a width) or on the test
images (``test``, once, to confirm the choice). The JSON file lists the wrong images of every model. One single-threaded
process per core; a seed takes about three minutes.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray

import config
import kd
import main as pipeline
from kd.evaluation.contrast import contrast_of
from kd.evaluation.paired_seeds import Interval
from kd.formatting import format_p, format_range, format_signed


def run_seed(seed: int, widths: Sequence[int], split: str, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per width: errors of the teacher, the control and the distilled student."""
    torch.set_num_threads(1)
    for name, value in overrides.items():
        setattr(config, name, value)
    config.SEED = seed
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        config.RESULTS_DIR = Path(folder)
        data = pipeline.load_and_split_data()
        teacher, *_ = pipeline.train_teacher(data.train_loader, data.val_loader)
        loaders = pipeline.prepare_distillation_data(teacher, *data[:2], data.train_subset, data.val_subset)
        eval_loader = data.val_loader if split == "val" else data.test_loader
        rows = []
        for width in widths:
            config.STUDENT_WIDTH = width
            students = pipeline.train_students(teacher, *data[:2], *loaders)
            models = {"teacher": teacher, "control": students[0], "distilled": students[1]}
            wrong = {name: kd.predict(model, eval_loader).wrong for name, model in models.items()}
            errors = {name: int(mask.sum()) for name, mask in wrong.items()}
            seconds = {"control": students[2].seconds, "distilled": students[3].seconds}
            items = {name: mask.nonzero().flatten().tolist() for name, mask in wrong.items()}
            rows.append({"seed": seed, "width": width, "errors": errors, "seconds": seconds, "wrong_images": items})
    return rows


def summarise(rows: list[dict[str, Any]], images: int) -> str:
    """Return a Markdown table by width: errors (mean ± standard deviation), difference with both intervals, p."""
    lines = [
        "| student width | n | teacher | control | distilled | difference (new images) | p | these images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for width in dict.fromkeys(row["width"] for row in rows):
        of_width = [row for row in rows if row["width"] == width]
        columns = [[row["errors"][name] for row in of_width] for name in ("teacher", "control", "distilled")]
        cells = [f"{statistics.mean(errors):.1f} ± {statistics.stdev(errors):.1f}" for errors in columns]
        contrast = contrast_of(
            np.stack([_mark(row, "distilled", images) - _mark(row, "control", images) for row in of_width])
        )
        difference = f"{format_signed(contrast.mean)} ({_format_interval(contrast.interval())})"
        seeds = _format_interval(contrast.seeds_interval())
        cells = [str(width), str(len(of_width)), *cells, difference, format_p(contrast.p), seeds]
        lines.append(f"| {' | '.join(cells)} |")
    note = f"Errors of {images:,} images; difference = distilled − control; 95 % intervals."
    return "\n".join([*lines, "", note])


def _mark(row: dict[str, Any], model: str, images: int) -> NDArray[np.float64]:
    """Return 1 for each image that the model classifies wrongly, else 0."""
    wrong = np.zeros(images)
    wrong[row["wrong_images"][model]] = 1
    return wrong


def _format_interval(interval: Interval | None) -> str:
    return format_range(*interval) if interval else "none"


def _parse_seeds(text: str) -> Sequence[int]:
    """Return the seeds of FIRST-LAST; a single one has no spread, so its table cannot be made."""
    first, _, last = text.partition("-")
    seeds = range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else ()
    if len(seeds) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} must be FIRST-LAST with at least two seeds, such as 0-9")
    return seeds


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--seeds", type=_parse_seeds, default="0-9", help="FIRST-LAST, both included, at least two")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--epochs", type=int, default=config.EPOCHS)
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only, to try the script")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for all rows")
    return parser.parse_args()


def main() -> None:
    arguments = _parse_arguments()
    overrides = {"EPOCHS": arguments.epochs, "LIMIT": arguments.limit, "DEVICE": torch.device("cpu")}
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run_seed, seed, arguments.widths, arguments.split, overrides) for seed in arguments.seeds]
        for job in jobs:
            rows.extend(job.result())
            print(json.dumps({name: rows[-1][name] for name in ("seed", "width", "errors")}), flush=True)
    images = 10_000 if arguments.split == "test" else round((arguments.limit or 60_000) * config.TEST_SIZE)
    table = summarise(rows, images)
    report = {
        "split": arguments.split,
        "epochs": arguments.epochs,
        "temperature": config.TEMPERATURE,
        "alpha": config.ALPHA,
        "torch": torch.__version__,
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, one thread per process",
        "table": table,
        "rows": rows,
    }
    kd.publish({arguments.out: (json.dumps(report, indent=1) + "\n").encode()})
    print(table)


if __name__ == "__main__":
    main()
