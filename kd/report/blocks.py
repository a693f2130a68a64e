"""Blocks of a report as plain data: paragraphs, tables, figures, cards. They become HTML when the page is built.

All blocks contain text and numbers. Only ``Figure`` contains markup, and accepts nothing but a drawing.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# SVG elements that matplotlib writes. None can contain HTML; their links must match _ADDRESS.
_ELEMENTS = "svg g path rect circle line polyline polygon use defs clipPath text tspan image"
_DRAWING = frozenset(_ELEMENTS.split())
_ADDRESS = re.compile(r"#[\w-]+|data:image/png;base64,[A-Za-z0-9+/=\s]*")
_PNG = re.compile(r"[A-Za-z0-9+/=]*")


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text; `backticks` mark code."""

    text: str


@dataclass(frozen=True)
class Note:
    """A highlighted paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A block of code or a command."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table. The first cell of each row is its name; empty cells are shown as a dash.

    Raises:
        ValueError: a row does not have the same number of cells as the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"each row of a table needs {len(self.header)} cells, like its header. Got {list(row)}."
                )


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG.

    Attributes:
        svg: an ``svg`` element with a view box as its only attribute, see ``kd.report.svg.figure``.
        alt: description for screen readers.
        caption: shown below the drawing.

    Raises:
        ValueError: the SVG is not well-formed, or contains more than a drawing.
    """

    svg: str
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        _require_drawing(self.svg)


@dataclass(frozen=True)
class Card:
    """Summary of one model: name, main number with a note, and a few facts.

    Attributes:
        model: ``teacher``, ``control`` or ``distilled`` sets the colour; any other value is grey.
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
        model: sets the colour, see ``Card``.
        title: the row's label.
        values: a probability for each class shown.
        likeliest: names and probabilities of the two most likely of all classes.
        right: whether the most likely class is the true one.
    """

    model: str
    title: str
    values: tuple[float, ...]
    likeliest: tuple[tuple[str, float], ...]
    right: bool

    @property
    def summary(self) -> str:
        """The most likely classes as text: "9 (71 %), 4 (20 %)"."""
        return ", ".join(f"{name} ({100 * value:.0f} %)" for name, value in self.likeliest)


@dataclass(frozen=True)
class Case:
    """A test sample with each model's probabilities, drawn as bars.

    Attributes:
        item: index in the test set.
        title: title of the sample.
        label: name of the true class.
        kind: which models are wrong.
        classes: names of the classes shown.
        true: index of the true class in ``classes``.
        named: whether classes have names, which need more space than numbers.
        rows: one or more.
        png: the sample as an image, in base64; "" if it is not an image.
        ink: whether the image is dark ink on a transparent background, inverted on a dark page; else it has colours.

    Raises:
        ValueError: the numbers of classes and values do not match, or the image is not base64.
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
            raise ValueError(f"the image of {self.title} must be base64.")


@dataclass(frozen=True)
class Fold:
    """Collapsed details that few readers need, with a one-line summary."""

    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Grid:
    """Blocks side by side on wide screens, stacked on narrow ones.

    Attributes:
        of: ``panels`` (plots), ``cards`` or ``cases``; sets the width of a column.
    """

    blocks: tuple[Block, ...]
    of: str = "panels"


Block = Paragraph | Note | Code | Table | Figure | Card | Case | Fold | Grid


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Table:
    """Return a table of arbitrary values, converted with ``str``; None becomes an empty cell."""
    cells = (tuple("" if cell is None else str(cell) for cell in row) for row in rows)
    return Table(tuple(header), tuple(cells), caption)


def paragraphs(texts: Iterable[str]) -> tuple[Paragraph, ...]:
    """Return one paragraph per text."""
    return tuple(map(Paragraph, texts))


def _require_drawing(svg: str) -> None:
    if not re.match(r'<svg viewBox="[\d. -]+">', svg) or "<!" in svg or "<?" in svg:
        raise ValueError("a figure must be a single svg element with a view box and without declarations.")
    try:
        elements = list(ET.fromstring(svg).iter())
    except ET.ParseError as error:
        raise ValueError(f"a figure must be well-formed SVG: {error}.") from error
    for element in elements:
        handlers = [name for name in element.attrib if name.lower().startswith("on")]
        if element.tag not in _DRAWING or handlers or not _ADDRESS.fullmatch(element.get("href", "#none")):
            raise ValueError(f"a figure must not contain event handlers, links or other markup. Got <{element.tag}>.")
