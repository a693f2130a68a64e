"""WebDataset shards: tar files in which ``000001.jpg`` and ``000001.cls`` are the image and the label of one sample.

The headers of the tar files are read once, so every sample has an index, and all guarantees of other sources hold:
stratified splits, cached logits by row, and a training that resumes. The shards are never unpacked, and images are
decoded once (``kd.data.sources.image_cache``), so no epoch depends on the speed of the shards.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kd.checks import DamagedDataError
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import Size, open_image, stamp_files
from kd.data.sources.image_folder import EXTENSIONS, FOREIGN
from kd.data.sources.labels import encode_labels
from kd.data.sources.source import Source
from kd.imports import import_extra

SPLITS = {"train": {"train", "training"}, "val": {"val", "valid", "validation", "dev"}, "test": {"test", "testing"}}
IMAGES = {extension.removeprefix(".") for extension in EXTENSIONS}
LABEL = "cls"
LABEL_BYTES = 1024  # a longer label is no class
_MAX_SHOWN = 3


class Place(NamedTuple):
    """Where the content of a file is inside a tar file, in bytes."""

    shard: int
    start: int
    size: int


class ShardImages(NamedTuple):
    """The images in some shards, read from their places.

    Attributes:
        names: of the images in errors, with their shards.
        keys: the common part of the names of each sample's files.
    """

    names: list[str]
    keys: list[str]
    shards: list[str]
    places: list[Place]

    def open(self, row: int) -> Image.Image:
        """Read an image's bytes and its header."""
        return open_image(io.BytesIO(_read(self.shards, self.places[row])))

    def stamps(self) -> list[object]:
        return stamp_files(self.shards)


def open_webdataset(
    pattern: str, *, size: int | Size | None = None, classes: list[str] | None = None, workers: int | None = None
) -> Source:
    """Open shards on this disk, with one image and one label file ``.cls`` per sample.

    A shard belongs to the split that its name contains as a word, or that its folder is named after:
    ``imagenet-val-000.tar`` and ``val/000.tar`` are validation shards. If no shard is named so, all are training data.

    Args:
        pattern: path with wildcards (``train-*.tar``) or braces (``{train,val}-{0000..0123}.tar``; extra ``wds``).
        size, workers: see ``kd.data.sources.image_dataset.build_image_dataset``.
        classes: class names in label order.

    Raises:
        ValueError: no shard, no training shard, compressed shards, or an address instead of a path.
        DamagedDataError: shards that are no tar files, or samples without exactly one image and one label.
        MissingExtraError: braces without the package ``braceexpand``.
    """
    shards = _group_by_split(_find_shards(pattern))
    images, labels = {}, {}
    for split, paths in shards.items():
        images[split], labels[split] = _index_shards(paths)
    numbers, names = encode_labels(labels, classes)
    data = build_image_dataset(images, numbers, size=size, workers=workers)
    ids = {split: part.keys for split, part in images.items()}
    return Source(Path(shards["train"][0]).stem, data["train"], data.get("val"), data.get("test"), names, ids)


def _find_shards(pattern: str) -> list[str]:
    if "://" in pattern or pattern.startswith("pipe:"):
        raise ValueError(f"wds: must name files on this disk. Got {pattern!r} instead. Download the shards first.")
    patterns = [pattern]
    if "{" in pattern:
        braceexpand = import_extra("braceexpand", library="braceexpand", name="wds", needed_for="wds: with braces")
        patterns = list(braceexpand.braceexpand(pattern))
    shards = [shard for part in patterns for shard in (sorted(glob.glob(part)) if glob.has_magic(part) else [part])]  # noqa: PTH207
    missing = [shard for shard in shards if not Path(shard).is_file()]
    if missing or not shards:
        raise ValueError(f"wds:{pattern} must name tar files. Got no file {(missing or [pattern])[0]}. Check the path.")
    return list(dict.fromkeys(shards))


