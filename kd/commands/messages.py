"""Messages that several commands print: the data, the method, the layers compared, the files written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kd.console import say


def say_sizes(data: str, sizes: Mapping[str, int], device: object, *, noun: str = "images") -> None:
    """Print the number of samples in each split, and the device.

    Args:
        noun: word for the samples, such as "images".
    """
    *most, last = (f"{count:,} {split}" for split, count in sizes.items())
    say(f"{data}: {', '.join(most)} and {last} {noun}; training on {device}")


def say_files(files: Iterable[Path], *, but: Path) -> None:
    """Print the names of written files, a line per folder.

    Args:
        but: folder whose files are not listed.
    """
    names_of: dict[Path, list[str]] = {}
    for path in sorted(path for path in files if but not in path.parents):
        names_of.setdefault(path.parent, []).append(path.name)
    for folder, names in names_of.items():
        say(f"{folder}/  {', '.join(names)}")


def say_method(method: str, settings: Sequence[str]) -> None:
    """Print the distillation method and its settings."""
    say(f"method: {method}" + (f" with {', '.join(settings)}" if settings else ""))


def say_layers(pairs: Sequence[tuple[str, str]]) -> None:
    """Print the pairs of student and teacher layers whose outputs the method compares, if any."""
    if pairs:
        say(f"layers compared, student – teacher: {', '.join(f'{student} – {teacher}' for student, teacher in pairs)}")
