"""Pieces of the report as HTML. Whatever text comes in is escaped here; nothing else may make HTML from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_NUMBER = re.compile(r"[-+−±<>≈]?\s?\d[\d.,\s]*(e[-+]?\d+)?(±\s?[\d.,]+\s?)?[%a-zA-Zµ/]{0,6}(\s?\(.*\))?")
_DIGEST = re.compile(r"[0-9a-f]{12,}")
_NOTHING = ("", "–")


def paragraph(text: str) -> str:
    """One paragraph, escaped; what stands between `backticks` is set as code."""
    return f"<p>{inline(text)}</p>"


def inline(text: object) -> str:
    """The text escaped, with `backticks` as code and no line broken between "5" and "%": for use inside an element."""
    unbroken = re.sub(r"(?<=\d) (?=%)|(?<=\w) (?== \d)|(?<= =) (?=\d)", "\u00a0", escape(str(text)))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", unbroken)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> str:
    """A table that scrolls in itself where it is too wide. The first cell of a row names it; numbers stand right.

    Args:
        header: one text per column.
        rows: cells, as many each, shown as ``str`` does; None and "" as a dash.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    cells = [["–" if cell in (None, "") else str(cell) for cell in row] for row in rows]
    for row in cells:
        if len(row) != len(header):
            raise ValueError(f"each row of a table needs {len(header)} cells, as its header has. Got {row}.")
    right = [_is_numeric([row[column] for row in cells]) for column in range(len(header))]
    head = "".join(f'<th scope="col"{_side(n)}>{inline(text)}</th>' for text, n in zip(header, right, strict=True))
    body = "".join(f"<tr>{_row(row, right)}</tr>\n" for row in cells)
    titled = f'<p class="caption">{inline(caption)}</p>' if caption else ""
    label = escape(caption or f"Table: {', '.join(header)}")
    return (
        f'{titled}<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _row(cells: Sequence[str], right: Sequence[bool]) -> str:
    first, *others = cells
    rest = "".join(f"<td{_side(n)}>{_cell(cell)}</td>" for cell, n in zip(others, right[1:], strict=True))
    return f'<th scope="row"{_side(right[0])}>{inline(first)}</th>{rest}'


def _cell(text: str) -> str:
    return f"<code>{text}</code>" if _DIGEST.fullmatch(text) else inline(text)


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def _is_numeric(column: Sequence[str]) -> bool:
    """All numbers, perhaps with a unit or something in parentheses; a digest that begins with a digit is none."""
    told = [cell for cell in column if cell not in _NOTHING]
    return bool(told) and all(_NUMBER.fullmatch(cell) for cell in told)


def card(title: str, number: str, note: str, facts: Mapping[str, object], *, colour: str) -> str:
    """One model at a glance: its name, its most important number with a note below, and a few facts.

    Args:
        colour: ``teacher``, ``regular`` or ``distilled``; another is shown as grey.
    """
    listed = "".join(f"<div><dt>{inline(name)}</dt><dd>{inline(value)}</dd></div>" for name, value in facts.items())
    return (
        f'<div class="card {_word(colour)}"><h3>{inline(title)}</h3><p class="big">{inline(number)}</p>'
        f'<p class="note">{inline(note)}</p><dl>{listed}</dl></div>\n'
    )


def warning(text: str) -> str:
    """A paragraph that must not be overlooked."""
    return f'<p class="warning"><strong>Note.</strong> {inline(text)}</p>'


def code(text: str) -> str:
    """A block of code or a command, escaped, which scrolls in itself."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>\n'


# From here on the arguments are HTML made by the functions of the report.


def fold(summary: str, html: str) -> str:
    """What few readers need, behind one line of text that opens it."""
    return f"<details><summary>{inline(summary)}</summary>{html}</details>\n"


def grid(*html: str, of: str = "panels") -> str:
    """Pieces beside each other where there is room, below each other on a phone.

    Args:
        of: ``panels`` (charts) or ``cards``, which are narrower.
    """
    return f'<div class="grid {_word(of)}">{"".join(html)}</div>\n'


def _word(name: str) -> str:
    return name if re.fullmatch(r"[a-z]+", name) else "other"
