"""The split into training and validation images: disjoint, whole, in proportion, and a function of its seed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kd
from kd.data.splits import stratified_order, stratified_parts, stratified_split


def dataset(labels: list[int]) -> kd.ImageDataset:
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    return kd.ImageDataset(images, torch.tensor(labels), mean=0.5, std=0.25)


@settings(max_examples=40)
@given(st.integers(20, 90), st.integers(2, 4), st.floats(0.2, 0.8), st.integers(0, 9))
def test_the_parts_share_no_image_and_leave_none_out(n: int, classes: int, held_back: float, seed: int) -> None:
    data = dataset([i % classes for i in range(n)])
    train, held = stratified_split(data, held_back=held_back, seed=seed)
    assert sorted([*train.indices, *held.indices]) == list(range(n))
    assert abs(len(held) - held_back * n) < 1
    for part in (train, held):
        counts = torch.bincount(data.labels[list(part.indices)], minlength=classes)
        assert int(counts.max() - counts.min()) <= 2
    again = stratified_split(data, held_back=held_back, seed=seed)
    assert [part.indices for part in again] == [train.indices, held.indices]


def test_another_seed_splits_otherwise() -> None:
    data = dataset([i % 3 for i in range(60)])
    assert len({tuple(stratified_split(data, held_back=0.5, seed=seed)[1].indices) for seed in range(9)}) == 9


def test_a_limit_splits_the_start_of_the_stratified_order() -> None:
    data = dataset([i % 3 for i in range(60)])
    train, held = stratified_split(data, held_back=0.5, seed=4, limit=12)
    assert {*train.indices, *held.indices} == set(stratified_order(data.labels, seed=4)[:12].tolist())


def test_too_few_images_for_every_class_are_refused_with_the_reason() -> None:
    expected = r"holding back 0\.2 of 10 items does not leave every class in both parts: of 5 classes, 5 and 2 are\."
    with pytest.raises(ValueError, match=expected):
        stratified_split(dataset([i % 5 for i in range(10)]), held_back=0.2, seed=0)


@settings(max_examples=40)
@given(st.integers(40, 90), st.integers(2, 4), st.integers(0, 9))
def test_several_shares_are_cut_from_the_end_of_one_order(n: int, classes: int, seed: int) -> None:
    labels = torch.arange(n) % classes
    train, val, test = stratified_parts(labels, [0.25, 0.2], seed=seed)
    assert [*train, *val, *test] == stratified_order(labels, seed=seed).tolist()
    assert len(test) == math.ceil(0.2 * n)
    assert len(val) == math.ceil(0.25 * (n - len(test)))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"a share that is held back must be in \(0, 1\). Got {share} instead"):
        stratified_split(dataset([0, 1] * 9), held_back=share, seed=0)
