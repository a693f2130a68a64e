"""MNIST and the IDX format: the embedded copy is complete, and damaged files raise an error."""

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

examples = settings(max_examples=50)
REMEDY = "Download it again."
NAMES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def encode_idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


SMALL = encode_idx(VALUES)
DIGEST = hashlib.sha256(SMALL).hexdigest()


def read_content(content: bytes, suffix: str = "") -> torch.Tensor:
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


def test_sizes_and_digit_counts_match_the_published_ones(training: kd.ImageDataset, test: kd.ImageDataset) -> None:
    # Counts published with the database.
    assert training.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert training.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)


def test_an_item_is_an_image_and_its_label(training: kd.ImageDataset) -> None:
    image, label = training[0]
    assert (image.shape, image.dtype, type(label)) == ((1, 28, 28), torch.float32, int)
    assert training.labels.dtype == torch.int64


def test_normalised_training_images_have_mean_0_and_deviation_1(training: kd.ImageDataset) -> None:
    counts = torch.bincount(training.images.flatten(), minlength=256).numpy() / training.images.numel()
    normalised = training._normalise(torch.arange(256).to(torch.uint8)).double().numpy()
    mean = (counts * normalised).sum()
    assert mean == pytest.approx(0, abs=1e-3)
    assert (counts * (normalised - mean) ** 2).sum() ** 0.5 == pytest.approx(1, abs=1e-3)
    assert (np.diff(normalised) > 0).all()


