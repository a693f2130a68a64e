"""What the contenders for one epoch of the student share: arguments, data, networks, report.

Each trains the small student from a convolutional teacher with random weights (time does not depend on what they know),
batches of 128, Adam, the same loss, no validation. Each keeps the epoch's mean training loss in its own documented way,
and prints the median seconds of an epoch; the first, which pays for warming up, counts only if it is the only one.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

from obvious import BATCH_SIZE, Student, Teacher, mnist

sys.path.insert(0, str(Path(__file__).parent.parent))
import measuring


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every contender."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data", type=Path, required=True, help="what mnist_folder.py has made")
    result.add_argument("--epochs", type=int, default=3)
    result.add_argument("--limit", type=int, default=None, help="toy size: the first so many training images")
    result.add_argument("--no-teacher", action="store_true", help="the plain student, on cross-entropy alone")
    return result


def images(arguments: argparse.Namespace) -> Dataset[Any]:
    """The training images as torchvision's users have them: decoded, scaled and normalised one by one."""
    training = mnist(arguments.data, train=True)
    return training if arguments.limit is None else Subset(training, range(arguments.limit))


def loader(arguments: argparse.Namespace) -> DataLoader[Any]:
    """Over the training images, shuffled, with torch's defaults."""
    return DataLoader(images(arguments), batch_size=BATCH_SIZE, shuffle=True)


def networks() -> tuple[Teacher, Student]:
    """A frozen teacher in eval mode, and a student to be trained."""
    teacher = Teacher().eval()
    teacher.requires_grad_(False)
    return teacher, Student()


def report(seconds: Sequence[float], samples: int, version: str, **more: Any) -> None:
    """The last line of a contender, given the seconds of each epoch."""
    median = statistics.median(seconds[1:] or seconds)
    measuring.report(epoch_seconds=median, samples=samples, version=version, **more)
