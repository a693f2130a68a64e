"""Measure the effect of the teacher's memory format, pooling order and kind of dropout on a training step.

    python benchmarks/teacher_step.py --rounds 30

The teacher as written uses channels last, pooling right after the convolution and dropout of whole maps. Variants
reverse one of these choices. Two more use options that the pipeline does not: bfloat16, which is fast on processors
with bfloat16 units, and (``--compile``) torch.compile, which needs a C++ compiler and seconds to start. Steps
alternate; medians are printed.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import config
import kd
from kd.training.optimizers import adam
from models import TeacherModel


class PoolLast(TeacherModel):
    """Teacher with the textbook order: norm and ReLU on the whole map, then pooling."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).relu()
        x = self.dropout_maps(self.pool(self.norm2(self.conv2(x)).relu()))
        x = self.dropout_maps(self.norm3(self.conv3(x)).relu())
        x = self.hidden(x.flatten(1)).relu()
        logits: Tensor = self.output(self.dropout_hidden(x))
        return logits


class DropoutOfValues(TeacherModel):
    """Teacher that drops single values instead of whole maps."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout_maps = nn.Dropout(0.1)  # type: ignore[assignment]  # another kind of dropout, on purpose


def make_step(model: nn.Module, precision: torch.dtype | None = None) -> Callable[[], None]:
    """Return a training step on a fixed batch, with autocast to ``precision`` in the forward pass."""
    optimizer, _ = adam(model, learning_rate=config.LEARNING_RATE, steps=1000)
    images, labels = torch.randn(config.BATCH_SIZE, 1, 28, 28), torch.randint(10, (config.BATCH_SIZE,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each variant")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    bytearray(30 << 20)  # freeing a large block makes glibc keep memory that a step frees, as after loading MNIST
    with kd.seeded(0):
        steps = {
            "as written": make_step(TeacherModel()),
            "default memory format": make_step(TeacherModel().to(memory_format=torch.contiguous_format)),
            "pooling last": make_step(PoolLast()),
            "dropout of values": make_step(DropoutOfValues()),
            "bfloat16 autocast": make_step(TeacherModel(), precision=torch.bfloat16),
        }
        if arguments.compile:
            steps["torch.compile"] = make_step(torch.compile(TeacherModel()))  # type: ignore[arg-type]
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(rounds + 3):  # the first three are warm-up
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if turn >= 3:
                    seconds[name].append(time.perf_counter() - started)
    print(f"{platform.platform()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    best = statistics.median(seconds["as written"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<38} {1000 * median:6.1f} ms a step   {median / best:.2f} ×")


if __name__ == "__main__":
    main()
