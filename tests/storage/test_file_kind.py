"""Files that trainers save instead of weights: what they are, and a line that works."""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.models.build import build
from kd.storage.file_kind import explain_file
from kd.storage.weights import weights_bytes

SHAPE = (3, 8, 8)


def make_model() -> nn.Module:
    return build("cnn:4", input_shape=SHAPE, classes=5, seed=1)


def save(content: Any, **arguments: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path, **arguments)


def save_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(make_model().eval(), torch.rand(1, *SHAPE)).save(path)  # type: ignore[no-untyped-call]


def save_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


STATE = make_model().state_dict()
FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a whole model": (save(make_model()), "it is a whole model"),
    "a model beside others": (save({"epoch": 3, "model": make_model(), "best": True}), "it holds a whole model"),
    "a model alone": (save({"net": make_model()}), "it holds a whole model"),
    "a model after an empty dictionary": (save({"args": {}, "model": make_model()}), "it holds a whole model"),
    "a nested model": (save({"args": {"lr": 0.1}, "last": {"step": 1, 'the "net"': make_model()}}), "holds a whole m"),
    "an old file": (save(STATE, _use_new_zipfile_serialization=False), "before version 1.6"),
    "TorchScript": (save_script, "it is a TorchScript model"),
    "a pointer": (save_pointer, "git lfs"),
    "NumPy arrays": (save({name: value.numpy() for name, value in STATE.items()}), "it holds NumPy arrays"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_error_says_what_the_file_is(name: str, tmp_path: Path) -> None:
    write, words = FILES[name]
    write(tmp_path / "file.pth")
    with pytest.raises(ValueError, match=re.escape(words)):
        kd.load_weights(make_model(), tmp_path / "file.pth")


@pytest.mark.parametrize("name", sorted(set(FILES) - {"a pointer"}))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_line_in_the_error_makes_a_weights_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FILES[name][0](tmp_path / "FILE")
    with pytest.raises(ValueError, match="Write the weights alone") as error:
        kd.load_weights(make_model(), tmp_path / "FILE")
    (line,) = re.findall(r"torch\.save\(.*\"weights\.pth\"\)", str(error.value))
    monkeypatch.chdir(tmp_path)
    exec(line, {"torch": torch})
    model = build("cnn:4", input_shape=SHAPE, classes=5, seed=2)
    kd.load_weights(model, "weights.pth")
    assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("content", [{"epoch": 3, "model": nn.Linear(2, 3)}, {"a": {"model": nn.Linear(2, 3)}}])
def test_a_model_of_layers_of_torch_in_a_dictionary_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r'weights_only=False\)(\["a"\])?\["model"\]\.state_dict\(\)'):
        kd.load_weights(nn.Linear(2, 3), tmp_path / "file.pth")


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


FORMATS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty. Download or copy it again"),
    "zeros": (bytes(1000), "it holds zeros only"),
    "a page": (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
    "JSON": (b'{"model_type": "resnet"}', "it is JSON text"),
    "gzip": (b"\x1f\x8b" + b"0" * 100, "it is compressed by gzip. Unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"0" * 100, "it is an HDF5 file, such as Keras's weights"),
    "a pickle": (
        pickle.dumps({"weight": [1.0]}),
        'torch.save(pickle.load(open("FILE", "rb")), "weights.pth"), which runs',
    ),
    "a download cut off": (weights_bytes(make_model())[:-500], "it is cut off"),
    "an exported program": (zipped("exported/archive_format", "exported/data/x"), "it is a program of torch.export"),
    "arrays": (zipped("weight.npy", "bias.npy"), "it holds NumPy arrays, not tensors"),
    "another archive": (zipped("README", "model.pth"), "it is an archive of other files, such as README"),
    "a tar archive": (bytes(257).replace(b"\0", b"a") + b"ustar" + bytes(300), "it is a tar archive"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "Rename it to FILE.safetensors"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_format_is_named_by_its_first_bytes(name: str, tmp_path: Path) -> None:
    content, words = FORMATS[name]
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        kd.load_weights(make_model(), tmp_path / "file.pth")
    assert "BadZipFile" not in str(error.value)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x09.", b"{not JSON"])
def test_other_content_is_not_explained(content: bytes) -> None:
    assert explain_file(content) is None


def test_a_compressed_member_is_not_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("file/data.pkl", bytes(10_000_000))

    def read(*_: Any) -> bytes:
        raise AssertionError("the member was read")

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    assert explain_file(buffer.getvalue()) is None
