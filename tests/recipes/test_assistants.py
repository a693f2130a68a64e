"""Recipe on chains of networks: controls, initial weights, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd
from kd.commands.trials import train_copy
from kd.data.datasets import Split
from kd.data.splits import stratified_split
from kd.models.networks import MLP

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "assistants.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(scope="module", name="training")
def _training() -> Split:
    return stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)[0]


def make_settings(recipe: dict[str, Any], **changes: Any) -> Any:
    return recipe["Settings"](**{"pairs": 2, "epochs": 1, "large": 12, "small": 6, "limit": 200, **changes})


def test_a_chain_of_one_without_a_teacher_is_the_control(recipe: dict[str, Any], training: Split) -> None:
    with kd.seeded(4):
        control = train_copy(MLP(6), kd.supervised, training, seed=4, epochs=1)
    student = recipe["train_chain"](None, [6], training, make_settings(recipe), 4)
    assert torch.equal(student.hidden.weight, control.hidden.weight)


def test_with_alpha_1_every_chain_ends_in_its_control(recipe: dict[str, Any], training: Split) -> None:
    """The last network has the control's initial weights and batches, whatever the length of the chain."""
    settings = make_settings(recipe, alpha=1.0)
    ends = [recipe["train_chain"](None, units, training, settings, 4) for units in ([6], [6, 6], [12, 9, 6])]
    assert all(torch.equal(end.hidden.weight, ends[0].hidden.weight) for end in ends)


def test_each_network_learns_from_the_previous_one(recipe: dict[str, Any], training: Split) -> None:
    class AlwaysSeven(torch.nn.Module):
        """A teacher that predicts 7 for every image."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[torch.full((len(images),), 7)] * 50 - 25

    settings = make_settings(recipe, alpha=0.0, temperature=1.0, epochs=20)
    student = recipe["train_chain"](AlwaysSeven(), [12, 6], training, settings, 0)
    predicted = kd.predict(student, kd.make_loader(training, batch_size=100)).logits.argmax(dim=1)
    assert (predicted == 7).float().mean() > 0.95


def test_networks_of_a_chain_have_different_initial_weights(recipe: dict[str, Any], training: Split) -> None:
    with pytest.MonkeyPatch.context() as patch:
        starts: list[torch.Tensor] = []
        namespace = recipe["train_chain"].__globals__
        original = namespace["train_copy"]
        patch.setitem(
            namespace,
            "train_copy",
            lambda start, *a, **k: starts.append(start.hidden.weight) or original(start, *a, **k),
        )
        recipe["train_chain"](None, [6, 6, 6], training, make_settings(recipe), 0)
    assert len({tuple(start[0].tolist()) for start in starts}) == 3


def test_a_quick_run_is_reproducible_and_has_the_errors_of_every_chain(recipe: dict[str, Any]) -> None:
    errors = recipe["main"](make_settings(recipe))
    assert [len(counts) for counts in errors.values()] == [2] * 6
    assert recipe["main"](make_settings(recipe)) == errors
