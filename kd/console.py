"""Console output: lines, tables, and a progress bar with the remaining time if the output is a terminal.

rich is imported at the first output: training and prediction in a user's program need only torch and numpy, and
``kd --help`` takes a quarter less time.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_DIRECTION_MARKS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_live: list[Console] = []  # console of the visible bar; output that bypasses it would overwrite the bar
_relays: list[Callable[[int], None]] = []  # in a worker process: callbacks that receive progress steps


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print one line or paragraph, without styling. In a worker process, print errors only.

    Characters that control a terminal, which names from data may contain, are printed as escapes.

    Raises:
        OutputError: the output cannot be written.
        BrokenPipeError: its reader has ended, as head does.
    """
    if _relays and not to_stderr:
        return
    from rich.console import Console

    console = _live[-1] if _live and not to_stderr else Console(stderr=to_stderr)
    _print(console, printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return the text with control characters, direction marks and undecodable bytes as escapes like ``\\x1b``."""
    return "".join(c if c in "\n\t" or not _is_control(c) else c.encode("unicode_escape").decode() for c in text)


def printable_name(name: str) -> str:
    """Return a name from data as one line: like ``printable``, and line breaks and tabs are escapes too."""
    return printable(name).replace("\n", "\\n").replace("\t", "\\t")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs"} or character in _DIRECTION_MARKS


@contextmanager
def relay_progress(advance: Callable[[int], None]) -> Iterator[None]:
    """Inside the block, send progress steps to ``advance`` and print errors only. For worker processes."""
    _relays.append(advance)
    try:
        yield
    finally:
        _relays.pop()


class OutputError(OSError):
    """A message could not be written, for example to a full disk. (A closed pipe raises BrokenPipeError.)"""


@contextmanager
def name_output_errors() -> Iterator[None]:
    """Raise ``OutputError`` if output inside the block fails, or BrokenPipeError if its reader has ended."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, f"cannot write output: {error.strerror}. Redirect it elsewhere.") from error


def _print(console: Console, content: str | Table, **options: Any) -> None:
    with name_output_errors():
        try:
            console.print(content, **options)
        except SystemExit as error:  # by which rich ends a program whose output is a closed pipe
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error


class Advance(Protocol):
    def __call__(self, steps: int = 1, /) -> None:
        """Advance the bar by this number of steps."""


@contextmanager
def progress(title: str, *, steps: int, done: int = 0) -> Iterator[Advance]:
    """Show a progress bar inside the block and yield the function that advances it; silent without a terminal.

    Args:
        title: text before the bar.
        steps: total number of steps.
        done: steps completed earlier.
    """
    if _relays:
        _relays[-1](done)
        yield lambda steps=1: _relays[-1](steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=steps, completed=done)
        _live.append(console)
        try:
            yield lambda steps=1: bars.advance(task, steps)
        finally:
            _live.pop()


def print_table(
    title: str, header: Sequence[str], rows: Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]]
) -> None:
    """Print a table with left-aligned row names and right-aligned cells.

    If a terminal is too narrow, the columns continue in further tables below, so that none is cut off.

    Args:
        rows: cells by row name, or pairs of name and cells if names may be equal.
    """
    from rich.console import Console

    # Without a terminal rich assumes 80 columns and truncates cells, so files get a very wide console.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    table_rows = [[name, *cells] for name, cells in pairs]
    columns = [[printable(cell) for cell in column] for column in zip(header, *table_rows, strict=True)]
    first, *others = columns
    for number, part in enumerate(_split_columns(columns, console.width)):
        _print(console, _build_table("" if number else title, [first, *(others[i] for i in part)], console.width))


def _split_columns(columns: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Group the columns after the first so that each group fits beside the first; a group has at least one column."""
    names, *others = (_measure_column(column) for column in columns)
    groups: list[list[int]] = [[]]
    for number, size in enumerate(others):
        if groups[-1] and 1 + names + sum(others[i] for i in groups[-1]) + size > width:
            groups.append([])
        groups[-1].append(number)
    return groups


def _measure_column(column: Sequence[str]) -> int:
    """Return the width of a column with its padding and one border."""
    from rich.cells import cell_len

    return max(map(cell_len, column)) + 3


def _build_table(title: str, columns: Sequence[Sequence[str]], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    fits = 1 + sum(map(_measure_column, columns)) <= width  # otherwise cells are wrapped
    table = Table(title=title or None, title_justify="left", title_style="bold")
    for index, (name, *_) in enumerate(columns):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=fits, overflow="fold")
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*map(Text, row))  # as text: a cell may look like markup
    return table
