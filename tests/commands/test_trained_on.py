"""A teacher that was trained on test samples is reported, by names, hashes of files or of stored bytes."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd.commands.data import load_data
from kd.commands.settings import RunSettings
from kd.commands.trained_on import warn_about_leaks


@pytest.fixture(name="photos")
def _photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in "ab":
            folder = tmp_path / f"photos/{split}/{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (6, 6)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}{number}.png")
    return tmp_path / "photos"


def check(data: Path | str, lines: list[str], folder: Path) -> list[str]:
    """Return the warnings about a list of training samples."""
    (folder / "list.txt").write_text("\n".join(lines))
    settings = RunSettings(data=str(data), teacher_trained_on=folder / "list.txt")
    loaded = load_data(settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_about_leaks(settings, loaded)
    return [str(warning.message) for warning in caught]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_names_and_hashes_of_files(photos: Path, tmp_path: Path) -> None:
    train = sorted((photos / "train").rglob("*.png"))
    assert check(photos, [path.relative_to(photos).as_posix() for path in train], tmp_path) == []
    assert check(photos, [digest(path) for path in train], tmp_path) == []
    for lines in (
        ["./test/a/test1.png", "test/b/test0.png", "train/a/train0.png"],
        ["a/test1.png", "b/test0.png"],
        [digest(photos / "test/a/test1.png").upper(), f"{digest(photos / 'test/b/test0.png')}  other/name.png"],
    ):
        (warning,) = check(photos, lines, tmp_path)
        assert "TRAINED ON 2 OF THE 8 TEST SAMPLES" in warning
        assert "test/a/test1.png, test/b/test0.png" in warning


def test_names_below_another_folder_match_and_counts_are_printed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (warning,) = check(photos, ["/old/photos/test/a/test1.png", "gone.png"], tmp_path)
    assert "TRAINED ON 1 OF THE 8 TEST SAMPLES" in warning
    assert "1 of 2 lines match samples of the data (train 0, validation 0, test 1)" in " ".join(
        capsys.readouterr().out.split()
    )
    (warning,) = check(photos, ["/old/est1.png"], tmp_path)
    assert "no line of" in warning


def test_hashes_of_stored_bytes(tmp_path: Path) -> None:
    inputs = np.random.default_rng(1).integers(0, 256, (60, 5, 5)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=inputs, y=np.arange(60) % 2)
    settings = RunSettings(data=str(tmp_path / "d.npz"))
    test = load_data(settings).rows["test"]
    (warning,) = check(tmp_path / "d.npz", [hashlib.sha256(inputs[test[0]].tobytes()).hexdigest()], tmp_path)
    assert "TRAINED ON 1 OF THE 12 TEST SAMPLES" in warning
    with pytest.raises(ValueError, match="lists names, but the samples of d have none"):
        check(tmp_path / "d.npz", ["cat.png"], tmp_path)
    with pytest.raises(ValueError, match=r"must hold a name or a SHA-256 per line\. Got an empty file"):
        check(tmp_path / "d.npz", [""], tmp_path)


OWN_DATA = """
import torch
from torch.utils.data import Dataset

class Items(Dataset):
    def __init__(self, first):
        self.first = first
    def __len__(self):
        return 60
    def __getitem__(self, row):
        return torch.full((3,), float(self.first + row)), row % 2

def load():
    return Items(0), Items(100)
"""


def test_hashes_that_match_nothing_are_said_and_those_that_cannot_match_refused(photos: Path, tmp_path: Path) -> None:
    unknown = hashlib.sha256(b"of another data set").hexdigest()
    (warning,) = check(photos, [unknown], tmp_path)
    assert "no line of" in warning
    assert "or the SHA-256 of files or of stored bytes" in warning
    (tmp_path / "items.py").write_text(OWN_DATA)
    with pytest.raises(
        ValueError, match=r"--teacher-trained-on .*: it lists hashes, but the samples of items are neither files nor"
    ):
        check(tmp_path / "items.py", [unknown], tmp_path)
    with pytest.raises(ValueError, match="it lists hashes"):
        check(tmp_path / "items.py", [unknown, "a-name.png"], tmp_path)
