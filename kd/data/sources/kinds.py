"""``open_source``: open any supported kind of dataset from one string."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd.checks import DamagedDataError, did_you_mean, similar_paths
from kd.data.mnist import load_mnist
from kd.data.sources.huggingface import open_huggingface
from kd.data.sources.idx_folder import is_idx_folder, open_idx_folder
from kd.data.sources.image_decoding import Size
from kd.data.sources.image_folder import open_image_folder
from kd.data.sources.npz import open_npz
from kd.data.sources.python_file import open_python_file
from kd.data.sources.sklearn_sets import SETS, open_sklearn
from kd.data.sources.source import Source
from kd.data.sources.table import open_table
from kd.data.sources.torchvision_sets import open_torchvision
from kd.data.sources.webdataset import open_webdataset

KINDS = (
    "mnist, torchvision:NAME, sklearn:NAME, hf:NAME_OR_FOLDER, wds:PATTERN, a folder of images (train/CLASS/…) or of "
    "IDX files, a .npz file, a .csv or .tsv file with the column of its classes, or a .py file with a function load()"
)


def open_source(
    where: str | Path,
    *,
    root: Path | str | None = None,
    size: int | Size | None = None,
    columns: tuple[str, str] | None = None,
    target: str | None = None,
    classes: Sequence[str] | None = None,
    download: bool = False,
    workers: int | None = None,
) -> Source:
    """Open a dataset with its original splits.

    Args:
        where: one of the kinds listed in ``KINDS``. A ``Path`` is never interpreted as a name.
        root: folder of torchvision's datasets; for ``mnist``, folder of a copy to use instead of the embedded one.
        size: (height, width), or one number for both, to which images are scaled and cropped; without it, all must have
            the same size. For image files, ``torchvision:``, ``hf:`` and ``wds:``.
        columns: names of the input and label columns, for ``hf:``.
        target: name of the column with the classes, for ``.csv`` and ``.tsv`` files; required there.
        classes: class names in label order, for files, folders and ``hf:``, if the data does not contain them.
        workers: processes that decode images, for the same; see ``kd.data.sources.image_cache.decode_once``.
        download: let ``hf:`` download data. Without it, and for all other kinds, the network is never used.

    Raises:
        ValueError: unknown kind, unsupported content, or an argument that does not apply.
        OSError: the data is missing or damaged.
        MissingExtraError: a package is not installed.
    """
    kind, name = _detect_kind(where)
    arguments = {"root": root, "size": size, "columns": columns, "target": target, "classes": classes}
    arguments["download"] = download or None
    unused = [argument for argument, value in arguments.items() if value is not None and argument not in _TAKES[kind]]
    if unused:
        raise ValueError(f"{unused[0]} ({_FLAGS[unused[0]]}) does not apply to {str(where)!r}. Omit it.")
    names = None if classes is None else [str(name) for name in classes]
    match kind:
        case "mnist":
            return _open_mnist(root)
        case "torchvision":
            return open_torchvision(name, root, size=size)
        case "sklearn":
            return open_sklearn(name)
        case "hf":
            return open_huggingface(name, columns=columns, size=size, classes=names, download=download, workers=workers)
        case "wds":
            return open_webdataset(name, size=size, classes=names, workers=workers)
        case ".npz":
            return _open_npz(Path(name), names)
        case ".csv" | ".tsv":
            return open_table(Path(name), target, names)
        case ".py":
            return open_python_file(Path(name))
        case "IDX":
            return open_idx_folder(Path(name), names)
    return open_image_folder(Path(name), size=size, classes=names, workers=workers)


def _open_npz(path: Path, classes: list[str] | None) -> Source:
    if not path.exists() and (hint := similar_paths(path)):
        raise DamagedDataError(f"cannot read the data file {path}: No such file. {hint}")
    return open_npz(path, classes)


# Flags of the commands, by argument: errors name both.
_FLAGS = {
    "root": "--data-dir",
    "size": "--image-size",
    "columns": "--columns",
    "target": "--target",
    "classes": "--class-names",
    "download": "--download",
}

# Arguments that apply, by kind of source.
_TAKES: dict[str, set[str]] = {
    "mnist": {"root"},
    "torchvision": {"root", "size"},
    "sklearn": set(),
    "hf": {"columns", "size", "classes", "download"},
    "wds": {"size", "classes"},
    ".npz": {"classes"},
    ".csv": {"target", "classes"},
    ".tsv": {"target", "classes"},
    ".py": set(),
    "IDX": {"classes"},
    "folder": {"size", "classes"},
}


def _detect_kind(where: str | Path) -> tuple[str, str]:
    """Return the kind, a key of ``_TAKES``, and the name or path to open."""
    if isinstance(where, str):
        kind, colon, name = where.partition(":")
        if where == "mnist" or (colon and kind in _PREFIXES):
            return kind, name
    path = Path(where)
    if path.suffix.lower() in _FILES:
        return path.suffix.lower(), str(path)
    if where and path.is_dir():
        return "IDX" if is_idx_folder(path) else "folder", str(path)
    hint = _explain_file(path) if where and path.is_file() else _suggest(where)
    raise ValueError(f"cannot open a dataset from {str(where)!r}. {hint}{' ' * bool(hint)}Allowed: {KINDS}.")


def _explain_file(path: Path) -> str:
    """Return the next step for an existing file whose ending is of no kind."""
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z"):
        return f"It is a packed file ({path.suffix}): unpack it, and pass the file or folder inside."
    with path.open("rb") as stream:
        is_text = b"\0" not in stream.read(_START)
    advice = f" If its content is of an allowed kind, rename it: {path.stem}.csv." if is_text else ""
    return f"Its ending {path.suffix!r} is unknown.{advice}"


_START = 1024  # bytes that tell text from binary files
_PREFIXES = ("torchvision", "sklearn", "hf", "wds")
_FILES = (".npz", ".csv", ".tsv", ".py")


def _suggest(where: str | Path) -> str:
    """Return ``Did you mean …?`` with similar names of datasets or files, or "" if there are none."""
    path, text = Path(where), str(where)
    _, colon, name = text.partition(":")
    names = [f"{prefix}:{name}" for prefix in _PREFIXES] if colon else ["mnist", *SETS]
    hint = did_you_mean(text, names) if isinstance(where, str) and path.name == text else ""
    for dataset in () if colon else SETS:
        hint = hint.replace(f" {dataset}", f" sklearn:{dataset}")
    return hint or similar_paths(path)


def _open_mnist(root: Path | str | None) -> Source:
    train, test = (load_mnist(train=train, root=root) for train in (True, False))
    return Source("mnist", train, None, test, tuple("0123456789"))
