"""Faster test runs: blank figures, a small MNIST, short timings and no flushes, in this process or in a child process.

python -m tests.cheap PROGRAM.py ARGUMENTS    runs a program this way; this checkout must be on the path
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import runpy
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

from PIL import Image

from kd.data import mnist
from kd.evaluation import timing
from kd.report import drawings, style, svg

IMAGES = {"train": 6_000, "t10k": 1_000}  # the first images of MNIST's 60,000 and 10,000
SMALL_MNIST = "KD_TESTS_SMALL_MNIST"  # an environment variable, so that child processes use the same files

_render_once = drawings.render_once


def _render_blank(plot: object, form: str, render: object) -> bytes:
    """Replace ``render_once``, without importing matplotlib: return an image of one pixel."""
    if form == "svg":
        return b'<svg viewBox="0 0 1 1"></svg>'
    content = io.BytesIO()
    Image.new("RGB", (1, 1)).save(content, "png")
    return content.getvalue()


@contextmanager
def figures(*, drawn: bool) -> Iterator[None]:
    """Inside the block, draw figures (``drawn=True``) or save blank ones."""
    with ExitStack() as undo:
        for module in (style, svg):
            undo.callback(setattr, module, "render_once", module.render_once)
            module.render_once = _render_once if drawn else _render_blank
        yield


@contextmanager
def small_mnist() -> Iterator[None]:
    """Inside the block, ``kd.load_mnist`` loads only the first images of each split."""
    originals = mnist.EMBEDDED, mnist.DIGESTS
    mnist.EMBEDDED, mnist.DIGESTS = _small_files()
    try:
        yield
    finally:
        mnist.EMBEDDED, mnist.DIGESTS = originals


def short_timings() -> AbstractContextManager[object]:
    """Inside the block, latencies are medians of a few calls. By default, each one takes up to 0.3 s."""
    return mock.patch.multiple(timing, WARM_UP=2, MAX_CALLS=10)


def no_flushes() -> AbstractContextManager[object]:
    """Inside the block, files are not flushed to the disk, which only matters if the power fails."""
    return mock.patch.object(os, "fsync", _do_nothing)


def _do_nothing(handle: int) -> None:
    pass


@cache
def _small_files() -> tuple[Path, dict[str, str]]:
    """Return the folder of the small MNIST and the digests of its files; the first process that needs it writes it."""
    if SMALL_MNIST not in os.environ:
        os.environ[SMALL_MNIST] = tempfile.mkdtemp(prefix="small-mnist-")
        for name in mnist.DIGESTS:
            rows = IMAGES[name.split("-")[0]]
            with gzip.open(mnist.EMBEDDED / f"{name}.gz") as file:
                head = file.read(8)
                sizes = file.read(4 * head[3] - 4)  # of an image; none of a label
                content = head[:4] + struct.pack(">I", rows) + sizes + file.read(rows * (28 * 28 if sizes else 1))
            # Without compression, which is what takes most of the time of loading them.
            Path(os.environ[SMALL_MNIST], f"{name}.gz").write_bytes(gzip.compress(content, 0))
    folder = Path(os.environ[SMALL_MNIST])
    contents = {name: gzip.decompress((folder / f"{name}.gz").read_bytes()) for name in mnist.DIGESTS}
    return folder, {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def remove_small_mnist() -> None:
    """Remove the files of ``small_mnist``, if there are any."""
    if SMALL_MNIST in os.environ:
        shutil.rmtree(os.environ.pop(SMALL_MNIST), ignore_errors=True)


if __name__ == "__main__":
    _, *sys.argv = sys.argv
    inherited = SMALL_MNIST in os.environ  # created, and later removed, by the tests that started this process
    try:
        with figures(drawn=False), small_mnist(), short_timings():
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        if not inherited:
            remove_small_mnist()
