"""What all figures share: ticks of classes, a bold title, a figure as the bytes of a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.case import shorten

TICKS = 25  # classes of which each can have a tick, and its counts a place


def png(figure: Figure, *, toy: str | None = None) -> bytes:
    """The figure as PNG bytes, stamped if it comes from a toy run."""
    if toy:
        title = "   ".join(filter(None, [figure.get_suptitle(), f"TOY RUN ({toy}): too small to conclude from"]))
        figure.suptitle(title, color="#CC0000", weight="bold")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)  # titles keep clear of the picture's edge
    buffer = io.BytesIO()
    # No creation date or software version in the file: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def label_classes(axes: Axes, count: int, names: Sequence[str]) -> None:
    """A tick for each class on both axes, of many for some: its number, or its name cut to fit."""
    places = range(0, count, -(-count // TICKS))
    texts = [escape_label(names[place]) if names else str(place) for place in places]
    turned = any(len(text) > 3 for text in texts)
    axes.set_xticks(places, texts, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(places, texts)


def escape_label(name: str, most: int = 14) -> str:
    """A short name for a figure, in which a dollar is a dollar: matplotlib reads a formula between two."""
    return shorten(name, most).replace("$", r"\$")


def style_axes(axes: Axes, title: str) -> None:
    """A bold title on the left, a faint grid, and no frame on the right and at the top."""
    axes.set_title(title, weight="bold", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
