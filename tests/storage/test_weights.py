"""Weights files contain only tensors, have equal bytes for equal weights, and load only into a matching model."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd.storage.files import publish
from kd.storage.weights import load_weights, weights_bytes
from models import StudentModel, TeacherModel


class CannotLoad(nn.Sequential):
    """A model whose class name must appear in the error if a file does not fit."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(nn.Linear(2, 4), nn.Linear(4, width))


def test_weights_are_a_plain_dictionary_of_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    state = torch.load(io.BytesIO(weights_bytes(model)), weights_only=True)
    assert type(state) is dict
    assert list(state) == list(model.state_dict())
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in state.values())


def test_different_weights_give_different_bytes() -> None:
    model = StudentModel(width=8)
    before = weights_bytes(model)
    assert weights_bytes(copy.deepcopy(model)) == before
    with torch.no_grad():
        model.output.bias[0] += 1
    assert weights_bytes(model) != before


def test_the_memory_format_does_not_change_the_bytes() -> None:
    plain = nn.Conv2d(2, 3, 3)
    channels_last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert plain.weight.stride() != channels_last.weight.stride()
    assert weights_bytes(plain) == weights_bytes(channels_last)


def test_the_teachers_memory_format_does_not_change_the_bytes() -> None:
    teacher = TeacherModel()
    plain = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    assert weights_bytes(plain) == weights_bytes(teacher)


@pytest.mark.parametrize("make", [TeacherModel, StudentModel, lambda: nn.BatchNorm1d(4)])
def test_saved_weights_load_bit_by_bit_into_another_model(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    model, other = make(), make()
    publish({tmp_path / "w.pth": weights_bytes(model)})
    load_weights(other, tmp_path / "w.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


class Payload:
    """A malicious object that creates a file when loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_code_in_a_weights_file_does_not_run(tmp_path: Path, save: Callable[[Any, Any], None]) -> None:
    trace, path = tmp_path / "trace", tmp_path / "w.pth"
    with path.open("wb") as file:
        save({"0.weight": Payload(trace)}, file)
    with pytest.raises(ValueError, match=r"w\.pth does not hold weights of a CannotLoad"):
        load_weights(CannotLoad(), path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists(), "the payload has no effect, so this test proves nothing"


GOOD = weights_bytes(CannotLoad())
BAD_FILES = {
    "empty": b"",
    "text": b"these are not weights",
    "truncated": GOOD[: len(GOOD) // 2],
    "damaged header": bytes([GOOD[0] ^ 1]) + GOOD[1:],
    "another model": weights_bytes(StudentModel(width=2)),
    "another shape": weights_bytes(CannotLoad(width=5)),
}


def load_error(path: Path, content: bytes, model: nn.Module) -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold weights") as caught:
        load_weights(model, path)
    return str(caught.value)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_the_error_of_a_wrong_file_names_path_and_class(tmp_path: Path, kind: str) -> None:
    message = load_error(tmp_path / "w.pth", BAD_FILES[kind], CannotLoad())
    assert message.startswith(f"{tmp_path / 'w.pth'} does not hold weights of a CannotLoad")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"0.weight": 1.0}, {}])
def test_tensors_in_another_structure_raise(tmp_path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    assert "CannotLoad" in load_error(tmp_path / "w.pth", buffer.getvalue(), CannotLoad())


@settings(max_examples=40)
@given(st.integers(0, len(GOOD) - 1))
def test_a_file_truncated_anywhere_raises(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert "CannotLoad" in load_error(Path(folder) / "w.pth", GOOD[:length], CannotLoad())


def test_a_rejected_file_leaves_the_model_unchanged(tmp_path: Path) -> None:
    model = CannotLoad()
    before = copy.deepcopy(model.state_dict())
    load_error(tmp_path / "w.pth", BAD_FILES["another shape"], model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_missing_file_raises_an_os_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_weights(CannotLoad(), tmp_path / "absent.pth")


def test_values_are_infinite_only_where_the_models_are(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self, *values: float) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor(values))

    (tmp_path / "w.pth").write_bytes(weights_bytes(Masked(0.0, -torch.inf)))
    load_weights(Masked(1.0, -torch.inf), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="mask has values that are not finite"):
        load_weights(Masked(-torch.inf, 0.0), tmp_path / "w.pth")
