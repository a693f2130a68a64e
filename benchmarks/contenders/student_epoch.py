"""Utilities of the contenders for one epoch of the student: arguments, data, networks, report.

Each contender trains the small student with batches of 128, Adam, the same loss and without validation. The teacher is
convolutional with random weights, because time does not depend on them. Each contender records the epoch's mean
training loss in the way that its library documents, and prints the median seconds per epoch. The first epoch includes
the warm-up and counts only if it is the only one.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

from obvious import BATCH_SIZE, Student, Teacher, load_mnist

sys.path.insert(0, str(Path(__file__).parent.parent))
import measuring


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every contender."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by mnist_folder.py")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only")
    parser.add_argument("--no-teacher", action="store_true", help="train the plain student on cross-entropy alone")
    return parser


def load_images(arguments: argparse.Namespace) -> Dataset[Any]:
    """Load the training images as torchvision users do: decoded, scaled and normalised one by one."""
    training = load_mnist(arguments.data, train=True)
    return training if arguments.limit is None else Subset(training, range(arguments.limit))


def make_loader(arguments: argparse.Namespace) -> DataLoader[Any]:
    """Return a shuffled loader over the training images with torch's defaults."""
    return DataLoader(load_images(arguments), batch_size=BATCH_SIZE, shuffle=True)


def make_networks() -> tuple[Teacher, Student]:
    """Return a frozen teacher in eval mode, and a student to train."""
    teacher = Teacher().eval()
    teacher.requires_grad_(False)
    return teacher, Student()


def print_report(seconds: Sequence[float], samples: int, version: str, **more: Any) -> None:
    """Print a contender's last line, given the seconds of each epoch."""
    median = statistics.median(seconds[1:] or seconds)
    measuring.print_report(epoch_seconds=median, samples=samples, version=version, **more)