def _group_by_split(shards: Sequence[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for shard in shards:
        path = Path(shard)
        words = set(re.split(r"[^a-z]+", path.name.lower()))
        named = [split for split, names in SPLITS.items() if words & names]
        named = named or [split for split, names in SPLITS.items() if path.parent.name.lower() in names]
        if len(named) > 1:
            raise ValueError(f"the name of a shard must contain one split. Got {' and '.join(named)} in {shard}.")
        groups[named[0] if named else ""].append(shard)
    if groups.keys() == {""}:
        return {"train": groups[""]}
    if "train" not in groups or "" in groups:
        advice = "Name all shards after train, val or test, or none"
        unnamed = groups.get("", ["none with train"])[0]
        raise ValueError(f"shards must include training shards, and all must be named. Got {unnamed}. {advice}.")
    return {split: groups[split] for split in SPLITS if split in groups}


def _index_shards(shards: list[str]) -> tuple[ShardImages, np.ndarray[Any, Any]]:
    """Return the images and the labels of some shards, in the order of the files in them."""
    names: list[str] = []
    keys: list[str] = []
    images: list[Place] = []
    labels: list[str] = []
    for number, shard in enumerate(shards):
        samples = _group_members(shard, number)
        wrong = [key for key, files in samples.items() if len(IMAGES & files.keys()) != 1 or LABEL not in files]
        if wrong:
            endings = {key: ", ".join(f".{ending}" for ending in sorted(samples[key])[:_MAX_SHOWN]) for key in wrong}
            raise DamagedDataError(
                f"each sample in {shard} must have one image and one label file .{LABEL}. Got "
                f"{', '.join(f'{key} with {endings[key]}' for key in wrong[:_MAX_SHOWN])}, {len(wrong):,} such samples "
                "in all. The name of a sample ends at its first dot."
            )
        for key, files in samples.items():
            names.append(f"{key} in {shard}")
            keys.append(key)
            images += [place for ending, place in files.items() if ending in IMAGES]
            labels.append(_read_label(shards, files[LABEL], names[-1]))
    return ShardImages(names, keys, shards, images), _to_numbers(labels)


def _group_members(shard: str, number: int) -> dict[str, dict[str, Place]]:
    """Return the places of a shard's files by sample and ending; endings that no sample needs are left out."""
    samples: dict[str, dict[str, Place]] = {}
    left_out = 0
    for member in _iterate_members(shard):
        folder, _, name = member.name.rpartition("/")
        if not FOREIGN.isdisjoint(folder.lower().split("/")):
            left_out += member.isreg()
            continue
        stem, dot, ending = name.partition(".")  # as webdataset does: an ending may have dots
        if not (member.isreg() and stem and dot) or member.issparse():
            continue
        files = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if ending.lower() in files:
            raise DamagedDataError(f"{shard} has two files {member.name}. Write each sample once.")
        files[ending.lower()] = Place(number, member.offset_data, member.size)
    if left_out:
        warnings.warn(f"{shard}: not read: {left_out:,} files in folders that other programs add.", stacklevel=5)
    return samples


def _iterate_members(shard: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                yield member
                tar.members = []  # type: ignore[attr-defined]  # otherwise a large shard's headers fill the memory
    except tarfile.TarError as error:
        raise DamagedDataError(
            f"{shard} is no tar file, or a compressed or damaged one ({error}). Shards must be uncompressed."
        ) from error


def _read(shards: Sequence[str], place: Place) -> bytes:
    with Path(shards[place.shard]).open("rb") as file:
        file.seek(0, os.SEEK_END)
        if place.start + place.size > file.tell():  # reading would allocate the size that the header states
            raise ValueError(f"it is truncated: {place.size:,} bytes are stated")
        file.seek(place.start)
        return file.read(place.size)


def _read_label(shards: Sequence[str], place: Place, name: str) -> str:
    if place.size > LABEL_BYTES:
        raise DamagedDataError(f"the label of {name} must be a number or a name. Got {place.size:,} bytes instead.")
    try:
        return _read(shards, place).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"the label of {name} must be text in UTF-8. Got {error.object!r} instead.") from error


def _to_numbers(labels: list[str]) -> np.ndarray[Any, Any]:
    are_numbers = all(label.removeprefix("-").isdecimal() for label in labels)  # −1 is no class, and refused later
    return np.array([int(label) for label in labels] if are_numbers else labels)