def test_training_and_test_images_are_disjoint(training: kd.ImageDataset, test: kd.ImageDataset) -> None:
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
    """An empty folder for a user's copy, in torchvision's layout."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


def copy_gzipped(raw: Path) -> None:
    for name in NAMES:
        shutil.copy(EMBEDDED / f"{name}.gz", raw)


def copy_plain(raw: Path) -> None:
    for name in NAMES:
        (raw / name).write_bytes(gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes()))


@pytest.mark.parametrize("copy", [copy_gzipped, copy_plain])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_users_own_copy_gives_the_same_data(
    raw: Path, test: kd.ImageDataset, copy: Callable[[Path], None], kind: Callable[[Path], Path | str]
) -> None:
    copy(raw)
    copied = kd.load_mnist(train=False, root=kind(raw.parents[1]))
    assert torch.equal(copied.images, test.images)
    assert torch.equal(copied.labels, test.labels)


def test_a_missing_file_of_a_users_copy_is_named(raw: Path) -> None:
    copy_gzipped(raw)
    (raw / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(DamagedDataError, match="omit the data folder to use the embedded copy") as missing:
        kd.load_mnist(train=False, root=raw.parents[1])
    assert str(raw / NAMES[1]) in str(missing.value)


def test_a_damaged_file_of_a_users_copy_is_not_replaced_by_the_embedded_one(raw: Path) -> None:
    copy_plain(raw)
    path = raw / NAMES[1]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DamagedDataError, match=r"damaged or a different file.*SHA-256.*use the embedded copy"
    ) as damaged:
        kd.load_mnist(train=False, root=raw.parents[1])
    assert str(path) in str(damaged.value)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"not gzip")])
def test_a_damaged_embedded_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    copy_gzipped(tmp_path)
    damage(tmp_path / f"{NAMES[0]}.gz")
    monkeypatch.setattr("kd.data.mnist.EMBEDDED", tmp_path)
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*reinstall the package") as damaged:
        kd.load_mnist(train=False)
    assert str(tmp_path / f"{NAMES[0]}.gz") in str(damaged.value)


@examples
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1000))
def test_arrays_of_bytes_round_trip(shape: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(parse_idx(encode_idx(values), path=Path("x"), remedy=REMEDY).numpy(), values)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2**32 - 1, 0, 28), (0, 2**32 - 1, 2**32 - 1)])
def test_a_dimension_of_zero_raises_whatever_the_other_dimensions(shape: tuple[int, ...]) -> None:
    content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    with pytest.raises(DamagedDataError, match="x must hold at least one value"):
        parse_idx(content, path=Path("x"), remedy=REMEDY)


def test_more_dimensions_than_images_have_raise() -> None:
    with pytest.raises(DamagedDataError, match="x is not an IDX file"):
        parse_idx(encode_idx(np.ones((1,) * 5, dtype=np.uint8)), path=Path("x"), remedy=REMEDY)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_plain_and_gzipped_files_are_read(suffix: str) -> None:
    content = gzip.compress(SMALL) if suffix else SMALL
    assert np.array_equal(read_content(content, suffix).numpy(), VALUES)


@examples
@given(st.integers(0, 8 * len(SMALL) - 1))
def test_a_single_flipped_bit_raises(bit: int) -> None:
    content = bytearray(SMALL)
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedDataError, match=rf"small-idx is damaged or a different file.*{DIGEST}.*{REMEDY}"):
        read_content(bytes(content))


@examples
@given(st.integers(0, 8 * len(gzip.compress(SMALL)) - 1))
def test_a_flipped_bit_in_a_gzipped_file_raises_or_is_harmless(bit: int) -> None:
    """Some bits of a gzip header, such as its date, do not affect the content."""
    content = bytearray(gzip.compress(SMALL, mtime=0))
    content[bit // 8] ^= 1 << bit % 8
    try:
        values = read_content(bytes(content), ".gz")
    except DamagedDataError as damaged:
        assert "small-idx.gz" in str(damaged)  # noqa: PT017  # either outcome is right
        assert REMEDY in str(damaged)  # noqa: PT017
    else:
        assert np.array_equal(values.numpy(), VALUES)


@examples
@given(st.integers(0, len(SMALL) - 1), st.sampled_from(["", ".gz"]))
def test_a_truncated_file_raises(length: int, suffix: str) -> None:
    content = gzip.compress(SMALL, mtime=0) if suffix else SMALL
    with pytest.raises(DamagedDataError, match=rf"small-idx{suffix}.*{REMEDY}"):
        read_content(content[:length], suffix)


def test_a_folder_or_missing_file_raises(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DamagedDataError, match=f"cannot read the data file {path}.*{REMEDY}"):
            read_idx(path, sha256=DIGEST, remedy=REMEDY)


@pytest.mark.parametrize(
    "content", [b"", SMALL[:3], b"\x01" + SMALL[1:], SMALL[:2] + b"\x0d" + SMALL[3:], SMALL[:10], b"\x89PNG\r\n\x1a\n"]
)
def test_a_wrong_header_raises(content: bytes) -> None:
    header = content[:4].hex()
    with pytest.raises(DamagedDataError, match=f"x is not an IDX file of unsigned bytes. Got the header {header}"):
        parse_idx(content, path=Path("x"), remedy=REMEDY)


@pytest.mark.parametrize("content", [SMALL[:-1], SMALL + b"\0"])
def test_a_wrong_number_of_values_raises(content: bytes) -> None:
    with pytest.raises(DamagedDataError, match=r"x must hold 24 values for its shape \[2, 3, 4\]. Got 2[35]"):
        parse_idx(content, path=Path("x"), remedy=REMEDY)


def test_a_gzip_bomb_raises_before_it_fills_the_memory(tmp_path: Path) -> None:
    path, member = tmp_path / "bomb.gz", gzip.compress(bytes(64 * 1024**2))
    path.write_bytes(member * 160)  # 10 GB in 10 MB: a file may have many members
    with pytest.raises(DamagedDataError, match=rf"{path}: it unpacks to more than 268,435,456 bytes. {REMEDY}"):
        read_idx(path, sha256=DIGEST, remedy=REMEDY)


@pytest.mark.parametrize(("suffix", "limit"), [("", "LIMIT"), (".gz", "COMPRESSED_LIMIT"), (".gz", "LIMIT")])
def test_a_file_over_a_limit_raises(suffix: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx_module, limit, 20)
    with pytest.raises(DamagedDataError, match=rf"cannot read the data file .* more|larger than 20 bytes.*{REMEDY}"):
        read_content(gzip.compress(SMALL) if suffix else SMALL, suffix)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_raises_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gz")
    with pytest.raises(DamagedDataError, match=rf"cannot read .*pipe\.gz.* is not a regular file.*{REMEDY}"):
        read_idx(tmp_path / "pipe.gz", sha256=DIGEST, remedy=REMEDY)


def test_links_are_followed_and_circular_links_raise(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(gzip.compress(SMALL))
    (tmp_path / "link.gz").symlink_to("real")
    assert np.array_equal(read_idx(tmp_path / "link.gz", sha256=DIGEST, remedy=REMEDY).numpy(), VALUES)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DamagedDataError, match=rf"cannot read the data file .*circle.*{REMEDY}"):
        read_idx(tmp_path / "circle", sha256=DIGEST, remedy=REMEDY)
