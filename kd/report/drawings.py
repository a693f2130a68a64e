"""Rendered figures of the open run: a figure is drawn again only if its inputs, or the code that draws it, changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version

from matplotlib.figure import Figure

from kd.storage.environment import PACKAGE
from kd.storage.files import publish, sha256
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import KEY_DIGITS, current_run
from kd.storage.untrusted import read_bytes

# A function that draws, with all of its inputs as arguments: a closure would hide them from the key.
Drawing = partial[Figure]


def render_once(drawing: Drawing, form: str, render: Callable[[Figure], bytes]) -> bytes:
    """Return the rendered figure, from the open run's folder if an equal figure was rendered there before.

    A damaged file is ignored and the figure drawn again. If no run is open, the figure is always drawn.

    Args:
        form: everything else that determines the bytes: file format and stamp.
    """
    run = current_run()
    if run is None:
        return render(drawing())
    key = digest([describe(drawing), form, _digest_sources()])[:KEY_DIGITS]
    folder = run.folder / "steps" / "figures"
    for path in folder.glob(f"{key}-*"):
        with suppress(OSError, ValueError):
            return read_bytes(path, expected=path.name.removeprefix(f"{key}-"))
    content = render(drawing())
    publish({folder / f"{key}-{sha256(content)}": content})
    return content


@functools.cache
def _digest_sources() -> str:
    """Return a digest of this package's sources and of matplotlib's version; together they determine every figure."""
    sources = [sha256(path.read_bytes()) for path in sorted(PACKAGE.rglob("*.py"))]
    return digest([version("matplotlib"), sources])
