"""The recipe of chains: a chain of one is the control, each learns from the one before, and at toy size it runs."""

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


def toy(recipe: dict[str, Any], **changes: Any) -> Any:
    return recipe["Settings"](**{"pairs": 2, "epochs": 1, "large": 12, "small": 6, "limit": 200, **changes})


def test_a_chain_of_one_without_a_teacher_is_the_control(recipe: dict[str, Any], training: Split) -> None:
    with kd.seeded(4):
        control = train_copy(MLP(6), kd.supervised, training, seed=4, epochs=1)
    own = recipe["train_chain"](None, [6], training, toy(recipe), 4)
    assert torch.equal(own.hidden.weight, control.hidden.weight)


def test_without_a_word_from_the_teacher_every_chain_ends_in_its_control(
    recipe: dict[str, Any], training: Split
) -> None:
    """So the last one has the control's weights at the start and its batches, however long the chain is."""
    settings = toy(recipe, alpha=1.0)
    ends = [recipe["train_chain"](None, units, training, settings, 4) for units in ([6], [6, 6], [12, 9, 6])]
    assert all(torch.equal(end.hidden.weight, ends[0].hidden.weight) for end in ends)


def test_each_learns_from_the_one_before(recipe: dict[str, Any], training: Split) -> None:
    class Sure(torch.nn.Module):
        """A teacher who takes everything for a 7."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[torch.full((len(images),), 7)] * 50

    settings = toy(recipe, alpha=0.0, temperature=1.0, epochs=20)
    end = recipe["train_chain"](Sure(), [12, 6], training, settings, 0)
    said = kd.predict(end, kd.make_loader(training, batch_size=100)).logits.argmax(dim=1)
    assert (said == 7).float().mean() > 0.95


def test_a_born_again_network_does_not_start_as_its_teacher_did(recipe: dict[str, Any], training: Split) -> None:
    with pytest.MonkeyPatch.context() as patch:
        starts: list[torch.Tensor] = []
        namespace = recipe["train_chain"].__globals__
        plain = namespace["train_copy"]
        patch.setitem(
            namespace, "train_copy", lambda start, *a, **k: starts.append(start.hidden.weight) or plain(start, *a, **k)
        )
        recipe["train_chain"](None, [6, 6, 6], training, toy(recipe), 0)
    assert len({tuple(start[0].tolist()) for start in starts}) == 3


def test_at_toy_size_it_has_the_errors_of_the_last_of_every_chain(recipe: dict[str, Any]) -> None:
    found = recipe["main"](toy(recipe))
    assert [len(own) for own in found.values()] == [2] * 6
    assert recipe["main"](toy(recipe)) == found
