"""Stratified splits: disjoint, complete, proportional and determined by the seed."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kd
from kd.data import splits
from kd.data.splits import split_rows, stratified_order, stratified_split


def make_dataset(labels: list[int]) -> kd.ImageDataset:
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    return kd.ImageDataset(images, torch.tensor(labels), mean=0.5, std=0.25)


@settings(max_examples=40)
@given(st.integers(20, 90), st.integers(2, 4), st.floats(0.2, 0.8), st.integers(0, 9))
def test_splits_are_disjoint_and_complete(n: int, classes: int, held_back: float, seed: int) -> None:
    data = make_dataset([i % classes for i in range(n)])
    train, validation = stratified_split(data, held_back=held_back, seed=seed)
    assert sorted([*train.indices, *validation.indices]) == list(range(n))
    assert abs(len(validation) - held_back * n) < 1
    for split in (train, validation):
        counts = torch.bincount(data.labels[list(split.indices)], minlength=classes)
        assert int(counts.max() - counts.min()) <= 2
    again = stratified_split(data, held_back=held_back, seed=seed)
    assert [split.indices for split in again] == [train.indices, validation.indices]


def test_another_seed_gives_another_split() -> None:
    data = make_dataset([i % 3 for i in range(60)])
    assert len({tuple(stratified_split(data, held_back=0.5, seed=seed)[1].indices) for seed in range(9)}) == 9


def test_limit_splits_the_first_samples_of_the_stratified_order() -> None:
    data = make_dataset([i % 3 for i in range(60)])
    train, validation = stratified_split(data, held_back=0.5, seed=4, limit=12)
    assert {*train.indices, *validation.indices} == set(stratified_order(data.labels, seed=4)[:12].tolist())


def test_too_few_images_for_every_class_raise() -> None:
    expected = r"holding back 0\.2 of 10 samples .* both splits: they contain 5 and 2 of 5 classes\."
    with pytest.raises(ValueError, match=expected):
        stratified_split(make_dataset([i % 5 for i in range(10)]), held_back=0.2, seed=0)


@settings(max_examples=40)
@given(st.integers(40, 90), st.integers(2, 4), st.integers(0, 9))
def test_several_shares_are_taken_from_the_end_of_the_order(n: int, classes: int, seed: int) -> None:
    labels = torch.arange(n) % classes
    train, val, test = split_rows(labels, [0.25, 0.2], seed=seed)
    assert [*train, *val, *test] == stratified_order(labels, seed=seed).tolist()
    assert len(test) == math.ceil(0.2 * n)
    assert len(val) == math.ceil(0.25 * (n - len(test)))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_its_range_raises(share: float) -> None:
    with pytest.raises(ValueError, match=rf"fraction of a split must be in \(0, 1\). Got {share} instead"):
        stratified_split(make_dataset([0, 1] * 9), held_back=share, seed=0)


def test_a_limit_that_is_too_small_is_answered_with_one_that_is_enough() -> None:
    labels = torch.arange(6000) % 100
    with pytest.raises(ValueError, match=r"--limit (\d+) is enough") as error:
        split_rows(labels, [0.1, 0.2], seed=0, limit=100)
    limit = int(re.findall(r"--limit (\d+)", str(error.value))[0])
    assert limit < 3000
    assert [len(labels[rows].unique()) for rows in split_rows(labels, [0.1, 0.2], seed=0, limit=limit)] == [100] * 3


def test_the_search_for_such_a_limit_is_short_however_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    count, calls = splits._count_classes, itertools.count()

    def counted(*values: Any) -> list[int]:
        next(calls)
        return count(*values)

    monkeypatch.setattr(splits, "_count_classes", counted)
    with pytest.raises(ValueError, match="Use more samples or change the fractions"):
        split_rows(torch.arange(20_000) % 19_999, [0.1, 0.1], seed=0, limit=20)
    assert next(calls) < 500
