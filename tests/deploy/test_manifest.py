"""The manifest states what a program needs to use the weights, and a damaged or foreign one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import kd
from kd.commands.run.files import untested_weight_files
from kd.data.datasets import ArrayDataset
from kd.data.sources.normalisation import normalise
from kd.deploy.description import describe_architecture, describe_task
from kd.deploy.load import load_network
from kd.deploy.manifest import Manifest, read_manifest
from kd.evaluation.two_models import accuracy_of
from kd.models.build import build
from kd.storage.files import sha256

SPECS = ("mlp:7", "mlp:9,5", "convnet:4,8,16", "cnn:3")
SHAPE = (3, 24, 24)


def images(count: int = 12) -> Dataset[Any]:
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    data = ArrayDataset(pixels, torch.arange(count) % 2)
    return normalise({"train": Subset(data, range(1, count))})["train"]


def write(folder: Path, dataset: Dataset[Any], models: dict[str, nn.Module], classes: tuple[str, ...]) -> None:
    kd.publish(untested_weight_files(folder / "models", models, dataset, classes=classes, toy=None))


def a_manifest(folder: Path) -> Manifest:
    models = {spec: build(spec, input_shape=SHAPE, classes=2, seed=0) for spec in SPECS}
    write(folder, images(), {f"m{n}": model for n, model in enumerate(models.values())}, ("cat", "dog"))
    return read_manifest(folder)


def apply(manifest: Manifest, raw: Tensor) -> Tensor:
    """Normalise raw inputs in float64, as the manifest says."""
    rules, inputs = manifest.preprocessing, raw.double()
    if not rules.mean:
        return inputs
    shape = [-1, *[1] * (raw.ndim - 2)] if raw.ndim >= 4 else [-1]
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(shape) for values in (rules.mean, rules.std))
    return (inputs / rules.scale - mean) / std


def test_a_network_inside_another_model_is_not_loaded_without_the_rest(tmp_path: Path) -> None:
    """Names may be stripped from checkpoints of training programs, but a run's own file holds exactly its model."""
    rest = nn.Sequential()
    rest.add_module("network", build("cnn:3", input_shape=SHAPE, classes=2, seed=0))
    rest.add_module("own", nn.Linear(2, 2))
    write(tmp_path, images(), {"teacher_model": rest}, ("cat", "dog"))
    manifest = read_manifest(tmp_path)
    with pytest.raises(ValueError, match=r"it holds more than these: removed 'network\.' from the names"):
        load_network(manifest, "teacher_model", spec="cnn:3")


def test_the_manifest_names_the_architectures_that_rebuild_the_models(tmp_path: Path) -> None:
    manifest = a_manifest(tmp_path)
    assert tuple(entry.architecture for entry in manifest.models.values()) == SPECS
    for entry in manifest.models.values():
        assert entry.architecture
        model = build(entry.architecture, input_shape=manifest.input_shape, classes=len(manifest.classes), seed=1)
        kd.load_weights(model, manifest.folder / entry.file)
        assert entry.sha256 == sha256((manifest.folder / entry.file).read_bytes())


def test_a_subclass_that_computes_something_else_has_no_name() -> None:
    class Doubled(kd.models.MLP):
        def forward(self, inputs: Tensor) -> Tensor:
            return 2 * super().forward(inputs)

    class Renamed(kd.models.MLP):
        pass

    assert describe_architecture(Doubled(5)) is None
    assert describe_architecture(Renamed(5)) == "mlp:5"
    assert describe_architecture(nn.Flatten()) is None


