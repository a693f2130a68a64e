"""A matplotlib figure as a block with SVG: its colours follow the page's, light or dark, and so does its font."""

from __future__ import annotations

import io
import re

import matplotlib.figure

from kd.report.blocks import Figure

# matplotlib's colours → what the page's style sheet calls them. kd.report.plots chooses them for white paper.
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
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}  # nothing that changes from day to day


def figure(drawn: matplotlib.figure.Figure, *, alt: str, caption: str = "") -> Figure:
    """The figure as a block: SVG without fixed colours of ink and paper, with its text as text.

    The same figure gives the same bytes. Its layout becomes a constrained one, its background transparent.

    Args:
        drawn: text in it may not be mathematical (``$…$``).
        alt: what somebody who does not see it should know.
        caption: shown below it.
    """
    return Figure(adapt_to_page(render_svg(drawn)), alt, caption)


def render_svg(drawn: matplotlib.figure.Figure) -> str:
    """What matplotlib writes, reproducibly, with text as text: a file of its own."""
    drawn.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kd"}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return buffer.getvalue()


def adapt_to_page(text: str) -> str:
    """An SVG file of matplotlib's as an element for a page: themed, without styles for the whole page, and small."""
    opening, body = re.split(r"(?<=>)", text[text.index("<svg") :], maxsplit=1)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # would hold for the whole page
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"#[0-9a-f]{6}\b", lambda colour: _THEME.get(colour[0], colour[0]), body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r"font: ([^;\"']*)'[^;\"]*", r"font: \1var(--sans)", body)  # as matplotlib before 3.10 has it
    # A hundredth of a point is enough, and half the bytes.
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda a: re.sub(r"(\.\d\d)\d+", r"\1", a[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    box = re.search(r'viewBox="([\d. ]+)"', opening)
    assert box, "matplotlib's SVG has a view box"
    return f'<svg viewBox="{box[1]}">{body}'
