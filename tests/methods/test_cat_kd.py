"""CAT-KD by name: maps of the classes without a change of the network, equal to those of the recipe's networks."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd
from kd.models.networks import CNN
from tests.features_in_numpy import cat
from tests.methods.test_feature import SHAPE, build_models, build_objective, get_first_batch

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "cat_kd.py"


def build() -> tuple[CNN, CNN]:
    with kd.seeded(2):
        return CNN(2, SHAPE, 4).double().eval(), CNN(4, SHAPE, 4).double().eval()


def test_the_term_equals_the_reference_for_the_maps_of_the_classes() -> None:
    (student, teacher), (images, labels, *_) = build(), get_first_batch()
    images = images.double()
    maps = []
    for model in (teacher, student):
        with torch.no_grad(), kd.capture(model, "layer3") as found:
            model(images)
        weight, bias = model.output.weight, model.output.bias
        maps.append((torch.einsum("kc,bchw->bkhw", weight, found["layer3"]) + bias.view(1, -1, 1, 1)).detach().numpy())
    _, terms = kd.methods.make("cat-kd", student, teacher, (images, labels), {"weight": 3.0})(student, (images, labels))
    assert terms["feature"].item() == pytest.approx(3 * cat(maps[1], maps[0]), rel=1e-9)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_it_is_the_loss_of_the_recipes_converted_networks(side: int) -> None:
    recipe: dict[str, Any] = runpy.run_path(str(RECIPE))
    (student, teacher), (images, labels, *_) = build(), get_first_batch()
    batch = images.double(), labels
    _, terms = kd.methods.make("cat-kd", student, teacher, batch, {"weight": 2.0, "side": side})(student, batch)
    converted = [recipe["MapClassifier"](model).double().eval() for model in (student, teacher)]
    _, expected = recipe["cat_kd"](converted[1], beta=2.0, side=side)(converted[0], batch)
    assert terms["feature"].item() == pytest.approx(expected["maps"].item(), rel=1e-9)
    assert terms["hard"].item() == pytest.approx(expected["hard"].item(), rel=1e-9)


def test_a_model_whose_logits_are_no_means_of_maps_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"cat-kd needs logits of parts of an image.*teacher, ConvNet.*--teacher cnn:32"
    ):
        build_objective("cat-kd", *build_models())
    with pytest.raises(ValueError, match=r"side must be an integer of at least 1\. Got 0"):
        build_objective("cat-kd", *build_models("cat-kd"), side=0)
