"""Style shared by all figures: class ticks, titles, PNG output."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.case import shorten
from kd.report.drawings import Drawing, render_once

TICKS = 25  # largest number of classes for which every class gets a tick and every count fits


def png(figure: Figure | Drawing, *, toy: str | None = None) -> bytes:
    """Return the figure as PNG bytes.

    Args:
        figure: a figure, or a drawing that is rendered only once in an open run.
        toy: stamp of a quick run, added to the title.
    """
    return render_once(figure, f"png {toy}", partial(_render_png, toy=toy))


def _render_png(figure: Figure, *, toy: str | None) -> bytes:
    if toy:
        title = "   ".join(filter(None, [figure.get_suptitle(), f"QUICK RUN ({toy}): too small for conclusions"]))
        figure.suptitle(title, color="#CC0000", weight="bold")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)  # keeps titles off the edge
    buffer = io.BytesIO()
    # No creation date or software version in the file, so that the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def label_classes(axes: Axes, count: int, names: Sequence[str]) -> None:
    """Label both axes with at most ``TICKS`` class numbers or shortened names."""
    classes = range(0, count, -(-count // TICKS))
    labels = [escape_label(names[index]) if names else str(index) for index in classes]
    is_rotated = any(len(label) > 3 for label in labels)
    axes.set_xticks(classes, labels, rotation=45 if is_rotated else 0, ha="right" if is_rotated else "center")
    axes.set_yticks(classes, labels)


def escape_label(name: str, length: int = 14) -> str:
    """Shorten a name and escape dollar signs, which matplotlib would parse as a formula."""
    return shorten(name, length).replace("$", r"\$")


def style_axes(axes: Axes, title: str) -> None:
    """Set a bold left title and a faint grid, and hide the right and top spines."""
    axes.set_title(title, weight="bold", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
