"""What the teacher's memory format and order of pooling are worth: seconds per training step, alternating.

    python benchmarks/teacher_step.py --rounds 30

Three variants of a network with the same layers: as written (channels last, pooling right after the convolution), the
same in PyTorch's default memory format, and that with pooling after norm and ReLU, as tutorials write it. Prints the
median of each.
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
from torch import Tensor

import config
import kd
from models import TeacherModel


class PoolLast(TeacherModel):
    """The textbook order: norm and ReLU on the whole map, then pooling."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.dropout_conv(self.pool(self.norm1(self.conv1(images)).relu()))
        x = self.dropout_conv(self.pool(self.norm2(self.conv2(x)).relu()))
        x = self.dropout_conv(self.norm3(self.conv3(x)).relu())
        x = self.hidden(x.flatten(1)).relu()
        logits: Tensor = self.output(self.dropout_hidden(x))
        return logits


def stepper(model: torch.nn.Module) -> Callable[[], None]:
    """One training step on a fixed batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    images, labels = torch.randn(config.BATCH_SIZE, 1, 28, 28), torch.randint(10, (config.BATCH_SIZE,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each variant")
    rounds = parser.parse_args().rounds
    with kd.seeded(0):
        steps = {
            "as written": stepper(TeacherModel()),
            "default memory format": stepper(TeacherModel().to(memory_format=torch.contiguous_format)),
            "default format, pooling last": stepper(PoolLast().to(memory_format=torch.contiguous_format)),
        }
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
