"""Convert matplotlib figures to SVG blocks whose colours and font follow the page, light or dark."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from kd.report.blocks import Figure
from kd.report.drawings import Drawing, render_once
from kd.report.style import lay_out

if TYPE_CHECKING:
    import matplotlib.figure

# Colours in matplotlib figures, chosen for white paper → variables of the page's style sheet.
_THEME = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#d55e00": "var(--control)",
    "#0072b2": "var(--distilled)",
    "#666666": "var(--quiet)",
    "#b0b0b0": "var(--line)",
    "#dddddd": "var(--line)",
    "#eeeeee": "var(--line)",
    "#cc0000": "var(--alarm)",
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}  # no dates: bytes must be reproducible


def figure(plot: matplotlib.figure.Figure | Drawing, *, alt: str, caption: str = "") -> Figure:
    """Convert a figure to an SVG block with the page's colours and selectable text.

    The same figure gives the same bytes. Its background becomes transparent.

    Args:
        plot: figure without mathematical text (``$…$``), or a drawing that is rendered only once in an open run.
        alt: description for screen readers.
        caption: shown below the figure.
    """
    svg = render_once(plot, "svg", lambda drawn: adapt_to_page(render_svg(drawn)).encode())
    return Figure(svg.decode(), alt, caption)


def render_svg(plot: matplotlib.figure.Figure) -> str:
    """Render a figure as a standalone SVG file, with reproducible bytes and text elements instead of outlines."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    lay_out(plot, pad=0.06)
    for patch in (plot.patch, *(axes.patch for axes in plot.axes)):
        patch.set(facecolor="none", edgecolor="none")  # the page's background
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kd"}):
        FigureCanvasSVG(plot).print_svg(buffer, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def adapt_to_page(text: str) -> str:
    """Turn matplotlib's SVG file into a compact element for the page, with its colours and without global styles."""
    opening, body = re.split(r"(?<=>)", text[text.index("<svg") :], maxsplit=1)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # would apply to the whole page
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"#[0-9a-f]{6}\b", lambda colour: _THEME.get(colour[0], colour[0]), body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r"font: ([^;\"']*)'[^;\"]*", r"font: \1var(--sans)", body)  # the form written before matplotlib 3.10
    # Two decimals, 0.01 pt, are precise enough and halve the size.
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda a: re.sub(r"(\.\d\d)\d+", r"\1", a[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    box = re.search(r'viewBox="([\d. ]+)"', opening)
    assert box, "matplotlib's SVG has a view box"
    return f'<svg viewBox="{box[1]}">{body}'
