"""Two descriptions are equal if and only if the computation is the same."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import kd
from kd.storage import fingerprint
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import list_differences
from tests.conftest import tiny_model

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(plain)
def test_plain_data_is_described_as_json_and_equal_data_equally(value: Any) -> None:
    assert digest(describe(value)) == digest(json.loads(json.dumps(describe(copy.deepcopy(value)))))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.data())
def test_one_changed_value_changes_a_tensors_description(values: list[int], data: st.DataObject) -> None:
    tensor = torch.tensor(values)
    changed = tensor.clone()
    changed[data.draw(st.integers(0, len(values) - 1))] += 1
    assert describe(tensor) != describe(changed)


def test_shape_and_dtype_are_part_of_a_tensors_description() -> None:
    zeros = torch.zeros(2, 3)
    assert describe(zeros) != describe(torch.zeros(3, 2))
    assert describe(zeros) != describe(torch.zeros(2, 3, dtype=torch.int32))


def test_memory_format_does_not_change_the_description() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert describe(images) == describe(images.contiguous(memory_format=torch.channels_last))


def test_an_array_that_splits_share_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = kd.ImageDataset(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6), mean=0.5, std=0.5)
    hashed = list[Any]()
    original = fingerprint._hash_content

    def count(value: Any) -> dict[str, Any]:
        hashed.append(value)
        return original(value)

    monkeypatch.setattr(fingerprint, "_hash_content", count)
    loaders = [DataLoader(Subset(dataset, rows)) for rows in ([0, 1], [2, 3], [4, 5])]
    separately = [describe(loader) for loader in loaders]
    before = len(hashed)
    assert describe(loaders) == separately
    assert len(hashed) - before == before // 3


class _Fresh:
    """Its state is a new tensor each time that it is read, perhaps at the address of an earlier one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __getstate__(self) -> torch.Tensor:
        return torch.full((3,), self.value)


def test_tensors_that_exist_only_while_they_are_described_are_not_confused() -> None:
    assert len({digest(item) for item in describe([_Fresh(value) for value in range(10)])}) == 10


def test_weights_class_and_forward_are_part_of_a_models_description() -> None:
    model = tiny_model()
    assert describe(model) == describe(copy.deepcopy(model))
    assert describe(model) != describe(tiny_model(seed=1))

    class OtherName(nn.Sequential):
        pass

    class OtherForward(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1)

    models = (model, OtherName(*model), OtherForward(*model))
    assert len({digest(describe(model)) for model in models}) == 3


def test_a_setting_of_a_layer_without_weights_changes_the_description() -> None:
    assert describe(tiny_model(dropout=0.1)) != describe(tiny_model(dropout=0.2))


