"""Time ``python main.py`` from its command line to its last file, in the same parts as ``obvious.py``.

    python benchmarks/contenders/ours.py --epochs 10

Files go into a temporary folder. Training times are read from the run's own ``timings.json``.
"""

# ruff: noqa: E402  the clock starts before the heavy imports, because users wait for them too
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
    """Run the command and return the figures for ``measuring.print_report``.

    The seconds of ``distilled`` include collecting and verifying the teacher's logits; its epoch seconds do not.
    """
    settings: dict[str, Any] = {
        "epochs": epochs,
        "models-dir": folder / "models",
        "results-dir": folder / "results",
        "state-dir": folder / ".kd",
        **({} if limit is None else {"limit": limit}),
    }
    function_seconds = _time_functions("prepare_distillation_data", "evaluate_all_models", "save_and_visualize_results")
    arguments = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    status = pipeline._cli([*arguments, "--bfloat16"] if bfloat16 else arguments)
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
            "distilled": training["distilled"] + function_seconds["prepare_distillation_data"],
            "evaluation_and_saving": function_seconds["evaluate_all_models"]
            + function_seconds["save_and_visualize_results"],
        },
        "epoch_seconds": {name: seconds / epochs for name, seconds in training.items()},
        "test_errors": {name: tested[name]["errors"] for name in training},
    }


def _time_functions(*names: str) -> dict[str, float]:
    """Wrap these functions of the pipeline; each call stores its seconds in the returned dictionary."""
    seconds: dict[str, float] = {}

    def record(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            seconds[name] = time.perf_counter() - started
            return result

        return call

    for name in names:
        setattr(pipeline, name, record(name, getattr(pipeline, name)))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only")
    parser.add_argument("--bfloat16", action="store_true", help="train the teacher in bfloat16, as in main.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.epochs, arguments.limit, bfloat16=arguments.bfloat16)
    measuring.print_report(**figures)


if __name__ == "__main__":
    main()
