"""Measure the cost of snapshots: the time to write one, as a fraction of the interval between two.

    python benchmarks/snapshots.py --writes 20

Trains the teacher with Adam for one step and writes its whole training state repeatedly into the given folder. Prints
the median and worst time of a write, its size, and the fraction of training time at the default interval.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import config
import kd
from kd.storage.snapshots import INTERVAL, Snapshots
from kd.training.history import Position
from models import TeacherModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure"
    )
    arguments = parser.parse_args()
    model = TeacherModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    images, labels = torch.randn(config.BATCH_SIZE, 1, 28, 28), torch.randint(10, (config.BATCH_SIZE,))
    _, terms = kd.supervised(model, (images, labels))
    terms["hard"].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    parts = {"model": model, "optimizer": optimizer}
    seconds = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        snapshots = Snapshots(Path(folder) / "teacher", key="benchmark")
        for _ in range(arguments.writes):
            started = time.perf_counter()
            snapshots.write(Position().state(parts, torch.device("cpu")))
            seconds.append(time.perf_counter() - started)
        size = max(path.stat().st_size for path in (Path(folder) / "teacher").iterdir())
    median, worst = statistics.median(seconds), max(seconds)
    print(f"{platform.platform()}, torch {torch.__version__}, {arguments.writes} writes of {size:,} bytes")
    print(f"one write: median {1000 * median:.0f} ms, worst {1000 * worst:.0f} ms")
    print(f"one every {INTERVAL:g} s costs {median / INTERVAL:.2%} of training time (worst {worst / INTERVAL:.2%})")


if __name__ == "__main__":
    main()
