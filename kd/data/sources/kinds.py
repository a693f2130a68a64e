"""One function that opens a data set, whatever it lies in, by one string."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd.data.mnist import load_mnist
from kd.data.sources.huggingface import open_hub
from kd.data.sources.idx_folder import is_idx_folder, open_idx_folder
from kd.data.sources.image_decoding import Size
from kd.data.sources.image_folder import open_folder
from kd.data.sources.npz import open_npz
from kd.data.sources.python_file import open_plugin
from kd.data.sources.sklearn_sets import open_bundled
from kd.data.sources.source import Source
from kd.data.sources.torchvision_sets import open_torchvision

KINDS = (
    "mnist, torchvision:NAME, sklearn:NAME, hf:NAME_OR_FOLDER, a folder of images (train/CLASS/…) or of IDX files, a "
    ".npz file, or a .py file with a function load()"
)


def open_source(
    where: str | Path,
    *,
    root: Path | str | None = None,
    size: int | Size | None = None,
    columns: tuple[str, str] | None = None,
    classes: Sequence[str] | None = None,
    download: bool = False,
) -> Source:
    """The data set that ``where`` names, with the parts that it came with.

    Args:
        where: what ``KINDS`` says; a path is never taken for a name.
        root: the folder in which torchvision's data sets lie; for ``mnist``, a copy of one's own instead of the
            embedded one.
        size: of images, height and width or both in one number, to which they are scaled and cropped; without it they
            must have one size. For image files, ``torchvision:`` and ``hf:``.
        columns: the names of the inputs' and the labels' column, for ``hf:``.
        classes: names in label order, for files, folders and ``hf:``, where the data do not tell them.
        download: let ``hf:`` fetch what is not on this disk. Nothing else, and nothing without it, uses the network.

    Raises:
        ValueError: the string names nothing that can be opened, the content does not fit, or a package is missing.
        OSError: what it names is not there or is damaged.
    """
    kind, name = _kind(where)
    given = {"root": root, "size": size, "columns": columns, "classes": classes, "download": download or None}
    unused = [argument for argument, value in given.items() if value is not None and argument not in _TAKES[kind]]
    if unused:
        raise ValueError(f"{unused[0]} says nothing about {str(where)!r}. Leave it away.")
    names = None if classes is None else [str(name) for name in classes]
    match kind:
        case "mnist":
            return _mnist(root)
        case "torchvision":
            return open_torchvision(name, root, size=size)
        case "sklearn":
            return open_bundled(name)
        case "hf":
            return open_hub(name, columns=columns, size=size, classes=names, download=download)
        case ".npz":
            return open_npz(Path(name), names)
        case ".py":
            return open_plugin(Path(name))
        case "IDX":
            return open_idx_folder(Path(name), names)
    return open_folder(Path(name), size=size, classes=names)


# By kind of source, which arguments it has a use for.
_TAKES: dict[str, set[str]] = {
    "mnist": {"root"},
    "torchvision": {"root", "size"},
    "sklearn": set(),
    "hf": {"columns", "size", "classes", "download"},
    ".npz": {"classes"},
    ".py": set(),
    "IDX": {"classes"},
    "folder": {"size", "classes"},
}


def _kind(where: str | Path) -> tuple[str, str]:
    """One of ``_TAKES``, and the name or path that goes with it."""
    if isinstance(where, str):
        kind, colon, name = where.partition(":")
        if where == "mnist" or (colon and kind in {"torchvision", "sklearn", "hf"}):
            return kind, name
    path = Path(where)
    if path.suffix in {".npz", ".py"}:
        return path.suffix, str(path)
    if where and path.is_dir():
        return "IDX" if is_idx_folder(path) else "folder", str(path)
    raise ValueError(f"no data set can be opened from {str(where)!r}. Name one of these: {KINDS}.")


def _mnist(root: Path | str | None) -> Source:
    train, test = (load_mnist(train=train, root=root) for train in (True, False))
    return Source("mnist", train, None, test, tuple("0123456789"))
