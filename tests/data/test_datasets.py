"""Datasets and collation: correct samples, labels, logits and ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
)

import kd
from kd.data.datasets import Split, collate
from kd.data.splits import stratified_order

exactly = settings(max_examples=40)
N = 42
ALL = list(range(N))


class Plain(Dataset[tuple[Tensor, int]]):
    """A dataset as a user would write it: no ``__getitems__``, int labels."""

    def __init__(self, dataset: kd.ImageDataset, noise: float = 0.0) -> None:
        self.dataset, self.noise = dataset, noise

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        return image + self.noise * torch.randn(image.shape), label


def numbered(seed: int = 0) -> kd.ImageDataset:
    """N random images; each label is the image's index, so that labels reveal the order."""
    images = torch.randint(0, 256, (N, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return kd.ImageDataset(images, torch.arange(N), mean=0.3, std=0.2)


def as_tensors(dataset: kd.ImageDataset) -> TensorDataset:
    return TensorDataset(*collate(dataset.__getitems__(list(range(len(dataset))))))


def same_batches(first: DataLoader[Any], second: DataLoader[Any]) -> bool:
    pairs = zip(list(first), list(second), strict=True)
    return all(torch.equal(a, b) for batch, expected in pairs for a, b in zip(batch, expected, strict=True))


@exactly
@given(st.lists(st.integers(-N, N - 1), min_size=1, max_size=9))
def test_a_gathered_batch_equals_its_items(indices: list[int]) -> None:
    images, labels = collate(numbered().__getitems__(indices))
    items = [numbered()[index] for index in indices]
    assert torch.equal(images, torch.stack([image for image, _ in items]))
    assert labels.tolist() == [label for _, label in items]


def test_items_are_normalised_bytes() -> None:
    dataset, (image, label) = numbered(), numbered()[7]
    expected = (dataset.images[7].double() / 255 - 0.3) / 0.2
    assert (image.dtype, image.shape, type(label), label) == (torch.float32, (1, 3, 3), int, 7)
    torch.testing.assert_close(image.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda d: d, Plain, as_tensors, lambda d: Subset(d, range(5, 30))])
@pytest.mark.parametrize("with_logits", [False, True])
def test_collate_matches_torchs_collate(wrap: Callable[..., Dataset[Any]], with_logits: bool) -> None:
    dataset = wrap(numbered())
    if with_logits:
        dataset = kd.DistillDataset(dataset, torch.randn(len(dataset), 3))  # type: ignore[arg-type]
    loader, torchs_loader = DataLoader(dataset, batch_size=8, collate_fn=collate), DataLoader(dataset, batch_size=8)
    first = next(iter(loader))
    assert isinstance(first, tuple)
    assert [tensor.dtype for tensor in first] == [torch.float32, torch.int64, torch.float32][: len(first)]
    assert same_batches(loader, torchs_loader)


@pytest.mark.parametrize("wrap", [lambda d: d, Plain, as_tensors, lambda d: Subset(d, range(N)[::-1])])
def test_logits_are_paired_with_the_sample_of_their_row(wrap: Callable[..., Dataset[Any]]) -> None:
    dataset = wrap(numbered())
    labels = [float(dataset[i][1]) for i in range(N)]
    distill = kd.DistillDataset(dataset, torch.tensor(labels)[:, None].expand(N, 3))
    assert len(distill) == N
    assert torch.equal(distill[4][0], dataset[4][0])
    assert [distill[i][2].tolist() for i in (0, 9, -1)] == [[labels[i]] * 3 for i in (0, 9, -1)]
    for images, numbers, logits in kd.make_loader(Subset(distill, [8, 3, 5, 3]), batch_size=3):
        assert logits.tolist() == [[float(number)] * 3 for number in numbers]
        assert torch.equal(images, torch.stack([numbered()[int(number)][0] for number in numbers]))


@pytest.mark.parametrize(
    ("images", "labels", "got"),
    [
        (torch.zeros(4, 1, 2, 2), 4, r"\[4, 1, 2, 2\] of torch.float32 and \[4\]"),
        (torch.zeros(4, 2, 2, dtype=torch.uint8), 4, r"\[4, 2, 2\] of torch.uint8 and \[4\]"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), 5, r"\[4, 1, 2, 2\] of torch.uint8 and \[5\]"),
    ],
)
def test_invalid_images_or_labels_raise(images: Tensor, labels: int, got: str) -> None:
    with pytest.raises(ValueError, match=f"ImageDataset needs uint8 images .* and labels .* Got {got} instead"):
        kd.ImageDataset(images, torch.arange(labels), mean=0.5, std=0.5)


