"""Files and values that state or need absurd sizes raise an error that names them, before memory is allocated."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from kd.checks import DamagedDataError
from kd.data.sources import Source, open_source, split_source
from kd.models.build import build
from kd.storage import resources
from kd.teachers.logit_files import read_logits

Array = np.ndarray[Any, Any]
X, Y = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3
BOUND = 100_000_000  # bytes


def npy(descr: str, shape: tuple[int, ...], data: bytes = b"") -> bytes:
    """Return an array in ``.npy`` format with any header."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def save(path: Path, compression: int = zipfile.ZIP_STORED, **arrays: Array | bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            if isinstance(array, bytes):
                buffer.write(array)
            else:
                np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return path


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail a test that allocates more than ``BOUND`` bytes in Python or numpy."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("descr", ["|S0", "<U0", "|V0"])
@pytest.mark.parametrize("name", ["x", "y", "classes"])
def test_an_array_whose_values_have_no_bytes_is_named(descr: str, name: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x": X, "y": Y, name: npy(descr, (10**9,))}
    with pytest.raises(DamagedDataError, match=rf"own.npz: its array {name} cannot be used.*which has no bytes"):
        open_source(save(tmp_path / "own.npz", **arrays))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(("descr", "name"), [("<f4", "logits"), ("<U0", "id"), ("|S0", "id")])
def test_logits_or_ids_of_an_absurd_size_are_named(descr: str, name: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"logits": X[:, :3], "id": Y.astype(str), name: npy(descr, (10**9, 3))}
    ids = [str(number) for number in range(60)]
    with pytest.raises(ValueError, match=r"own.npz: (its values are of type .*no bytes|shape .* does not match)"):
        read_logits(save(tmp_path / "own.npz", **arrays), labels=torch.from_numpy(Y), classes=3, ids=ids)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("shape", [(60, 10**6), (10**6, 3)])
def test_logits_that_do_not_fit_the_data_are_refused_by_their_header(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = save(tmp_path / "own.npz", zipfile.ZIP_DEFLATED, logits=npy("<f4", shape, bytes(4 * shape[0] * shape[1])))
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match=r"it must have (3 columns|60 rows)|more than 64 times"):
        read_logits(path, labels=torch.from_numpy(Y), classes=3)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000


@pytest.mark.usefixtures("bounded")
def test_a_small_member_that_unpacks_to_a_large_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("y.npy", npy("<i8", (60,), Y.tobytes()))
        with archive.open("x.npy", "w") as file:
            file.write(npy("<f4", (60, 10**6)))
            for _ in range(240):
                file.write(bytes(10**6))
    with pytest.raises(DamagedDataError, match=r"its array x cannot be used.*unpack to 240,000,128 bytes"):
        open_source(tmp_path / "own.npz")


def test_arrays_larger_than_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "own.npz", x=np.ones((60, 150_000)), y=Y)
    # enough for the file of 72 MB, but not for its array and the float32 copy
    monkeypatch.setattr(resources, "available_memory", lambda: 90_000_000)
    with pytest.raises(MemoryError, match=r"own.npz: the content of its arrays needs about 108,000,\d+ bytes"):
        open_source(path)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("largest", [2**32 - 1, 2**62, np.uint64(2**64 - 1), 1e300, 2.0**63])
def test_one_absurd_label_is_named_before_a_name_is_made_for_each_number(largest: Any, tmp_path: Path) -> None:
    labels = Y.astype(np.asarray(largest).dtype)
    labels[7] = largest
    with pytest.raises(ValueError, match=r"labels.* must number the classes from 0. Got"):
        open_source(save(tmp_path / "own.npz", x=X, y=labels))


@pytest.mark.usefixtures("bounded")
def test_one_absurd_label_of_a_users_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\n\n\ndef load():\n"
        "    items = [(torch.full((2,), float(i)), 2**32 - 1 if i == 7 else i % 3) for i in range(60)]\n"
        "    return items, items\n"
    )
    with pytest.raises(ValueError, match=r"Got 4 different ones, the largest 4,294,967,295, for 60 training samples"):
        open_source(tmp_path / "own.py")


@pytest.mark.parametrize(
    "spec", ["mlp:1000000000000", f"mlp:{10**18},{10**18}", "cnn:10000000", f"convnet:1,{10**9},1"]
)
def test_a_model_that_does_not_fit_in_memory_is_named_before_it_is_built(spec: str) -> None:
    with pytest.raises(MemoryError, match=f"{spec} "):
        build(spec, input_shape=(1, 28, 28), classes=10, seed=0)


class _Items(Dataset[Any]):
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return torch.arange(3).mul(index + 1).to(self.dtype), index % 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_inputs_of_a_foreign_type_are_named(dtype: torch.dtype) -> None:
    source = Source("own", _Items(dtype), None, None, ("a", "b", "c"))
    with pytest.raises(ValueError, match=rf"inputs must be float32, uint8 or integers. Got {dtype}"):
        split_source(source)


def test_class_names_that_are_not_utf_8_are_named_before_any_training() -> None:
    source = Source("own", _Items(torch.float32), None, None, ("a", "b", "c\udcff"))
    with pytest.raises(ValueError, match=r"class names must be readable text. Got 'c\\udcff' for label 2"):
        split_source(source)
