"""What a person sees while it runs: a live bar with the time left on a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:  # importing torch would take seconds that an error message has no use for
    from kd.training.history import History

_live: list[Console] = []  # the console of the bar on the screen: whoever prints past it writes into the bar
_relays: list[Callable[[int], None]] = []  # in a worker process: where steps are counted instead


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print one line or paragraph, unstyled where the output is not a terminal."""
    if _relays and not to_stderr:
        return
    console = _live[-1] if _live and not to_stderr else Console(stderr=to_stderr)
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


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


@contextmanager
def relayed(advance: Callable[[int], None]) -> Iterator[None]:
    """Inside the block only errors are printed, and a bar's steps are told to ``advance``: for a worker process."""
    _relays.append(advance)
    try:
        yield
    finally:
        _relays.pop()


class Advance(Protocol):
    def __call__(self, steps: int = 1, /) -> None:
        """Move the bar on by so many steps."""


def say_method(method: str, settings: Sequence[str]) -> None:
    """How the distilled student is going to learn."""
    say(f"method: {method} with {', '.join(settings)}")


def say_layers(pairs: Sequence[tuple[str, str]]) -> None:
    """Which layers' answers are compared, the student's and the teacher's, where any are."""
    if pairs:
        say(f"layers compared, student – teacher: {', '.join(f'{own} – {other}' for own, other in pairs)}")


@contextmanager
def progress(title: str, *, steps: int, done: int = 0) -> Iterator[Advance]:
    """A bar over ``steps`` steps, so many of them ``done`` before; yields the function that advances it.

    Silent where there is no terminal.
    """
    if _relays:
        _relays[-1](done)
        yield lambda steps=1: _relays[-1](steps)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=steps, completed=done)
        _live.append(console)
        try:
            yield lambda steps=1: bars.advance(task, steps)
        finally:
            _live.pop()


def epoch_line(title: str, epochs: int) -> Callable[[int, History], None]:
    """An ``on_epoch`` hook that prints one line: losses and accuracies of training and any validation, time so far."""

    def on_epoch(done: int, history: History) -> None:
        parts = (
            f"{split} loss {history[f'{split}_loss'][-1]:.4f} accuracy {history[f'{split}_acc'][-1]:.2%}"
            for split in ("train", "val")
            if f"{split}_loss" in history
        )
        say(f"{title:<10} epoch {done:>{len(str(epochs))}}/{epochs}  {'  '.join(parts)}  {history.seconds:.0f} s")

    return on_epoch


def print_table(title: str, header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """A table with a name at the head of each row and right-aligned cells."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    # Off the terminal rich assumes 80 columns and cuts the cells; a file has no width.
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 10_000).print(table)
