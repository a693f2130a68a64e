"""Render blocks of a report as HTML. All text is escaped here; no other module may turn text into HTML."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape

from kd.report.blocks import Block, Card, Case, Code, Figure, Fold, Grid, Note, Paragraph, Table
from kd.report.case import draw_case

# A number with an optional sign, exponent, error, unit and parentheses: "−3.2", "1e-3", "0.5 ± 0.1 s", "1,234 (5 %)".
_NUMBER = re.compile(r"[-+−±<>≈]?\s?\d[\d.,\s]*(e[-+]?\d+)?(±\s?[\d.,]+\s?)?[%a-zA-Zµ/]{0,6}(\s?\(.*\))?")
_DIGEST = re.compile(r"[0-9a-f]{12,}")
_EMPTY_CELL = "–"


def render(blocks: Iterable[Block]) -> str:
    """Render blocks in order."""
    return "".join(map(_render_block, blocks))


def _render_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{format_inline(text)}</p>"
        case Note(text):
            return f'<p class="warning"><strong>Note.</strong> {format_inline(text)}</p>'
        case Code(text):  # focusable, so that it can be scrolled with the keyboard
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>\n'
        case Table():
            return _render_table(block)
        case Figure():
            return _render_figure(block)
        case Card():
            return _render_card(block)
        case Case():
            return _render_case(block)
        case Fold(summary, blocks):
            return f"<details><summary>{format_inline(summary)}</summary>{render(blocks)}</details>\n"
        case Grid(blocks, of):
            return f'<div class="grid {_css_class(of)}">{render(blocks)}</div>\n'


def format_inline(text: str) -> str:
    """Escape text for use inside an element, with `backticks` as code and no line break between "5" and "%"."""
    unbroken = re.sub(r"(?<=\d) (?=%)|(?<=\w) (?== \d)|(?<= =) (?=\d)", "\u00a0", escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", unbroken)


def _render_table(block: Table) -> str:
    """Render a table that scrolls horizontally if it is too wide. Numeric columns are right-aligned."""
    cells = [[cell or _EMPTY_CELL for cell in row] for row in block.rows]
    numeric = [_is_numeric([row[column] for row in cells]) for column in range(len(block.header))]
    head = "".join(
        f'<th scope="col"{_cell_class(is_numeric)}>{format_inline(text)}</th>'
        for text, is_numeric in zip(block.header, numeric, strict=True)
    )
    body = "".join(f"<tr>{_render_row(row, numeric)}</tr>\n" for row in cells)
    caption = f'<p class="caption">{format_inline(block.caption)}</p>' if block.caption else ""
    label = escape(block.caption or f"Table: {', '.join(block.header)}")
    return (
        f'{caption}<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _render_row(cells: Sequence[str], numeric: Sequence[bool]) -> str:
    first, *rest = cells
    data = "".join(f"<td{_cell_class(n)}>{_format_cell(cell)}</td>" for cell, n in zip(rest, numeric[1:], strict=True))
    return f'<th scope="row"{_cell_class(numeric[0])}>{format_inline(first)}</th>{data}'


def _format_cell(text: str) -> str:
    return f"<code>{text}</code>" if _DIGEST.fullmatch(text) else format_inline(text)


def _cell_class(is_numeric: bool) -> str:
    return ' class="number"' if is_numeric else ""


def _is_numeric(column: Sequence[str]) -> bool:
    """Return whether all cells are numbers, with an optional unit and parentheses. Digests are not numbers."""
    cells = [cell for cell in column if cell != _EMPTY_CELL]
    return bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)


def _render_figure(block: Figure) -> str:
    """Render a drawing with unique ids, since figures share one page, and a description for screen readers."""
    opening, body = re.split(r"(?<=>)", block.svg, maxsplit=1)
    box = opening.split('"')[1]
    title = block.caption or "Figure"
    prefix = "f" + hashlib.sha256((block.alt + title + body).encode()).hexdigest()[:10]
    below = f"<figcaption>{format_inline(block.caption)}</figcaption>" if block.caption else ""
    return (
        f'<figure><div class="scroll chart" tabindex="0"><svg viewBox="{box}" '
        f'style="--width: {float(box.split()[2]):.0f}px" role="img" aria-labelledby="{prefix}-t {prefix}-d">'
        f'<title id="{prefix}-t">{escape(title)}</title><desc id="{prefix}-d">{escape(block.alt)}</desc>'
        f"{_prefix_ids(body, prefix)}</div>{below}</figure>\n"
    )


def _prefix_ids(body: str, prefix: str) -> str:
    """Drop unused ids, and prefix the others."""
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)([^")]+)', rf"\1{prefix}-\2", body)


def _render_card(block: Card) -> str:
    facts = "".join(
        f"<div><dt>{format_inline(name)}</dt><dd>{format_inline(value)}</dd></div>" for name, value in block.facts
    )
    return (
        f'<div class="card {_css_class(block.model)}"><h3>{format_inline(block.title)}</h3>'
        f'<p class="big">{format_inline(block.number)}</p><p class="note">{format_inline(block.note)}</p>'
        f"<dl>{facts}</dl></div>\n"
    )


def _render_case(block: Case) -> str:
    """Render a sample's image, if it has one, and its bars."""
    kind = "ink" if block.ink else "colours"
    source = f"data:image/png;base64,{escape(block.png)}"
    image = f'<img class="{kind}" alt="the test image" src="{source}">' if block.png else ""
    head = f"<strong>Label {escape(block.label)}</strong><br>{format_inline(block.kind)}<br>{escape(block.title)}"
    return f'<figure class="case"><div class="head">{image}<p>{head}</p></div>{draw_case(block)}</figure>\n'


def _css_class(name: str) -> str:
    return name if re.fullmatch(r"[a-z]+", name) else "other"
