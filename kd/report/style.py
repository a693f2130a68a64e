"""Style shared by all figures: size, ticks, titles, layout, PNG output. Importing it does not import matplotlib."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

from kd.report.case import shorten
from kd.report.drawings import Drawing, render_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

DPI = 130  # of PNG files
TICKS = 25  # largest number of classes for which every class gets a tick and every count fits


def new_figure(width: float, height: float, *, layout: Literal["constrained", "none"] = "constrained") -> Figure:
    """Return an empty figure. Call it before other imports from matplotlib, which can fail (``_import_matplotlib``).

    Args:
        width, height: inches.
        layout: layout engine; "none" keeps all positions fixed.
    """
    _import_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine(layout)
    return figure


def _import_matplotlib() -> None:
    """Import matplotlib, also if MPLBACKEND names an unknown backend: files are written without any."""
    if "matplotlib" in sys.modules or (backend := os.environ.pop("MPLBACKEND", None)) is None:
        return
    import matplotlib

    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):  # unknown: raised again if the caller uses pyplot
        matplotlib.rcParams["backend"] = backend


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
    canvas = lay_out(figure, pad=0.08)  # keeps titles off the edge
    buffer = io.BytesIO()
    # No creation date or software version in the file, so that the same numbers give the same bytes.
    canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def lay_out(figure: Figure, *, pad: float) -> FigureCanvasAgg:
    """Run the figure's layout engine once, fix the positions, and return a canvas to print on.

    ``Figure.savefig`` would draw a figure with a layout engine twice, and would load the backend that MPLBACKEND names.

    Args:
        figure: a figure without layout engine keeps its positions.
        pad: space around axes and titles, in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)  # measures the texts
    if figure.axes and figure.get_layout_engine() is not None:
        ConstrainedLayoutEngine(w_pad=pad, h_pad=pad).execute(figure)
        figure.set_layout_engine("none")
    return canvas


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


def mark_integers(axis: Axis, *, bins: int = 10, min_ticks: int = 2) -> None:
    """Place at most ``bins`` and at least ``min_ticks`` ticks on an axis, at integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(bins, integer=True, min_n_ticks=min_ticks))
