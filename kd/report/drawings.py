"""Rendered figures of the open run: a figure is drawn again only if its inputs, or the code that draws it, changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from kd.storage.environment import source_digest
from kd.storage.files import publish, sha256
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import KEY_DIGITS, STEPS, current_run
from kd.storage.stopping import stop_if_requested
from kd.storage.untrusted import read_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A function that draws, with all of its inputs as arguments: a closure would hide them from the key.
Drawing = partial["Figure"]


def render_once(plot: Figure | Drawing, form: str, render: Callable[[Figure], bytes]) -> bytes:
    """Return the rendered figure; a drawing is reused if an equal one was rendered in the open run's folder before.

    A damaged file is ignored and the figure drawn again. If no run is open, the figure is always drawn.

    Args:
        form: everything else that determines the bytes: file format and stamp.
    """
    if not isinstance(plot, partial):
        return render(plot)
    run = current_run()
    if run is None:
        return render(plot())
    # The inputs, this package's sources and matplotlib determine every figure.
    key = digest([describe(plot), form, source_digest(), version("matplotlib")])[:KEY_DIGITS]
    folder = run.folder / STEPS / "figures"
    for path in folder.glob(f"{key}-*"):
        with suppress(OSError, ValueError):
            content = read_bytes(path, expected=path.name.removeprefix(f"{key}-"))
            run.mark_used(path)
            return content
    stop_if_requested()  # drawing all figures takes seconds
    content = render(plot())
    path = folder / f"{key}-{sha256(content)}"
    publish({path: content})
    run.mark_used(path)
    return content
