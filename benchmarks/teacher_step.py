"""Measure the effect of the teacher's memory format, pooling order and kind of dropout on a training step.

    python benchmarks/teacher_step.py --rounds 30

The teacher as written uses channels last, pooling right after the convolution and dropout of whole maps. Variants
reverse one of these choices. Two more use options that the pipeline does not: bfloat16, which is fast on processors
with bfloat16 units, and (``--compile``) torch.compile, which needs a C++ compiler and seconds to start. Steps
alternate; medians are printed.

A profile of the step as written follows: the share of each operation, and for convolutions the rate in GFLOP/s, to
compare with that of a large matrix product.
"""

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else the profiler prints that it found no GPU

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import config
import kd
from epochs import measure_product_rate
from kd.training.optimizers import adam
from measuring import format_table
from models import TeacherModel

BACKWARD = "aten::convolution_backward"
CONVOLUTIONS = {"aten::mkldnn_convolution": "forward", BACKWARD: "backward"}


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


def profile_step(step: Callable[[], None], rounds: int) -> list[list[str]]:
    """Return the rows of a table: convolutions by layer, all other operations together, and a matrix product."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(rounds):
            step()
    events = profiler.key_averages(group_by_input_shape=True)
    total = sum(event.self_cpu_time_total for event in events)
    rows, remaining = [], total
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total):
        if event.key in CONVOLUTIONS:
            remaining -= event.self_cpu_time_total
            microseconds = event.self_cpu_time_total / rounds
            name = f"convolution {format_weight(event)}, {CONVOLUTIONS[event.key]}"
            rate = count_operations(event, events) / microseconds / 1000
            rows.append(
                [name, f"{microseconds / 1000:.2f} ms", f"{event.self_cpu_time_total / total:.0%}", f"{rate:.0f}"]
            )
    rows.append(["all else", f"{remaining / rounds / 1000:.2f} ms", f"{remaining / total:.0%}", ""])
    return [*rows, ["matrix product, 1024 × 1024", "", "", f"{measure_product_rate() / 1e9:.0f}"]]


def format_weight(event: Any) -> str:
    outputs, inputs, height, width = weight_shape(event)
    return f"{inputs} to {outputs} channels, {height} × {width}"


def weight_shape(event: Any) -> list[int]:
    shape: list[int] = event.input_shapes[2 if event.key == BACKWARD else 1]
    return shape


def count_operations(event: Any, events: Iterable[Any]) -> int:
    """Return the FLOPs of a convolution's forward or backward pass; the first layer's input needs no gradient."""
    weight = weight_shape(event)
    gradient = next(e.input_shapes[0] for e in events if e.key == BACKWARD and weight_shape(e) == weight)
    forward: int = 2 * math.prod(weight) * gradient[0] * gradient[2] * gradient[3]
    return forward * (2 if event.key == BACKWARD and weight[1] > 1 else 1)


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
    print(format_table(["operation", "time", "share", "GFLOP/s"], profile_step(steps["as written"], rounds)))


if __name__ == "__main__":
    main()
