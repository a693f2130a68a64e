"""Report sections as plain data: paragraphs, tables, figures, cards. They become HTML when the page is put together.

All of them are text and numbers. ``Figure`` alone holds markup, and refuses what is more than a drawing.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Elements of a drawing as matplotlib writes it. None of them holds HTML, leads to another page or loads a file.
_ELEMENTS = "svg g path rect circle line polyline polygon use defs clipPath text tspan image"
_DRAWING = frozenset(_ELEMENTS.split())
_ADDRESS = re.compile(r"#[\w-]+|data:image/png;base64,[A-Za-z0-9+/=\s]*")
_PNG = re.compile(r"[A-Za-z0-9+/=]*")


@dataclass(frozen=True)
class Paragraph:
    """What stands between `backticks` is set as code."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Code:
    """A block of code or a command."""

    text: str


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it. An empty cell is shown as a dash.

    Raises:
        ValueError: a row has another number of cells than the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"each row of a table needs {len(self.header)} cells, as its header has. Got {list(row)}."
                )


@dataclass(frozen=True)
class Figure:
    """A drawing with its text as text.

    Attributes:
        svg: an ``svg`` element with nothing but a view box, as ``kd.report.svg.figure`` makes it.
        alt: for readers who do not see it.
        caption: shown below it.

    Raises:
        ValueError: the SVG is more than a drawing, or is not well-formed.
    """

    svg: str
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        _require_drawing(self.svg)


@dataclass(frozen=True)
class Card:
    """One model at a glance: its name, its most important number with a note below, and a few facts.

    Attributes:
        model: ``teacher``, ``control`` or ``distilled``, for its colour; another is grey.
    """

    title: str
    number: str
    note: str
    facts: tuple[tuple[str, str], ...]
    model: str


@dataclass(frozen=True)
class Bars:
    """One row of a ``Case``: a model's probabilities.

    Attributes:
        model: for its colour.
        title: what the row is called.
        values: a probability for each class that is shown.
        likeliest: the two likeliest classes of all, by name, and their probabilities.
        right: whether the likeliest is the true one.
    """

    model: str
    title: str
    values: tuple[float, ...]
    likeliest: tuple[tuple[str, float], ...]
    right: bool

    @property
    def told(self) -> str:
        """The likeliest classes: "9 (71 %), 4 (20 %)"."""
        return ", ".join(f"{name} ({100 * value:.0f} %)" for name, value in self.likeliest)


@dataclass(frozen=True)
class Case:
    """A test item with the probabilities of every model, drawn as bars.

    Attributes:
        item: its place in the test set.
        title: what it is called.
        label: its class, as a person knows it.
        kind: who errs.
        classes: those that are shown.
        true: which of them is the true one.
        named: whether classes have names, which need more room than numbers.
        rows: one or more.
        png: the item as a picture, in base64; "" if it is none.
        ink: whether the picture is ink on nothing, which a dark page turns into light; else it is in colours.

    Raises:
        ValueError: the numbers do not fit together, or the picture is not in base64.
    """

    item: int
    title: str
    label: str
    kind: str
    classes: tuple[str, ...]
    true: int
    named: bool
    rows: tuple[Bars, ...]
    png: str = ""
    ink: bool = False

    def __post_init__(self) -> None:
        fits = 0 <= self.true < len(self.classes) and self.rows
        if not fits or not all(len(row.values) == len(self.classes) and row.likeliest for row in self.rows):
            raise ValueError(f"each row of {self.title} needs a number for each of its {len(self.classes)} classes.")
        if not _PNG.fullmatch(self.png):
            raise ValueError(f"the picture of {self.title} must be in base64.")


@dataclass(frozen=True)
class Fold:
    """What few readers need, behind one line of text that opens it."""

    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Grid:
    """Blocks beside each other where there is room, below each other on a phone.

    Attributes:
        of: ``panels`` (charts), or ``cards`` or ``cases``, which have widths of their own.
    """

    blocks: tuple[Block, ...]
    of: str = "panels"


Block = Paragraph | Note | Code | Table | Figure | Card | Case | Fold | Grid


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Table:
    """A table of any values, shown as ``str`` does; None is an empty cell."""
    cells = (tuple("" if cell is None else str(cell) for cell in row) for row in rows)
    return Table(tuple(header), tuple(cells), caption)


def paragraphs(texts: Iterable[str]) -> tuple[Paragraph, ...]:
    """One for each text."""
    return tuple(map(Paragraph, texts))


def _require_drawing(svg: str) -> None:
    if not re.match(r'<svg viewBox="[\d. -]+">', svg) or "<!" in svg or "<?" in svg:
        raise ValueError("a figure must be one svg element that has a view box and no declarations.")
    try:
        elements = list(ET.fromstring(svg).iter())
    except ET.ParseError as error:
        raise ValueError(f"a figure must be well-formed SVG: {error}.") from error
    for element in elements:
        handlers = [name for name in element.attrib if name.lower().startswith("on")]
        if element.tag not in _DRAWING or handlers or not _ADDRESS.fullmatch(element.get("href", "#none")):
            raise ValueError(f"a figure must be a drawing alone, without handlers or addresses. Got <{element.tag}>.")
