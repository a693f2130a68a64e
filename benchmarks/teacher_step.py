"""What the teacher's memory format, order of pooling and kind of dropout are worth: a training step, alternating.

    python benchmarks/teacher_step.py --rounds 30

As written (channels last, pooling right after the convolution, whole maps dropped), and with each of the three done the
other way; and two ways not taken: bfloat16, which is fast where the processor multiplies in it, and with ``--compile``
torch.compile, which needs a C++ compiler and seconds to start. Prints the median of each.
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
    """The textbook order: norm and ReLU on the whole map, then pooling."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).relu()
        x = self.dropout_maps(self.pool(self.norm2(self.conv2(x)).relu()))
        x = self.dropout_maps(self.norm3(self.conv3(x)).relu())
        x = self.hidden(x.flatten(1)).relu()
        logits: Tensor = self.output(self.dropout_hidden(x))
        return logits


class DropoutOfValues(TeacherModel):
    """A random number for each value of a map instead of one for the map."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout_maps = nn.Dropout(0.1)  # type: ignore[assignment]  # of another kind, on purpose


def stepper(model: nn.Module, precision: torch.dtype | None = None) -> Callable[[], None]:
    """One training step on a fixed batch; its forward pass in the precision given, where torch thinks that safe."""
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
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    bytearray(30 << 20)  # a large block, freed: glibc then keeps what a step frees, as it does once MNIST was loaded
    with kd.seeded(0):
        steps = {
            "as written": stepper(TeacherModel()),
            "default memory format": stepper(TeacherModel().to(memory_format=torch.contiguous_format)),
            "pooling last": stepper(PoolLast()),
            "dropout of values": stepper(DropoutOfValues()),
            "bfloat16 autocast": stepper(TeacherModel(), precision=torch.bfloat16),
        }
        if arguments.compile:
            steps["torch.compile"] = stepper(torch.compile(TeacherModel()))  # type: ignore[arg-type]
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
