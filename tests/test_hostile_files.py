"""A file from a stranger is data or it is refused; in no case does it run, fill the memory or change the model."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.checkpoint import read_bytes, weights_bytes
from tests.conftest import tiny_model


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rezipped(content: bytes, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> bytes:
    """The same archive, each member written by ``change``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            change(new, member, old.read(member))
    return buffer.getvalue()


class Payload:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def bomb() -> bytes:
    """200 MB of zeros in 200 kB: torch would unpack it."""
    content = saved({"0.weight": torch.zeros(50_000_000)})
    return rezipped(content, lambda new, member, data: new.writestr(member.filename, data, zipfile.ZIP_DEFLATED))


def with_value(value: float) -> bytes:
    state = tiny_model().state_dict()
    state["1.weight"][0, 0] = value
    return saved(state)


def traversing() -> bytes:
    content = weights_bytes(tiny_model())
    return rezipped(content, lambda new, member, data: new.writestr(f"../../{member.filename}", data))


def doubled() -> bytes:
    content = weights_bytes(tiny_model())

    def twice(new: zipfile.ZipFile, member: zipfile.ZipInfo, data: bytes) -> None:
        new.writestr(member.filename, data)
        if member.filename.endswith("data.pkl"):
            new.writestr(member.filename, data)

    with pytest.warns(UserWarning, match="Duplicate name"):
        return rezipped(content, twice)


def resaved(**changed: Any) -> bytes:
    return saved({**tiny_model().state_dict(), **changed})


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (bomb, "compressed"),
    "view of 10^12 elements": (
        lambda: resaved(**{"1.bias": torch.zeros(1).expand(10**12)}),
        "larger than its stored data",
    ),
    "NaN": (lambda: with_value(float("nan")), "not finite"),
    "infinity": (lambda: with_value(float("inf")), "not finite"),
    "names that leave the folder": (traversing, "damaged or not a file of tensors"),
    "two members of one name": (doubled, "two members have one name"),
    "wrong model": (lambda: weights_bytes(nn.Linear(2, 2)), "should hold"),
    "wrong shape": (lambda: resaved(**{"1.bias": torch.zeros(3)}), r"1\.bias should be \[16\]"),
    "wrong type": (lambda: resaved(**{"1.bias": torch.zeros(16, dtype=torch.float64)}), "torch.float32"),
    "not a tensor": (lambda: resaved(**{"1.bias": 3}), "Got int"),
    "a list": (lambda: saved([1, 2]), "Got list"),
    "empty": (lambda: b"", "damaged or not a file of tensors"),
    "text": (lambda: b"hello", "damaged or not a file of tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_the_model_stays_as_it_was(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    path = tmp_path / "strange.pth"
    path.write_bytes(make())
    model = tiny_model(seed=1)
    before = weights_bytes(model)
    with pytest.raises(ValueError, match=reason) as refused:
        kd.load_weights(model, path)
    assert str(path) in str(refused.value)
    assert weights_bytes(model) == before


def test_a_payload_is_refused_and_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "strange.pth", tmp_path / "victim"
    path.write_bytes(saved({"1.weight": Payload(victim)}))
    with pytest.raises(ValueError, match="not a file of tensors"):
        kd.load_weights(tiny_model(), path)
    assert not victim.exists()


def test_one_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    content = bytearray(weights_bytes(tiny_model()))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content[largest.header_offset + 200] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch itself does not notice
    with pytest.raises(ValueError, match="checksum"):
        kd.load_weights(tiny_model(), path)


def test_a_symbolic_link_is_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="not a regular file"):
        read_bytes(tmp_path / "link")


def test_a_file_over_the_limit_or_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"larger than 4 bytes. Got 5"):
        read_bytes(path, limit=4)
    with pytest.raises(ValueError, match="SHA-256 should be 0"):
        read_bytes(path, sha256="0" * 64)
