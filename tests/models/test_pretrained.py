"""Pretrained weights: loaded bit by bit, with a new head for other classes; anything else that differs is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kd.models.build import build
from kd.models.pretrained import load_pretrained
from kd.storage.weights import weights_bytes

SHAPE = (3, 8, 8)
HEAD = ["output.weight", "output.bias"]


def make_model(spec: str = "cnn:4", classes: int = 5, seed: int = 1) -> nn.Module:
    return build(spec, input_shape=SHAPE, classes=classes, seed=seed)


def save(model: nn.Module, path: Path) -> Path:
    path.write_bytes(weights_bytes(model))
    return path


def test_a_file_that_fits_replaces_all_weights(tmp_path: Path) -> None:
    file, model = save(make_model(), tmp_path / "file.pth"), make_model(seed=2)
    pretrained = load_pretrained(model, file, classes=5)
    assert weights_bytes(model) == file.read_bytes()
    assert (pretrained.replaced, pretrained.stripped, pretrained.file_classes) == ([], [], 5)


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the safetensors extra")
    source, model, file = make_model(classes=7), make_model(seed=2), tmp_path / "file.safetensors"
    safetensors.save_file({name: value.contiguous() for name, value in source.state_dict().items()}, file)
    assert load_pretrained(model, file, classes=5).replaced == HEAD
    for name in source.state_dict().keys() - set(HEAD):
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])


@pytest.mark.parametrize("classes", [2, 4, 6, 1000])
def test_a_head_for_other_classes_keeps_the_models_own_values(classes: int, tmp_path: Path) -> None:
    source, model, fresh = make_model(classes=classes), make_model(seed=2), make_model(seed=2)
    torch.save({"state_dict": {f"module.{name}": v for name, v in source.state_dict().items()}}, tmp_path / "file.pth")
    pretrained = load_pretrained(model, tmp_path / "file.pth", classes=5)
    assert (pretrained.replaced, pretrained.file_classes) == (HEAD, classes)
    for name, value in model.state_dict().items():
        expected = fresh if name in HEAD else source
        assert torch.equal(value, expected.state_dict()[name]), name


def test_a_head_of_another_width_or_with_other_layers_is_an_error(tmp_path: Path) -> None:
    wrong = {
        r"layer1.0.weight should be \[4, 3, 3, 3\]": make_model("cnn:8", classes=7),
        r"it should hold \['hidden.bias'": make_model(),
    }
    for message, source in wrong.items():
        model = make_model("mlp:8" if "hidden" in message else "cnn:4")
        before = weights_bytes(model)
        with pytest.raises(ValueError, match=rf"file\.pth does not hold weights of .*{message}"):
            load_pretrained(model, save(source, tmp_path / "file.pth"), classes=5)
        assert weights_bytes(model) == before


class Tokens(nn.Module):
    """A model whose embedding has as many rows as there are classes."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.output = nn.Embedding(words, 3), nn.Linear(3, 5)


def test_an_embedding_of_another_vocabulary_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"words.weight should be \[5, 3\] of torch.float32\. Got \[9, 3\]"):
        load_pretrained(Tokens(5), save(Tokens(9), tmp_path / "file.pth"), classes=5)


def test_a_replaced_head_need_not_be_finite_but_all_else_must(tmp_path: Path) -> None:
    source = make_model(classes=7)
    nn.init.constant_(source.output.bias, torch.nan)  # type: ignore[arg-type]
    load_pretrained(make_model(), save(source, tmp_path / "file.pth"), classes=5)
    nn.init.constant_(source.layer1[0].weight, torch.nan)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"layer1\.0\.weight has values that are not finite"):
        load_pretrained(make_model(), save(source, tmp_path / "file.pth"), classes=5)
