"""What the commands say in the same words: the data, the method, the layers compared, the files written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kd.console import say


def say_sizes(data: str, sizes: Mapping[str, int], device: object, *, noun: str = "images") -> None:
    """What is there to learn from, by part, and where the models train.

    Args:
        noun: what the items are called.
    """
    *most, last = (f"{count:,} {part}" for part, count in sizes.items())
    say(f"{data}: {', '.join(most)} and {last} {noun}; training on {device}")


def say_files(files: Iterable[Path], *, but: Path) -> None:
    """Which files there are now, by folder.

    Args:
        but: a folder whose own are not worth telling.
    """
    names: dict[Path, list[str]] = {}
    for path in sorted(path for path in files if but not in path.parents):
        names.setdefault(path.parent, []).append(path.name)
    for folder, own in names.items():
        say(f"{folder}/  {', '.join(own)}")


def say_method(method: str, settings: Sequence[str]) -> None:
    """How the distilled student is going to learn."""
    say(f"method: {method} with {', '.join(settings)}")


def say_layers(pairs: Sequence[tuple[str, str]]) -> None:
    """Which layers' answers are compared, the student's and the teacher's, where any are."""
    if pairs:
        say(f"layers compared, student – teacher: {', '.join(f'{own} – {other}' for own, other in pairs)}")
