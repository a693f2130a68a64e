"""What ``python main.py`` does, from its command line to its last file, timed in the parts that ``obvious.py`` has.

    python benchmarks/contenders/ours.py --epochs 10

Everything is written into a temporary folder. The times of the trainings are those that the run itself has kept.
"""

# ruff: noqa: E402  the clock starts before the heavy imports, for which a user waits too
import time

STARTED = time.perf_counter()

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
import main as pipeline
import measuring

IMPORTED = time.perf_counter()


def run(folder: Path, epochs: int, limit: int | None, *, bfloat16: bool) -> dict[str, Any]:
    """Run the command; the figures that ``measuring.report`` prints.

    ``distilled`` counts collecting and verifying the teacher's logits; its epochs, being a mean, do not.
    """
    settings: dict[str, Any] = {
        "epochs": epochs,
        "models-dir": folder / "models",
        "results-dir": folder / "results",
        "state-dir": folder / ".kd",
        **({} if limit is None else {"limit": limit}),
    }
    spent = _timed("prepare_distillation_data", "evaluate_all_models", "save_and_visualize_results")
    words = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    status = pipeline._cli([*words, "--bfloat16"] if bfloat16 else words)
    if status:
        raise SystemExit(status)
    total = time.perf_counter() - STARTED
    metrics = folder / "results" / "metrics"
    training = json.loads((metrics / "timings.json").read_text(encoding="utf-8"))["training_seconds"]
    tested = json.loads((metrics / "metrics.json").read_text(encoding="utf-8"))["test"]
    return {
        "seconds": {
            "total": total,
            "import": IMPORTED - STARTED,
            **training,
            "distilled": training["distilled"] + spent["prepare_distillation_data"],
            "evaluation_and_saving": spent["evaluate_all_models"] + spent["save_and_visualize_results"],
        },
        "epoch_seconds": {name: seconds / epochs for name, seconds in training.items()},
        "test_errors": {name: tested[name]["errors"] for name in training},
    }


def _timed(*names: str) -> dict[str, float]:
    """Let these functions of the pipeline note how long they take, in the dictionary returned."""
    spent: dict[str, float] = {}

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            spent[name] = time.perf_counter() - started
            return result

        return call

    for name in names:
        setattr(pipeline, name, noting(name, getattr(pipeline, name)))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, default=None, help="toy size: so many training images")
    parser.add_argument("--bfloat16", action="store_true", help="as for main.py: in the teacher's training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.epochs, arguments.limit, bfloat16=arguments.bfloat16)
    measuring.report(**figures)


if __name__ == "__main__":
    main()
