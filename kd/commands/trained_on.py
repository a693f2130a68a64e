"""``--teacher-trained-on``: a list of the teacher's training samples, compared with the test split."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from kd.checks import DamagedDataError, naming_flag
from kd.commands.data import Data
from kd.commands.settings import RunSettings
from kd.data.datasets import ArrayDataset, unwrap_subsets
from kd.storage.files import sha256

_SHA256 = re.compile("[0-9a-fA-F]{64}")
_NAMED = 3


def warn_about_leaks(settings: RunSettings, data: Data) -> None:
    """Warn if the teacher was trained on test samples, by the list of its training samples.

    Raises:
        OSError: the list cannot be read.
        ValueError: the list is empty, or holds names and the data have none.
    """
    file = settings.teacher_trained_on
    if file is None:
        return
    with naming_flag(f"--teacher-trained-on {file}"):
        names, hashes = read_list(file)
        if names and not data.test_ids and not hashes:
            raise ValueError(
                f"it lists names, but the samples of {data.name} have none. List the SHA-256 of each sample's bytes."
            )
        leaked = find_leaked(names, hashes, data, Path(settings.data))
    if leaked:
        shown = ", ".join(leaked[:_NAMED]) + (" and others" if len(leaked) > _NAMED else "")
        warnings.warn(
            f"THE TEACHER WAS TRAINED ON {len(leaked):,} OF THE {data.sizes['test']:,} TEST SAMPLES ({file}): {shown}. "
            "Its test accuracy is too high, and students learn from what it remembers of them. Test on other samples.",
            stacklevel=2,
        )


def read_list(file: Path) -> tuple[set[str], set[str]]:
    """Return the names and the SHA-256 digests in a text file with one of them per line.

    Lines of ``sha256sum`` work too; their names are not read.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedDataError(f"cannot read {file} as text: {error}.") from error
    entries = [line.split()[0] if _SHA256.fullmatch(line.split()[0]) else line for line in lines if line]
    if not entries:
        raise ValueError(f"{file} must hold a name or a SHA-256 per line. Got an empty file.")
    hashes = {entry.lower() for entry in entries if _SHA256.fullmatch(entry)}
    return {entry.removeprefix("./") for entry in entries if not _SHA256.fullmatch(entry)}, hashes


def find_leaked(names: set[str], hashes: set[str], data: Data, folder: Path) -> list[str]:
    """Return the test samples in the list: by name, a last part of it, or the hash of the file or the stored bytes.

    Args:
        folder: to which names of samples are relative if the data are a folder of images.
    """
    ids = data.test_ids
    rows = range(data.sizes["test"])
    stored = _hash_stored(data) if hashes else iter(())
    leaked = []
    for row, digest in zip(rows, stored, strict=True) if hashes else ((row, "") for row in rows):
        name = ids[row] if ids else f"sample {row}"
        parts = name.split("/")
        by_name = bool(ids) and any("/".join(parts[start:]) in names for start in range(len(parts)))
        by_hash = digest in hashes or (bool(hashes and ids) and _hash_file(folder / name) in hashes)
        if by_name or by_hash:
            leaked.append(name)
    return leaked


def _hash_stored(data: Data) -> Iterator[str]:
    base, rows = unwrap_subsets(data.test_set)
    for row in rows.tolist():
        yield sha256(base.inputs[row].numpy().tobytes()) if isinstance(base, ArrayDataset) else ""


def _hash_file(path: Path) -> str:
    return sha256(path.read_bytes()) if path.is_file() else ""
