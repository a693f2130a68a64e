"""``--teacher-trained-on``: a list of the teacher's training samples, compared with the test split."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from kd.checks import DamagedDataError, naming_flag
from kd.commands.data import Data
from kd.commands.settings import RunSettings
from kd.console import printable_name, say
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
        matches, lines = match_samples(names, hashes, data, Path(settings.data))
    total, leaked = len(names) + len(hashes), matches["test"]
    counts = ", ".join(
        f"{label} {len(matches[name]):,}"
        for name, label in (("train", "train"), ("val", "validation"), ("test", "test"))
    )
    say(f"{file}: {len(lines):,} of {total:,} lines match samples of the data ({counts})")
    if not lines:
        warnings.warn(
            f"no line of {file} matches a sample of {data.name}, so nothing is known about leaks. List paths as in the "
            "data, or the SHA-256 of files or of stored bytes.",
            stacklevel=2,
        )
    if leaked:
        shown = ", ".join(leaked[:_NAMED]) + (" and others" if len(leaked) > _NAMED else "")
        warnings.warn(
            f"THE TEACHER WAS TRAINED ON {len(leaked):,} OF THE {data.sizes['test']:,} TEST SAMPLES ({file}): {shown}. "
            "Its test accuracy is too high, and the students learn from memorised samples. Test on other samples.",
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


def match_samples(names: set[str], hashes: set[str], data: Data, folder: Path) -> tuple[dict[str, list[str]], set[str]]:
    """Return the samples of each split in the list, and the entries of the list that match one.

    Names match if one is the other or its last part; hashes are of the file or of the stored bytes.

    Args:
        folder: to which names of samples are relative if the data are a folder of images.

    Raises:
        ValueError: hashes are listed, and the samples are neither files nor stored arrays.
    """
    ids = data.source.all_ids
    ends: dict[str, set[str]] = {}
    for entry in names:
        for end in _list_ends(entry):
            ends.setdefault(end, set()).add(entry)
    splits = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
    matches: dict[str, list[str]] = {name: [] for name in splits}
    lines: set[str] = set()
    can_hash = False
    for split, dataset in splits.items():
        base, stored_rows = unwrap_subsets(dataset)
        for number, (row, stored) in enumerate(zip(data.rows[split], stored_rows.tolist(), strict=True)):
            name = printable_name(ids[row]) if ids else ""
            entries = (set(_list_ends(name)) & names) | ends.get(name, set()) if ids else set()
            if hashes:
                digests = {_hash_file(folder / ids[row])} if ids else set()
                digests |= {sha256(base.inputs[stored].numpy().tobytes())} if isinstance(base, ArrayDataset) else set()
                can_hash |= bool(digests - {""})
                entries |= digests & hashes
            lines |= entries
            matches[split] += [name or f"sample {number}"] if entries else []
    if hashes and not can_hash:
        raise ValueError(
            f"it lists hashes, but the samples of {data.name} are neither files nor stored arrays. List names."
        )
    return matches, lines


def _list_ends(name: str) -> list[str]:
    """Return a path and its last parts."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _hash_file(path: Path) -> str:
    return sha256(path.read_bytes()) if path.is_file() else ""
