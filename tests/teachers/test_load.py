"""Pretrained teachers: loaded only if the file fits, class order adapted, accuracy measured."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd.models.build import build
from kd.storage.weights import state_bytes, weights_bytes
from kd.teachers.class_order import Reordered
from kd.teachers.load import load_teacher, teacher_accuracy
from tests.conftest import CLASSES
from tests.teachers.test_cache import good_teacher

NAMES = ["ant", "bee", "cat", "dog"]
SHAPE = (1, 6, 6)
SPEC = "mlp:8"
File = Callable[[Mapping[str, Tensor]], Path]


def as_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """Write the format by hand: length of the header, header as JSON, bytes of the tensors."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in state.items():
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += content
    return frame_header(json.dumps(header).encode()) + data


def frame_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@pytest.fixture(params=[".pth", ".safetensors"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> File:
    """Return a function that writes a state into a file of this format."""
    suffix = request.param
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="needs the safetensors extra")

    def write(state: Mapping[str, Tensor]) -> Path:
        path = tmp_path / f"teacher{suffix}"
        path.write_bytes(as_safetensors(state) if suffix == ".safetensors" else state_bytes(state))
        return path

    return write


def make_model(spec: str = SPEC, classes: int = CLASSES, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    return build(spec, input_shape=shape, classes=classes, seed=99)


def load(path: Path, spec: str = SPEC, **options: Any) -> nn.Module:
    return load_teacher(spec, path, **{"input_shape": SHAPE, "classes": CLASSES, **options})


@pytest.mark.parametrize("spec", [SPEC, "cnn:4"])
def test_a_loaded_teacher_returns_the_logits_of_the_saved_one(file: File, spec: str) -> None:
    teacher = make_model(spec).eval()
    path = file(teacher.state_dict())
    images = torch.randn(5, *SHAPE)
    assert torch.equal(load(path, spec).eval()(images), teacher(images))
    model = build(spec, input_shape=SHAPE, classes=CLASSES, seed=0).eval()
    kd.load_weights(model, path)
    assert torch.equal(model(images), teacher(images))


def test_another_class_order_is_reordered(file: File) -> None:
    teacher = make_model().eval()
    path = file(teacher.state_dict())
    images = torch.randn(5, *SHAPE)
    loaded = load(path, label_order=["dog", "ant", "cat", "bee"], class_names=NAMES).eval()
    assert isinstance(loaded, Reordered)
    ant, bee, cat, dog = 1, 3, 2, 0
    assert torch.equal(loaded(images), teacher(images)[:, [ant, bee, cat, dog]])
    kd.load_weights(make_model(), path)
    assert {name.split(".")[0] for name in loaded.state_dict()} == {"model", "columns"}


def test_a_head_with_other_classes_is_reported(file: File) -> None:
    for classes in (3, 1000):
        path = file(make_model(classes=classes).state_dict())
        message = rf"teacher\.\w+ does not hold weights of a MLP: its head has {classes} classes, the data has 4\. Use"
        with pytest.raises(ValueError, match=message):
            load(path)


def test_one_output_for_two_classes_has_its_own_remedy(file: File) -> None:
    state = make_model(classes=2).state_dict()
    one = {name: value[:1].clone() if name.startswith("output") else value for name, value in state.items()}
    with pytest.raises(ValueError, match=r"its head has 1 output, the data has 2 classes.*\[0, z\] for a score z"):
        load(file(one), classes=2)


@pytest.mark.filterwarnings("ignore:.*is designed for images")
def test_a_convolutional_head_with_a_thousand_classes_is_reported(tmp_path: Path) -> None:
    teacher = build("torchvision:squeezenet1_1", input_shape=(3, 64, 64), classes=1000, seed=0)
    (tmp_path / "teacher.pth").write_bytes(weights_bytes(teacher))
    with pytest.raises(ValueError, match=r"its head has 1000 classes, the data has 4\. Use a teacher"):
        load(tmp_path / "teacher.pth", "torchvision:squeezenet1_1", input_shape=(3, 64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {**s, "hidden.bias": s["hidden.bias"][:3]},
            r"hidden.bias should be \[8\] of torch.float32\. Got \[3\]",
        ),
        (lambda s: {**s, "hidden.bias": s["hidden.bias"] / 0}, r"hidden.bias has values that are not finite"),
        (lambda s: {name: s[name] for name in list(s)[1:]}, r"it lacks \['hidden.weight'\]"),
    ],
)
def test_weights_that_do_not_fit_exactly_raise(file: File, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(file(change(make_model().state_dict())))


def test_only_differing_names_are_reported(tmp_path: Path) -> None:
    state = make_model("cnn:4").state_dict()
    state["head.bias"] = state.pop("output.bias")
    (tmp_path / "teacher.pth").write_bytes(state_bytes(state))
    with pytest.raises(ValueError, match=r"it should hold \['output.bias'\]\. Got \['head.bias'\] instead\. The model"):
        load(tmp_path / "teacher.pth", "cnn:4")
    (tmp_path / "teacher.pth").write_bytes(state_bytes({f"x.{name}": value for name, value in state.items()}))
    with pytest.raises(ValueError, match=r"without the prefix 'x\.', it should hold \['output.bias'\]\. Got \['head"):
        load(tmp_path / "teacher.pth", "cnn:4")


def test_an_oversized_file_raises_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "teacher.pth").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(
        ValueError, match=r"larger than 64,\d+,\d+ bytes, 8 times the model's size and 64 MB\. Got 1,000"
    ):
        load(tmp_path / "teacher.pth")


def good_safetensors() -> bytes:
    return as_safetensors(make_model().state_dict())


HOSTILE = {
    "empty": (b"", r"it is empty\. Download"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
    "a web page": (b"<!DOCTYPE html><html></html>", "it is a web page"),
    "text": (b"hello, this is text", r"header should have at most [\d,]+ bytes\. Got [\d,]+"),
    "a pickle": (weights_bytes(nn.Linear(2, 2)), "header should have at most"),
    "a header of 2^60 bytes": (struct.pack("<Q", 2**60) + b"{}", "header should have at most"),
    "no JSON": (frame_header(b"{{{{"), r"damaged or not a safetensors file \(SafetensorError: "),
    "overlapping": (
        frame_header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        + bytes(4),
        "damaged or not a safetensors file",
    ),
    "10^12 elements": (
        frame_header(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}') + bytes(4),
        "damag",
    ),
    "another type": (
        frame_header(b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        "damaged or not",
    ),
    "nothing in it": (frame_header(b"{}"), r"it should hold \['hidden.bias'.*Got \[\] instead"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_safetensors_file_raises_and_does_not_change_the_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs the safetensors extra")
    content, message = HOSTILE[name]
    path, model = tmp_path / "teacher.safetensors", make_model()
    path.write_bytes(content)
    before = weights_bytes(model)
    with pytest.raises(ValueError, match=rf"does not hold weights of a MLP: .*{message}.*The model was not changed"):
        kd.load_weights(model, path)
    assert weights_bytes(model) == before


def test_a_truncated_safetensors_file_raises(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs the safetensors extra")
    content, path = good_safetensors(), tmp_path / "teacher.safetensors"
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="does not hold weights of a MLP"):
            load(path)


@settings(max_examples=100)
@given(data=st.data())
def test_a_corrupted_safetensors_file_raises_or_gives_finite_weights(data: st.DataObject) -> None:
    pytest.importorskip("safetensors", reason="needs the safetensors extra")
    content = bytearray(good_safetensors())
    place = st.integers(0, 299) | st.integers(0, len(content) - 1)  # the first 300 bytes are the header
    for at in data.draw(st.lists(place, min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.safetensors"
        path.write_bytes(content)
        try:
            teacher = load(path)
        except ValueError:
            return
    assert all(tensor.isfinite().all() for tensor in teacher.state_dict().values())


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "teacher.safetensors").write_bytes(good_safetensors())
    with pytest.raises(ImportError, match=r"needs safetensors.*pip install 'paired-distillation\[safetensors\]'"):
        load(tmp_path / "teacher.safetensors")


# --- accuracy


def test_the_accuracy_of_a_teacher_is_printed(digits: kd.ImageDataset, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = good_teacher().train()
    assert teacher_accuracy(teacher, digits).accuracy == 1
    assert teacher.training
    printed = " ".join(capsys.readouterr().out.split())
    assert printed == "teacher: accuracy 100.0% on 96 validation samples (chance 25.0%)"


def test_a_wrong_class_order_warns_with_the_right_order(digits: kd.ImageDataset) -> None:
    wrong = Reordered(good_teacher(), [1, 0, 2, 3])
    expected = (
        r"resnet: accuracy 50\.0% on 96 validation samples; its class order .* output 1 for class 0, 0 for class 1 "
        r"would give 100\.0%\. Pass label_order"
    )
    with pytest.warns(UserWarning, match=expected):
        assert teacher_accuracy(wrong, digits, name="resnet").accuracy == 0.5
    assert teacher_accuracy(Reordered(wrong, [1, 0, 2, 3]), digits).accuracy == 1


def test_an_untrained_teacher_warns(digits: kd.ImageDataset) -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    nn.init.zeros_(constant[1].weight)
    with pytest.warns(
        UserWarning, match=r"accuracy 25\.0%.*that is chance level \(25\.0% ± 0\.0%\)\. Check .*normalised"
    ):
        teacher_accuracy(constant, digits)


def test_labels_without_a_teacher_output_raise(digits: kd.ImageDataset) -> None:
    small = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(ValueError, match=r"labels must be within 0 … 2, the logits' columns\. Got '0 … 3'"):
        teacher_accuracy(small, digits)