def test_a_changed_forward_of_a_nested_module_changes_the_description() -> None:
    def block(source: str) -> nn.Module:
        class Block(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        class Changed(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + 1

        return Block() if source == "old" else Changed()

    old, new = (nn.Sequential(nn.Sequential(block(source))) for source in ("old", "new"))
    assert describe(old) != describe(new)


@pytest.mark.parametrize("change", [{"temperature": 4.0}, {"alpha": 0.4}])
def test_settings_are_part_of_an_objectives_description(change: dict[str, float]) -> None:
    setting = {"temperature": 5.0, "alpha": 0.5}
    assert describe(kd.distilled(**setting)) == describe(kd.distilled(**setting))
    assert describe(kd.distilled(**setting)) != describe(kd.distilled(**{**setting, **change}))


def test_the_teacher_is_part_of_a_live_objectives_description() -> None:
    objective = kd.distilled(temperature=5, alpha=0.5)
    first, second = (describe(kd.live_teacher(tiny_model(seed), objective)) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    "change",
    [
        lambda data: Subset(data, [0, 2, 1]),
        lambda data: Subset(data, [0, 1]),
        lambda data: kd.ImageDataset(data.images, data.labels.flip(0), mean=data.mean, std=data.std),
        lambda data: kd.ImageDataset(data.images, data.labels, mean=0.5, std=data.std),
        lambda data: kd.DistillDataset(data, torch.zeros(len(data), 4)),
    ],
)
def test_any_change_of_a_dataset_changes_the_description(
    change: Callable[[kd.ImageDataset], Dataset[Any]], digits: kd.ImageDataset
) -> None:
    assert describe(Subset(digits, [0, 1, 2])) == describe(Subset(digits, [0, 1, 2]))
    assert describe(change(digits)) not in (describe(digits), describe(Subset(digits, [0, 1, 2])))


def test_batch_size_drop_last_and_order_are_part_of_a_loaders_description(digits: kd.ImageDataset) -> None:
    variants: list[dict[str, Any]] = [{}, {"batch_size": 2}, {"batch_size": 2, "drop_last": True}, {"shuffle": True}]
    assert len({digest(describe(DataLoader(digits, **variant))) for variant in variants}) == len(variants)


def test_an_optimizers_description_has_its_settings_but_not_the_weights() -> None:
    first, second = (describe(torch.optim.Adam(tiny_model(seed).parameters(), lr=0.1)) for seed in (0, 1))
    assert first == second
    assert first != describe(torch.optim.Adam(tiny_model().parameters(), lr=0.2))
    assert first != describe(torch.optim.AdamW(tiny_model().parameters(), lr=0.1))


def test_an_opaque_attribute_raises_with_a_remedy() -> None:
    class Opaque(TensorDataset):
        def __init__(self) -> None:
            super().__init__(torch.zeros(1))
            self.handle = object()

    with pytest.raises(TypeError, match=r"whether a object has changed.*fingerprint\(\)"):
        describe(Opaque())
    Opaque.fingerprint = lambda self: "version 1"  # type: ignore[attr-defined]
    assert describe(Opaque())["content"] == "version 1"


def test_descriptions_are_equal_in_another_process() -> None:
    code = (
        "import kd, kd.storage.fingerprint as d; "
        "print(d.digest(d.describe([kd.distilled(temperature=5, alpha=.5), {'b': 1}])))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == digest(describe([kd.distilled(temperature=5, alpha=0.5), {"b": 1}]))


def test_differences_show_the_path_and_short_values() -> None:
    old = {"settings": {"epochs": 10, "seed": 0}, "model": {"weights": "a" * 64}}
    new = {"settings": {"epochs": 2, "seed": 0}, "model": {"weights": "b" * 64}}
    assert list_differences(old, new) == ["settings.epochs: 10 -> 2", "model.weights"]
    assert list_differences(old, old) == []


def test_differences_inside_a_list_show_the_path() -> None:
    optimizer = torch.optim.Adam(tiny_model().parameters(), lr=0.25)
    old = {"optimizer": describe(optimizer)}
    optimizer.param_groups[0]["lr"] = 0.5
    assert list_differences(old, {"optimizer": describe(optimizer)}) == ["optimizer.groups.0.lr: 0.25 -> 0.5"]
    assert list_differences({"layers": [1]}, {"layers": [1, 2]}) == ["layers: [1] -> [1, 2]"]


def test_function_defaults_and_module_attributes_change_the_description() -> None:
    def make_objective(temperature: float) -> Callable[..., float]:
        def objective(model: object, batch: object, temperature: float = temperature) -> float:
            return temperature

        return objective

    class Soft(nn.Module):
        def __init__(self, temperature: float) -> None:
            super().__init__()
            self.temperature = temperature

    assert describe(make_objective(4)) == describe(make_objective(4))
    assert describe(make_objective(4)) != describe(make_objective(5))
    assert describe(Soft(4)) == describe(Soft(4))
    assert describe(Soft(4)) != describe(Soft(5))


def test_the_set_of_trained_parameters_changes_the_description() -> None:
    model, frozen = tiny_model(), tiny_model()
    next(iter(frozen.parameters())).requires_grad_(False)
    descriptions = [
        describe(torch.optim.Adam(parameters))
        for parameters in (model.parameters(), list(model.parameters())[2:], frozen.parameters())
    ]
    assert len({digest(description) for description in descriptions}) == 3


def test_a_changed_setting_of_an_objective_is_shown_by_name() -> None:
    old, new = (describe(kd.distilled(temperature=t, alpha=0.5)) for t in (5, 4))
    assert list_differences(old, new) == ["closure.temperature: 5.0 -> 4.0"]


def test_an_integer_temperature_equals_the_float() -> None:
    assert describe(kd.distilled(temperature=5, alpha=1)) == describe(kd.distilled(temperature=5.0, alpha=1.0))


def test_the_loaded_code_is_described_and_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "edited_module.py"
    source.write_text("def objective(model, batch):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    objective = importlib.import_module("edited_module").objective
    before = describe(objective)
    source.write_text("def objective(model, batch):\n    return 2\n")
    assert describe(objective) == before


def test_a_function_as_default_is_described_without_its_address() -> None:
    def first(x: int) -> int:
        return x

    def with_default(x: int, inner: object = first, *, other: object = first) -> object:
        return x, inner, other

    assert " at 0x" in repr(first)
    assert " at 0x" not in str(describe(with_default))
