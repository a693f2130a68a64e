"""Files that trainers save instead of weights: what they are, and a line that works."""

from __future__ import annotations

import io
import re
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
    explanation = explain_file((tmp_path / "FILE").read_bytes())
    assert explanation is not None
    (line,) = re.findall(r"torch\.save\(.*\"weights\.pth\"\)", explanation)
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


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 damaged", b"\x80\x02."])
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
