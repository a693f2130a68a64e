"""ArrayDataset: items follow the documented formula, batches equal their items, stored inputs never change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kd
from kd.data.datasets import ArrayDataset, collate
from kd.storage.fingerprint import describe

exactly = settings(max_examples=40)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def inputs(shape: list[int], dtype: torch.dtype, rows: int = 6) -> Tensor:
    values = torch.randint(0, 256, (rows, *shape), generator=torch.Generator().manual_seed(0))
    return values.to(dtype) if dtype != torch.float32 else values / 100 - 1


@exactly
@given(SHAPES, st.sampled_from([torch.uint8, torch.float32]), st.booleans(), st.lists(st.integers(-6, 5), min_size=1))
def test_items_follow_the_formula_and_batches_equal_their_items(
    shape: list[int], dtype: torch.dtype, per_feature: bool, rows: list[int]
) -> None:
    stored = inputs(shape, dtype)
    mean = torch.linspace(0.1, 0.5, shape[-1]).double() if per_feature else 0.3
    std = torch.linspace(0.2, 0.9, shape[-1]).double() if per_feature else 0.25
    dataset = ArrayDataset(stored, torch.arange(6), mean=mean, std=std)
    batch, labels = collate(dataset.__getitems__(rows))
    scaled = stored[rows].double() / (255 if dtype == torch.uint8 else 1)
    torch.testing.assert_close(batch.double(), (scaled - mean) / std, rtol=1e-5, atol=1e-5)
    assert torch.equal(batch, torch.stack([dataset[row][0] for row in rows]))
    assert (batch.dtype, labels.tolist()) == (torch.float32, [row % 6 for row in rows])
    assert torch.equal(dataset.inputs, inputs(shape, dtype))  # conversion works on a copy


def test_without_mean_bytes_are_scaled_and_floats_are_unchanged() -> None:
    for dtype, factor in ((torch.uint8, 255), (torch.float32, 1)):
        stored = inputs([3], dtype)
        torch.testing.assert_close(ArrayDataset(stored, torch.arange(6))[2][0], stored[2].float() / factor)


def test_tokens_are_returned_unchanged() -> None:
    tokens = inputs([5], torch.int64)
    batch, _ = collate(ArrayDataset(tokens, torch.arange(6), mean=1.0, std=2.0).__getitems__([1, 4]))
    assert torch.equal(batch, tokens[[1, 4]])


def test_teacher_logits_are_added_to_inputs_of_any_shape() -> None:
    dataset = kd.DistillDataset(
        ArrayDataset(inputs([2, 3], torch.float32), torch.arange(6)), torch.arange(6.0)[:, None]
    )
    for batch, labels, logits in kd.make_loader(dataset, batch_size=4, shuffle=True):
        assert batch.shape[1:] == (2, 3)
        assert logits.flatten().tolist() == labels.tolist()


def test_changed_inputs_labels_or_normalisation_change_the_fingerprint() -> None:
    stored = inputs([3], torch.float32)
    variants = [
        ArrayDataset(stored, torch.arange(6)),
        ArrayDataset(stored + 1, torch.arange(6)),
        ArrayDataset(stored, torch.arange(6).flip(0)),
        ArrayDataset(stored, torch.arange(6), mean=0.5),
        ArrayDataset(stored, torch.arange(6), mean=torch.full((3,), 0.5)),
    ]
    assert len({str(describe(variant)) for variant in variants}) == len(variants)
    assert describe(variants[0]) == describe(ArrayDataset(stored.clone(), torch.arange(6)))


@pytest.mark.parametrize(
    ("bad_inputs", "labels", "message"),
    [
        (torch.zeros(4, 2).double(), torch.arange(4), r"uint8, float32 or int64 .* Got \[4, 2\] of torch.float64 and"),
        (torch.zeros(4), torch.arange(4), r"inputs \[N, ...\] .* Got \[4\] of torch.float32 and \[4\] instead"),
        (torch.zeros(4, 2), torch.arange(5), r"Got \[4, 2\] of torch.float32 and \[5\] instead"),
        (torch.zeros(4, 2), torch.zeros(4), r"labels must be int64.* Got torch.float32"),
    ],
)
def test_unsupported_inputs_or_labels_raise(bad_inputs: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataset(bad_inputs, labels)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.0, 0.0, "std must be above 0. Got 0.0"),
        (0.0, torch.tensor([1.0, 0.0]), "std must be above 0"),
        (torch.zeros(3), 1.0, r"mean must be .* shape \[2\]. Got \[3\]"),
        (0.0, torch.ones(5, 2), r"std must be .* shape \[2\]. Got \[5, 2\]"),
    ],
)
def test_invalid_mean_or_std_raises(mean: float, std: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataset(torch.zeros(4, 2), torch.arange(4), mean=mean, std=std)
