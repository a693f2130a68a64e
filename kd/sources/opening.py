"""One function that opens a data set, whatever it lies in, by one string."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd.datasets import load_mnist
from kd.sources.source import Source

KINDS = (
    "mnist, torchvision:NAME, sklearn:NAME, hf:NAME_OR_FOLDER, a folder of images (train/CLASS/…) or of IDX files, a "
    ".npz file, or a .py file with a function load()"
)

_NOTHING = f"no data set can be opened from '{{where}}'. Name one of these: {KINDS}."


def open_source(
    where: str | Path,
    *,
    root: Path | str | None = None,
    size: int | tuple[int, int] | None = None,
    columns: tuple[str, str] | None = None,
    classes: Sequence[str] | None = None,
    download: bool = False,
) -> Source:
    """The data set that ``where`` names, with the parts that it came with.

    Args:
        where: what ``KINDS`` says.
        root: the folder in which torchvision's data sets lie; for ``mnist`` a copy of one's own instead of the
            embedded one.
        size: of images, height and width or both in one number, to which they are scaled and cropped. Without it they
            must have one size. For image files, ``torchvision:`` and ``hf:``.
        columns: the names of the inputs' and the labels' column, for ``hf:``.
        classes: names in label order, where the data do not tell them.
        download: let ``hf:`` fetch what is not on this disk. Nothing else, and nothing without it, uses the network.

    Raises:
        ValueError: the string names nothing that can be opened, or the content does not fit.
        OSError: what it names is not there or is damaged.
        ImportError: a package is missing; names the extra that brings it.
    """
    kind, colon, rest = str(where).partition(":")
    names = None if classes is None else [str(name) for name in classes]
    if where == "mnist":
        return Source("mnist", load_mnist(train=True, root=root), None, load_mnist(train=False, root=root), DIGITS)
    if colon and kind == "sklearn":
        from kd.sources.bundled import open_bundled

        return open_bundled(rest)
    if colon and kind == "torchvision":
        from kd.sources.vision import open_torchvision

        if root is None:
            raise ValueError(f"root must be the folder in which torchvision's {rest} lies. Got None instead.")
        return open_torchvision(rest, Path(root), size=size)
    if colon and kind == "hf":
        from kd.sources.hub import open_hub

        return open_hub(rest, columns=columns, size=size, classes=names, download=download)
    if not str(where):
        raise ValueError(_NOTHING.format(where=""))
    return _open_path(Path(where), size, names)


DIGITS = tuple("0123456789")


def _open_path(path: Path, size: int | tuple[int, int] | None, classes: list[str] | None) -> Source:
    from kd.sources.folder import open_folder
    from kd.sources.idx_folder import is_idx_folder, open_idx_folder
    from kd.sources.npz import open_npz
    from kd.sources.plugin import open_plugin

    if path.suffix == ".npz":
        return open_npz(path, classes)
    if path.suffix == ".py":
        return open_plugin(path)
    if path.is_dir() and is_idx_folder(path):
        return open_idx_folder(path, classes)
    if path.is_dir():
        return open_folder(path, size=size, classes=classes)
    raise ValueError(_NOTHING.format(where=path))