@pytest.mark.parametrize("shape", [(4,), (5, 4), (1, 6, 6), (3, 6, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_raw_inputs_become_the_models_inputs_by_the_manifests_numbers(
    shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    raw = torch.randint(0, 256, (9, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    dataset = normalise({"train": ArrayDataset(raw, torch.arange(9) % 2)})["train"]
    write(tmp_path, dataset, {"m": build("mlp:3", input_shape=shape, classes=2, seed=0)}, ("0", "1"))
    manifest = read_manifest(tmp_path / "models" / "manifest.json")
    assert (manifest.input_shape, manifest.input_dtype) == (shape, str(dtype).removeprefix("torch."))
    expected = torch.stack([dataset[row][0] for row in range(9)])
    torch.testing.assert_close(apply(manifest, raw).float(), expected, atol=1e-5, rtol=1e-5)
    is_picture = dtype == torch.uint8 and len(shape) == 3
    assert manifest.preprocessing.mode == ({1: "L", 3: "RGB"}[shape[0]] if is_picture else None)
    assert manifest.preprocessing.resize == (shape[1:] if is_picture else None)
    assert manifest.noun == ("images" if len(shape) == 3 else "items")


def test_mnist_has_its_published_statistics() -> None:
    described = describe_task(kd.load_mnist(train=False), tuple("0123456789"))
    assert described["preprocessing"]["mean"] == [0.1307]
    assert described["preprocessing"]["std"] == [0.3081]
    assert described["task"] == {
        "input_shape": [1, 28, 28],
        "input_dtype": "uint8",
        "noun": "images",
        "classes": [*"0123456789"],
    }


def test_tokens_and_datasets_of_the_users_own_are_not_normalised() -> None:
    tokens = ArrayDataset(torch.arange(12).reshape(3, 4), torch.arange(3))
    own = TensorDataset(torch.randn(3, 4), torch.arange(3))
    for dataset, dtype in ((tokens, "int64"), (own, "float32")):
        described = describe_task(dataset, "abc")
        assert described["task"]["input_dtype"] == dtype
        assert described["preprocessing"]["mean"] == described["preprocessing"]["std"] == []


def test_normalisation_by_pixel_is_refused_on_reading(tmp_path: Path) -> None:
    pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    dataset = ArrayDataset(pixels, torch.arange(3), mean=torch.rand(1, 2, 2), std=1.0)
    write(tmp_path, dataset, {"m": kd.models.MLP(3, input_shape=(1, 2, 2), classes=3)}, tuple("abc"))
    with pytest.raises(ValueError, match=r"normalised value by value.*Run the command"):
        read_manifest(tmp_path)


Content = dict[str, Any]
TEST: Content = accuracy_of(2, 8)._asdict()


def without(name: str) -> Content:
    return {key: value for key, value in TEST.items() if key != name}


BROKEN: dict[str, Callable[[Content], object]] = {
    "number 1": lambda content: content.pop("format"),
    "another version": lambda content: content.update(format=2),
    "has no 'task'": lambda content: content.pop("task"),
    "not a list": lambda content: content["task"].update(classes="ab"),
    "a class name is 1": lambda content: content["task"].update(classes=[1, 2]),
    "1 classes": lambda content: content["task"].update(classes=["a"]),
    "a size is 0": lambda content: content["task"].update(input_shape=[0, 24, 24]),
    "a size is True": lambda content: content["task"].update(input_shape=[True, 24, 24]),
    "inputs are 'float64'": lambda content: content["task"].update(input_dtype="float64"),
    "need 3 numbers": lambda content: content["preprocessing"].update(mean=[0.5]),
    "not a finite number": lambda content: content["preprocessing"].update(mean=[float("nan")] * 3),
    "not above 0": lambda content: content["preprocessing"].update(std=[0.0] * 3),
    "mode is 'CMYK'": lambda content: content["preprocessing"].update(mode="CMYK"),
    "resize differs": lambda content: content["preprocessing"].update(resize={"height": 9, "width": 24}),
    "not a file's name": lambda content: content["models"].update({"../m.pth": content["models"]["m0.pth"]}),
    "'architecture'": lambda content: content["models"]["m0.pth"].pop("architecture"),
    "damaged": lambda content: content.update(models=[]),
    "has no 'errors'": lambda content: content["models"]["m0.pth"].update(test=without("errors")),
    "9 errors on 8 items": lambda content: content["models"]["m0.pth"].update(test=TEST | {"errors": 9}),
    "accuracy has '1'": lambda content: content["models"]["m0.pth"].update(test=TEST | {"accuracy": "1"}),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_damaged_or_earlier_manifest_is_refused_with_the_next_step(reason: str, tmp_path: Path) -> None:
    manifest = a_manifest(tmp_path)
    path = manifest.folder / "manifest.json"
    content = json.loads(path.read_bytes())
    BROKEN[reason](content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{'format 1' if reason == 'number 1' else reason}.*Run the command") as error:
        read_manifest(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"[^.]\. Run the command|wrote it\. Run"):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_and_an_unknown_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*models.manifest.json.*kd run"):
        read_manifest(tmp_path)
    manifest = a_manifest(tmp_path)
    assert manifest.model("m1") == manifest.model("m1.pth")
    with pytest.raises(ValueError, match="has no model m9"):
        manifest.model("m9")
