"""Predictions are read back as they were saved, and change neither the data nor other models' inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

import kd
from kd.models.inference import Predictions, predict
from tests.conftest import tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_of_either_precision_are_read_back(dtype: torch.dtype, digits: kd.ImageDataset) -> None:
    batches = [(digits[row][0][None].to(dtype), torch.tensor([digits[row][1]])) for row in range(3)]
    predictions = predict(tiny_model().to(dtype), batches)
    assert predictions.logits.dtype == dtype
    read = Predictions.from_state(predictions._asdict())
    assert torch.equal(read.logits, predictions.logits)
    assert read.logits.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_saved_logits_of_another_precision_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        Predictions.from_state({"logits": torch.zeros(2, 3, dtype=dtype), "labels": torch.zeros(2).long()})


# --- models that change their inputs in place


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs.sub_(10))
        return logits


class Slices(Dataset[Any]):
    """Batches as views of the data: an item is a list of consecutive rows."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.inputs[rows[0] : rows[-1] + 1], self.labels[rows[0] : rows[-1] + 1]


def make_batches(kind: str, data: Slices) -> Any:
    if kind == "list":
        return [data[[0, 11]], data[[12, 23]]]
    if kind == "tuple of the whole":
        return ((data.inputs, data.labels),)
    if kind == "views":
        return DataLoader(data, batch_size=None, sampler=BatchSampler(SequentialSampler(data), 12, drop_last=False))
    if kind == "own collate_fn":
        return DataLoader(range(24), batch_size=12, collate_fn=data.__getitem__)  # type: ignore[arg-type]
    return DataLoader(TensorDataset(data.inputs, data.labels), batch_size=12)


@pytest.mark.parametrize("kind", ["list", "tuple of the whole", "views", "own collate_fn", "stacked"])
def test_a_model_that_works_in_place_changes_no_data_of_the_user(kind: str) -> None:
    inputs = torch.rand(24, 5, generator=torch.Generator().manual_seed(0))
    batches = make_batches(kind, Slices(inputs.clone(), torch.arange(24) % 3))
    first, second = InPlace(), nn.Linear(5, 3)
    expected = kd.predict(second, batches).logits
    loss = kd.evaluate(first, kd.supervised, batches)
    assert kd.evaluate(first, kd.supervised, batches) == loss
    assert torch.equal(kd.predict(first, batches).logits, first(inputs.clone()).detach())
    kd.fit(
        first, kd.supervised, batches, batches, optimizer=torch.optim.SGD(first.parameters(), lr=0.1), epochs=1, seed=0
    )
    assert torch.equal(kd.predict(second, batches).logits, expected)


class Samples(Dataset[Any]):
    """Samples of a form that a function makes of (input, label)."""

    def __init__(self, form: Callable[[Tensor, int], Any]) -> None:
        self.form = form

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.form(torch.ones(4), index % 2)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda x, y: ((x, x), y), r"inputs of a batch must be one tensor.* Got a list of 2\. Pack several inputs"),
        (lambda x, y: ({"a": x}, y), r"inputs of a batch must be one tensor.* Got a dict of 1"),
        (lambda x, y: {"pixels": x, "labels": y}, r"must be \(input.*\. Got .*dictionar.* with pixels, labels"),
    ],
)
def test_samples_of_several_inputs_and_dictionaries_are_refused(form: Any, message: str) -> None:
    model, samples = nn.Linear(4, 2), Samples(form)
    with pytest.raises(ValueError, match=message):
        kd.collect_logits(model, samples)
    with pytest.raises(ValueError, match=message):
        kd.predict(model, DataLoader(samples, batch_size=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        kd.fit(model, kd.supervised, DataLoader(samples), None, epochs=1, seed=0, optimizer=optimizer)


def test_a_loader_in_place_of_a_dataset_is_refused() -> None:
    dataset = TensorDataset(torch.ones(6, 4), torch.arange(6) % 2)
    with pytest.raises(ValueError, match=r"Got 'DataLoader' instead \(pass loader\.dataset"):
        kd.collect_logits(nn.Linear(4, 2), DataLoader(dataset))  # type: ignore[arg-type]
