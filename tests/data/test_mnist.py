"""MNIST and its file format: the embedded copy is whole, and a damaged one never gets through."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kd
from kd.checks import DamagedDataError
from kd.data import idx as idx_module
from kd.data.idx import parse_idx, read_idx
from kd.data.mnist import EMBEDDED

pytestmark = pytest.mark.whole_mnist

exactly = settings(max_examples=50)
REMEDY = "Fetch it again."
PARTS = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


SMALL = idx(VALUES)
DIGEST = hashlib.sha256(SMALL).hexdigest()


def read(content: bytes, suffix: str = "") -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"small-idx{suffix}"
        path.write_bytes(content)
        return read_idx(path, sha256=DIGEST, remedy=REMEDY)


@pytest.fixture(scope="module")
def training() -> kd.ImageDataset:
    return kd.load_mnist(train=True)


@pytest.fixture(scope="module")
def test() -> kd.ImageDataset:
    return kd.load_mnist(train=False)


def test_the_sets_have_their_sizes_and_every_digit_its_count(training: kd.ImageDataset, test: kd.ImageDataset) -> None:
    # Counts as published with the database.
    assert training.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert training.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)


def test_an_item_is_an_image_and_its_digit(training: kd.ImageDataset) -> None:
    image, label = training[0]
    assert (image.shape, image.dtype, type(label)) == ((1, 28, 28), torch.float32, int)
    assert training.labels.dtype == torch.int64


def test_normalised_training_images_have_mean_0_and_deviation_1(training: kd.ImageDataset) -> None:
    counts = torch.bincount(training.images.flatten(), minlength=256).numpy() / training.images.numel()
    normalised = training._normalised(torch.arange(256).to(torch.uint8)).double().numpy()
    mean = (counts * normalised).sum()
    assert mean == pytest.approx(0, abs=1e-3)
    assert (counts * (normalised - mean) ** 2).sum() ** 0.5 == pytest.approx(1, abs=1e-3)
    assert (np.diff(normalised) > 0).all()


def test_no_image_is_in_both_sets(training: kd.ImageDataset, test: kd.ImageDataset) -> None:
    known = {image.tobytes() for image in training.images.numpy()}
    assert not any(image.tobytes() in known for image in test.images.numpy())


def test_loading_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    assert len(kd.load_mnist(train=False)) == 10_000


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The folder of a user's own copy, as torchvision lays it out; still empty."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


def copy_gzipped(raw: Path) -> None:
    for name in PARTS:
        shutil.copy(EMBEDDED / f"{name}.gz", raw)


def copy_plain(raw: Path) -> None:
    for name in PARTS:
        (raw / name).write_bytes(gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes()))


@pytest.mark.parametrize("copy", [copy_gzipped, copy_plain])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_users_own_copy_gives_the_same_data(
    raw: Path, test: kd.ImageDataset, copy: Callable[[Path], None], kind: Callable[[Path], Path | str]
) -> None:
    copy(raw)
    own = kd.load_mnist(train=False, root=kind(raw.parents[1]))
    assert torch.equal(own.images, test.images)
    assert torch.equal(own.labels, test.labels)


def test_a_missing_file_of_a_users_copy_is_named_with_the_remedy(raw: Path) -> None:
    copy_gzipped(raw)
    (raw / f"{PARTS[1]}.gz").unlink()
    with pytest.raises(DamagedDataError, match="name no data folder to use the embedded copy") as missing:
        kd.load_mnist(train=False, root=raw.parents[1])
    assert str(raw / PARTS[1]) in str(missing.value)


def test_a_damaged_file_of_a_users_copy_is_not_replaced_by_the_embedded_one(raw: Path) -> None:
    copy_plain(raw)
    path = raw / PARTS[1]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"damaged or another file.*SHA-256.*use the embedded copy") as damaged:
        kd.load_mnist(train=False, root=raw.parents[1])
    assert str(path) in str(damaged.value)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"not gzip")])
def test_a_damaged_embedded_file_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    copy_gzipped(tmp_path)
    damage(tmp_path / f"{PARTS[0]}.gz")
    monkeypatch.setattr("kd.data.mnist.EMBEDDED", tmp_path)
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*reinstall the package") as damaged:
        kd.load_mnist(train=False)
    assert str(tmp_path / f"{PARTS[0]}.gz") in str(damaged.value)


@exactly
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1000))
def test_every_array_of_bytes_is_read_back(shape: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(parse_idx(idx(values), path=Path("x"), remedy=REMEDY).numpy(), values)


def test_an_array_without_values_is_read_back() -> None:
    empty = np.empty((0, 3), dtype=np.uint8)
    assert parse_idx(idx(empty), path=Path("x"), remedy=REMEDY).shape == (0, 3)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_right_file_is_read_plain_and_gzipped(suffix: str) -> None:
    content = gzip.compress(SMALL) if suffix else SMALL
    assert np.array_equal(read(content, suffix).numpy(), VALUES)


@exactly
@given(st.integers(0, 8 * len(SMALL) - 1))
def test_a_single_flipped_bit_is_found(bit: int) -> None:
    content = bytearray(SMALL)
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedDataError, match=rf"small-idx is damaged or another file.*{DIGEST}.*{REMEDY}"):
        read(bytes(content))


@exactly
@given(st.integers(0, 8 * len(gzip.compress(SMALL)) - 1))
def test_a_flipped_bit_in_a_gzipped_file_is_found_or_harmless(bit: int) -> None:
    """Some bits of a gzip header, such as its date, say nothing about the content."""
    content = bytearray(gzip.compress(SMALL, mtime=0))
    content[bit // 8] ^= 1 << bit % 8
    try:
        values = read(bytes(content), ".gz")
    except DamagedDataError as damaged:
        assert "small-idx.gz" in str(damaged)  # noqa: PT017  # either outcome is right
        assert REMEDY in str(damaged)  # noqa: PT017
    else:
        assert np.array_equal(values.numpy(), VALUES)


@exactly
@given(st.integers(0, len(SMALL) - 1), st.sampled_from(["", ".gz"]))
def test_a_file_cut_off_anywhere_is_refused(length: int, suffix: str) -> None:
    content = gzip.compress(SMALL, mtime=0) if suffix else SMALL
    with pytest.raises(DamagedDataError, match=rf"small-idx{suffix}.*{REMEDY}"):
        read(content[:length], suffix)


def test_something_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DamagedDataError, match=f"cannot read the data file {path}.*{REMEDY}"):
            read_idx(path, sha256=DIGEST, remedy=REMEDY)


@pytest.mark.parametrize(
    "content", [b"", SMALL[:3], b"\x01" + SMALL[1:], SMALL[:2] + b"\x0d" + SMALL[3:], SMALL[:10], b"\x89PNG\r\n\x1a\n"]
)
def test_a_wrong_header_is_refused(content: bytes) -> None:
    header = content[:4].hex()
    with pytest.raises(DamagedDataError, match=f"x is not an IDX file of unsigned bytes. Got the header {header}"):
        parse_idx(content, path=Path("x"), remedy=REMEDY)


@pytest.mark.parametrize("content", [SMALL[:-1], SMALL + b"\0"])
def test_a_wrong_number_of_values_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedDataError, match=r"x should hold 24 values for its shape \[2, 3, 4\]. Got 2[35]"):
        parse_idx(content, path=Path("x"), remedy=REMEDY)


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path, piece = tmp_path / "bomb.gz", gzip.compress(bytes(64 * 1024**2))
    path.write_bytes(piece * 160)  # 10 GB in 10 MB: a file may have many members
    with pytest.raises(DamagedDataError, match=rf"{path}: it unpacks to more than 268,435,456 bytes. {REMEDY}"):
        read_idx(path, sha256=DIGEST, remedy=REMEDY)


@pytest.mark.parametrize(("suffix", "limit"), [("", "LIMIT"), (".gz", "COMPRESSED_LIMIT"), (".gz", "LIMIT")])
def test_a_file_over_a_limit_is_refused(suffix: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_module, limit, 20)
    with pytest.raises(DamagedDataError, match=rf"cannot read the data file .* more|larger than 20 bytes.*{REMEDY}"):
        read(gzip.compress(SMALL) if suffix else SMALL, suffix)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gz")
    with pytest.raises(DamagedDataError, match=rf"cannot read .*pipe\.gz.* is not a regular file.*{REMEDY}"):
        read_idx(tmp_path / "pipe.gz", sha256=DIGEST, remedy=REMEDY)


def test_a_link_to_the_right_file_is_read_and_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(gzip.compress(SMALL))
    (tmp_path / "link.gz").symlink_to("real")
    assert np.array_equal(read_idx(tmp_path / "link.gz", sha256=DIGEST, remedy=REMEDY).numpy(), VALUES)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DamagedDataError, match=rf"cannot read the data file .*circle.*{REMEDY}"):
        read_idx(tmp_path / "circle", sha256=DIGEST, remedy=REMEDY)
