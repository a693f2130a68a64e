"""Recipe on few labels: hidden labels are not used, equal numbers of steps, and a quick run."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "unlabelled.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(scope="module")
def quick(recipe: dict[str, Any]) -> Any:
    settings = recipe["Settings"](quick=True).apply_quick()
    return dataclasses.replace(settings, labels=50, limit=150)


@pytest.mark.whole_mnist
def test_labelled_images_are_stratified_and_disjoint_from_unlabelled_ones(recipe: dict[str, Any]) -> None:
    data = recipe["load_images"](recipe["Settings"]())
    assert [len(part) for part in data] == [1000, 59000, 60000, 10000]
    assert not set(data.labelled.indices) & set(data.unlabelled.indices)
    labels = kd.load_mnist(train=True).labels
    shares = torch.bincount(labels[data.labelled.indices]) / 1000 - torch.bincount(labels) / 60000
    assert shares.abs().max() < 0.002


def test_a_quick_run_judges_every_pair_and_hidden_labels_have_no_effect(
    recipe: dict[str, Any], quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = recipe["main"](quick)
    assert list(verdicts) == ["50 labels", "all 150 labels"]
    for judgements in verdicts.values():
        assert [len(judgement.pairs.differences) for judgement in judgements.values()] == [2, 2, 2]
    hidden = recipe["load_images"](quick).unlabelled.indices
    real = kd.load_mnist

    def otherwise(*, train: bool) -> kd.ImageDataset:
        dataset = real(train=train)
        if train:
            dataset.labels = dataset.labels.clone()
            dataset.labels[hidden] = (dataset.labels[hidden] + 1) % 10
        return dataset

    # Labels also stratify the order that selects the labelled images, so the original order is reused.
    order = recipe["stratified_order"](real(train=True).labels, seed=0)
    monkeypatch.setitem(recipe["main"].__globals__, "stratified_order", lambda labels, *, seed: order)
    monkeypatch.setattr(kd, "load_mnist", otherwise)
    again = recipe["main"](quick)
    assert again["50 labels"] == verdicts["50 labels"]
    assert again["all 150 labels"] != verdicts["all 150 labels"]


def test_all_students_take_the_same_number_of_steps(
    recipe: dict[str, Any], quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def record_steps(model: Any, objective: Any, loader: Any, *arguments: Any, epochs: int, **others: Any) -> None:
        if not isinstance(model, recipe["ConvNet"]):
            steps.append(epochs * len(loader))

    monkeypatch.setattr(kd, "fit", record_steps)
    recipe["main"](quick)
    assert len(steps) == 10
    assert len(set(steps)) == 1
