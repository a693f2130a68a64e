"""Classifiers of transformers: only local files, only safetensors, classes in the order of the data.

The fast tests replace the library by a stand-in with the same calls; the slow ones use the library itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.storage.fingerprint import describe
from kd.teachers.class_order import match_names
from kd.teachers.huggingface_teacher import find_folder, load_huggingface

NAMES = ["ant", "bee", "cat"]


class Standin(nn.Module):
    """A model as transformers returns them: a config with names, and an output with an attribute ``logits``."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(names), _name_or_path="/somewhere")
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float16))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        columns = [self.scale * pixel_values.flatten(1).mean(1) * (k + 1) for k in range(len(self.config.id2label))]
        return SimpleNamespace(logits=torch.stack(columns, dim=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    (tmp_path / "own" / "model.safetensors").write_bytes(b"")
    return tmp_path / "own"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace transformers; ``names`` and ``lacking`` are the model's, ``calls`` what it was asked for."""
    state = SimpleNamespace(names=dict(enumerate(NAMES)), lacking=[], calls=[], error=None)

    def from_pretrained(where: Path, **options: Any) -> Any:
        state.calls.append((where, options))
        if state.error:
            raise state.error
        return Standin(state.names), {"missing_keys": set(state.lacking), "mismatched_keys": set()}

    module: Any = ModuleType("transformers")
    module.__version__ = "5"
    module.AutoModelForImageClassification = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return state


def run(model: nn.Module) -> Tensor:
    return model(torch.ones(2, 3, 4, 4)).detach()


def test_its_logits_are_taken_as_float32_and_only_local_safetensors_are_read(
    folder: Path, library: SimpleNamespace
) -> None:
    teacher = load_huggingface(folder, class_names=NAMES)
    torch.testing.assert_close(run(teacher), torch.tensor([[1.0, 2.0, 3.0]] * 2))
    ((where, options),) = library.calls
    assert where == folder
    assert options["local_files_only"]
    assert options["use_safetensors"]
    assert options["trust_remote_code"] is False


@pytest.mark.parametrize("order", [["cat", "ant", "bee"], ["Cat", "ANT", "bee "]])
def test_the_same_names_in_another_order_are_reordered_and_said(
    folder: Path, library: SimpleNamespace, order: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    library.names = dict(enumerate(order))
    teacher = load_huggingface(folder, class_names=NAMES)
    torch.testing.assert_close(run(teacher), torch.tensor([[2.0, 3.0, 1.0]] * 2))
    assert "its outputs are reordered by name, from" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("own", "names", "expected"),
    [
        (["a_b", "c"], ["C", "A B"], [1, 0]),
        (["LABEL_0", "LABEL_1"], ["ant", "bee"], None),
        (["ant", "bee"], ["0", "1"], None),
        (["ant", "bee"], ["ant", "bee"], None),
        (["1", "0"], ["0", "1"], [1, 0]),
    ],
)
def test_matching_names(own: list[str], names: list[str], expected: list[int] | None) -> None:
    assert match_names("it", own, names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ant", "bee", "dog"], r"has other classes than the data: 'ant', 'bee', 'dog'; 'cat' of the data are missing"),
        (["ant", "ant", "bee"], r"has other classes than the data"),
        (["ant", "bee", "cat", "dog"], r"has 4 classes, the data has 3.*--label-map.*--teacher-head fit"),
    ],
)
def test_other_classes_are_refused_in_words(
    folder: Path, library: SimpleNamespace, names: list[str], message: str
) -> None:
    library.names = dict(enumerate(names))
    with pytest.raises(ValueError, match=message):
        load_huggingface(folder, class_names=NAMES)
    assert load_huggingface(folder, class_names=None).class_names == tuple(names)


def test_a_backbone_without_a_head_is_refused(folder: Path, library: SimpleNamespace) -> None:
    library.lacking = ["classifier.weight", "classifier.bias"]
    with pytest.raises(
        ValueError, match=r"no weights for 2 tensors of its model, such as 'classifier.bias'.*--teacher"
    ):
        load_huggingface(folder, class_names=NAMES)


def test_errors_of_the_library_are_explained(folder: Path, library: SimpleNamespace) -> None:
    library.error = ValueError("requires you to execute the configuration file. Set trust_remote_code")
    with pytest.raises(ValueError, match=r"transformers cannot load an image classifier from .*\(requires you to exec"):
        load_huggingface(folder, class_names=NAMES)


def test_folders_of_another_form_are_refused(folder: Path, library: SimpleNamespace) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"weights as .safetensors. Got only pytorch_model.bin. Save it again"):
        load_huggingface(folder, class_names=NAMES)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config.json"):
        load_huggingface(folder, class_names=NAMES)
    assert not library.calls


def test_the_place_of_the_folder_does_not_matter_for_keys(folder: Path, library: SimpleNamespace) -> None:
    before = describe(load_huggingface(folder, class_names=NAMES))
    moved = folder.rename(folder.with_name("moved"))
    assert describe(load_huggingface(moved, class_names=NAMES)) == before


Hub = Callable[..., list[Any]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Any]:
    """Replace the hub's client: the cache is empty, and downloads give ``folder``. Returns the calls."""
    calls: list[Any] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        calls.append((name, local_files_only))
        assert "*.bin" not in allow_patterns
        if local_files_only:
            raise FileNotFoundError("not cached")
        return str(folder)

    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_only_download_uses_the_network(hub: list[Any], folder: Path, library: SimpleNamespace) -> None:
    with pytest.raises(OSError, match=r"no model someone/vit in Hugging Face's local cache.*--download allows"):
        load_huggingface("someone/vit", class_names=NAMES)
    load_huggingface("someone/vit", class_names=NAMES, download=True)
    assert hub == [("someone/vit", True), ("someone/vit", False)]
    assert library.calls[-1][0] == folder


@pytest.mark.parametrize("where", ["../other", "/nowhere/at/all", "a/b/c", "./vit"])
def test_paths_are_never_looked_up_as_names(hub: list[Any], where: str) -> None:
    with pytest.raises(OSError, match="there is no folder"):
        find_folder(where, download=True)
    assert not hub


@pytest.mark.slow
def test_the_library_itself(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.id2label, config.label2id = dict(enumerate(["cat", "ant", "bee"])), {"cat": 0, "ant": 1, "bee": 2}
    with kd.seeded(0):
        original = transformers.ViTForImageClassification(config).eval()
    original.save_pretrained(tmp_path / "vit")
    teacher, inputs = load_huggingface(tmp_path / "vit", class_names=NAMES), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(teacher.eval()(inputs), original(inputs).logits[:, [1, 2, 0]])
    assert describe(teacher) == describe(load_huggingface(tmp_path / "vit", class_names=NAMES))
    transformers.ViTModel(config).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"no weights for 2 tensors of its model, such as 'classifier"):
        load_huggingface(tmp_path / "backbone", class_names=NAMES)
    first, second = (load_huggingface(tmp_path / "backbone", class_names=None, needs_head=False) for _ in range(2))
    assert torch.equal(first.eval()(inputs), second.eval()(inputs))  # the head is random, from one seed
    written = json.loads((tmp_path / "vit" / "config.json").read_text())
    written["auto_map"] = {"AutoModelForImageClassification": "evil.Net"}
    written["model_type"] = "own"
    (tmp_path / "vit" / "config.json").write_text(json.dumps(written))
    (tmp_path / "vit" / "evil.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(ValueError, match="transformers cannot load an image classifier"):
        load_huggingface(tmp_path / "vit", class_names=NAMES)
