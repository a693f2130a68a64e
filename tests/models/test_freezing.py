"""Frozen parameters and statistics have the same bytes after training, whatever the optimizer; all others change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

import kd
from kd.evaluation.multiply_adds import training_multiply_adds
from kd.models.build import build
from kd.models.freezing import freeze
from kd.training.optimizers import adam

SHAPE = (1, 6, 6)


def make_model(seed: int = 1) -> nn.Module:
    return build("cnn:4", input_shape=SHAPE, classes=4, seed=seed)


def train(model: nn.Module, dataset: kd.ImageDataset, make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    loader = kd.make_loader(dataset, batch_size=16, shuffle=True)
    kd.fit(model, kd.supervised, loader, loader, optimizer=make_optimizer(model.parameters()), epochs=2, seed=0)


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "fused Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_layers_and_their_statistics_do_not_change(optimizer: str, digits: kd.ImageDataset) -> None:
    model = make_model()
    frozen = freeze(model, ["layer1.*", "layer2.0.*"])
    before = copy.deepcopy(model.state_dict())
    train(model, digits, OPTIMIZERS[optimizer])
    names = changed(model, before)
    assert not {name for name in names if name.startswith(("layer1.", "layer2.0."))}
    assert {name for name, _ in model.named_parameters()} - names == set(frozen)
    assert any("layer3" in name and "running_mean" in name for name in names)


def test_the_pipelines_optimizer_does_not_change_frozen_layers(digits: kd.ImageDataset) -> None:
    model = make_model()
    freeze(model, ["layer1.*"])
    before = copy.deepcopy(model.state_dict())
    loader = kd.make_loader(digits, batch_size=16, shuffle=True)
    optimizer, scheduler = adam(model, learning_rate=0.01, steps=2 * len(loader))
    kd.fit(model, kd.supervised, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=2, seed=0)
    assert not {name for name in changed(model, before) if name.startswith("layer1.")}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))])
def test_copies_of_a_frozen_model_are_frozen(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = make_model()
    frozen = freeze(model, ["layer1.*"])
    again = duplicate(model)
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == frozen
    before = copy.deepcopy(again.state_dict())
    again.train()(torch.rand(8, *SHAPE))
    assert not {name for name in changed(again, before) if name.startswith("layer1.")}
    assert changed(again, before), "the other layers' statistics"


@pytest.mark.parametrize("pattern", ["0.*", "3.*"])
def test_tied_weights_are_frozen_by_any_of_their_names(pattern: str) -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model = nn.Sequential(block, nn.ReLU(), nn.Linear(4, 4), block, nn.Linear(4, 2))
    assert freeze(model, [pattern]) == ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == freeze(model, [pattern])
    before = copy.deepcopy(model.state_dict())
    model.train()(torch.rand(8, 4))
    assert not changed(model, before), "the statistics of the frozen block"


def test_a_batch_norm_that_is_frozen_in_part_collects_statistics() -> None:
    model = make_model()
    freeze(model, ["layer1.*.weight"])
    before = copy.deepcopy(model.state_dict())
    model.train()(torch.rand(8, *SHAPE))
    assert any(name.startswith("layer1.") and "running" in name for name in changed(model, before))


def test_a_batch_norm_without_parameters_is_frozen_by_its_statistics() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    block = nn.Sequential(copy.deepcopy(model), nn.Linear(2, 2))
    freeze(block, ["0.*"])
    before = copy.deepcopy(block.state_dict())
    block.train()(torch.rand(8, 3))
    assert not changed(block, before)


def test_frozen_layers_cost_no_backward_pass(digits: kd.ImageDataset) -> None:
    batch = (torch.stack([digits[i][0] for i in range(4)]), torch.tensor([0, 1, 2, 3]))
    model = make_model()
    whole = training_multiply_adds(model, kd.supervised, batch)
    freeze(model, ["layer1.*"])
    assert training_multiply_adds(model, kd.supervised, batch) < whole


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["layer1"], r"'layer1' must match the name of a parameter\. Did you mean layer1\.\*\?"),
        (["layr1.*"], r"Did you mean layer1\.\*"),
        (["layer1.*", "zzz"], r"'zzz' must match the name of a parameter\. Names are, for example, layer1\.\*"),
        (["*"], r"'\*' matches all \d+ parameters, so nothing would be trained"),
        (["layer*", "output.*"], r"'layer\* output\.\*' matches all \d+ parameters"),
    ],
)
def test_patterns_that_match_nothing_or_everything_are_refused(patterns: list[str], message: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=message):
        freeze(model, patterns)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_pattern_freezes_nothing() -> None:
    model = make_model()
    assert freeze(model, []) == []
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
