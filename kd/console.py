"""What a person sees while it runs: a live bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

_live: list[Console] = []  # the console of the bar on the screen: whoever prints past it writes into the bar
_relays: list[Callable[[int], None]] = []  # in a worker process: where steps are counted instead


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print one line or paragraph, unstyled where the output is not a terminal."""
    if _relays and not to_stderr:
        return
    console = _live[-1] if _live and not to_stderr else Console(stderr=to_stderr)
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


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
