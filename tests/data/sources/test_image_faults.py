"""A passing fault of the machine never deletes decoded images."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.data.sources.image_cache import decode_once, find_data_folder
from kd.data.sources.image_decoding import ImageFormat, ImagePaths
from tests.data.sources.image_trees import save_tree


def decode(folder: Path) -> Path:
    splits = {"train": ImagePaths(sorted(folder.rglob("*.png")))}
    data_folder = find_data_folder(splits)
    assert data_folder is not None
    return decode_once(splits, data_folder, ImageFormat("RGB", (6, 5)), workers=0)


@pytest.mark.parametrize("finished", [True, False])
def test_arrays_that_cannot_be_opened_now_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, finished: bool
) -> None:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    save_tree(tmp_path / "photos")
    arrays = decode(tmp_path / "photos")
    if not finished:
        arrays = arrays.rename(arrays.with_name(f"{arrays.name}.part"))
        (arrays / "complete.json").unlink()
    before = {path.name: path.read_bytes() for path in arrays.iterdir()}

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(np, "load", fail)
        with pytest.raises(OSError, match="Too many open files"):
            decode(tmp_path / "photos")
    assert {path.name: path.read_bytes() for path in arrays.iterdir()} == before
    decode(tmp_path / "photos")