@pytest.mark.parametrize("read", [lambda data: data[0], lambda data: data.__getitems__([0, 1])])
def test_a_third_column_does_not_pass_for_the_logits(read: Callable[[Any], object]) -> None:
    scores = torch.randn(3, 4)
    data = kd.DistillDataset(TensorDataset(torch.randn(3, 2), torch.arange(3), scores), torch.randn(3, 4))
    with pytest.raises(ValueError, match=r"must be \(input, label\) in the dataset\. Got 3 columns instead"):
        read(data)


@pytest.mark.parametrize("rows", [N - 1, N + 1])
def test_logits_of_the_wrong_length_raise(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"one row per sample\. Got {rows} rows for {N} samples"):
        kd.DistillDataset(numbered(), torch.zeros(rows, 3))


def test_logits_may_be_an_array_or_have_a_graph_but_must_be_a_table() -> None:
    logits = torch.randn(N, 3)
    for same in (logits.numpy(), logits.clone().requires_grad_()):
        row = kd.DistillDataset(numbered(), same)[1][2]
        assert torch.equal(row, logits[1])
        assert not row.requires_grad
    with pytest.raises(ValueError, match=rf"the shape of logits must be \[N, K\]\. Got \[{N}\] instead"):
        kd.DistillDataset(numbered(), torch.arange(N))


@exactly
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 100))
def test_every_prefix_of_the_stratified_order_has_the_classes_in_proportion(classes: list[int], seed: int) -> None:
    labels = torch.tensor(classes)
    indices = stratified_order(labels, seed=seed)
    assert sorted(indices.tolist()) == list(range(len(classes)))
    assert indices.tolist() == stratified_order(labels, seed=seed).tolist()
    for label in set(classes):
        share = classes.count(label) / len(classes)
        counts = np.cumsum(labels.numpy()[indices] == label)
        # Off by at most 1 for the class itself, plus its share of the other classes' deviations.
        off = np.abs(counts - share * np.arange(1, len(classes) + 1))
        assert off.max() <= 1 + share * len(set(classes))


def test_another_seed_gives_another_stratified_order() -> None:
    assert len({tuple(stratified_order(torch.arange(60) % 3, seed=seed).tolist()) for seed in range(9)}) == 9


@given(st.lists(st.integers(-30, 29), min_size=1, max_size=40))
def test_a_batch_of_a_split_equals_its_items_for_negative_indices_too(indices: list[int]) -> None:
    data = numbered()
    rows = np.random.default_rng(0).permutation(len(data))[:30]
    images, labels = collate(Split(data, rows.tolist()).__getitems__(indices))
    plain = Subset(data, rows.tolist())
    assert torch.equal(images, torch.stack([plain[index][0] for index in indices]))
    assert labels.tolist() == [plain[index][1] for index in indices]


def test_an_index_out_of_range_raises() -> None:
    data = numbered()
    for dataset, index in ((data, len(data)), (data, -len(data) - 1), (Split(data, range(3)), 3)):
        with pytest.raises(IndexError):
            dataset.__getitems__([0, index])


def test_ids_are_optional_and_equal_the_sample_indices() -> None:
    plain, with_ids = (kd.DistillDataset(numbered(), torch.zeros(N, 3), ids=ids) for ids in (False, True))
    assert len(plain[3]) == 3
    assert (with_ids[3][3], with_ids[-1][3]) == (3, N - 1)
    for dataset in (with_ids, kd.DistillDataset(Plain(numbered()), torch.zeros(N, 3), ids=True)):
        seen = []
        for _, labels, _, ids in kd.make_loader(dataset, batch_size=5, shuffle=True):
            assert torch.equal(ids, labels)  # each label is the sample's index
            seen += ids.tolist()
        assert sorted(seen) == ALL
    batch = next(iter(DataLoader(with_ids, batch_size=4)))  # torch's own collate
    assert batch[3].tolist() == [0, 1, 2, 3]
