"""SDD: region logits, their weights, and the models that support them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd.losses import kd_loss, sdd_loss
from kd.methods import try_method
from kd.methods.sdd import region_logits
from kd.models.features import layer_shapes
from kd.models.networks import CNN
from tests.features_in_numpy import sdd
from tests.methods.test_feature import SHAPE, build_models, build_objective, get_first_batch

few_examples = settings(max_examples=20)
seeds = st.integers(0, 2**31)


def make_logits(seed: int, regions: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Return region logits of the student and of the teacher in float64, and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, 6, regions, 3, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(0, 3, (6,), generator=generator)


@few_examples
@given(seeds, st.sampled_from([1.0, 4.0]))
def test_it_equals_the_reference(seed: int, temperature: float) -> None:
    student, teacher, labels = make_logits(seed)
    expected = sdd(student.numpy(), teacher.numpy(), labels.numpy(), temperature)
    assert sdd_loss(student, teacher, labels, temperature=temperature).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(6, 1, dtype=torch.int64), torch.zeros(6), torch.zeros(5, dtype=torch.int64)]
)
def test_labels_of_another_shape_or_kind_are_refused(wrong: Tensor) -> None:
    student, teacher, _ = make_logits(0)
    with pytest.raises(ValueError, match="labels must be int64, one for each of 6 rows"):
        sdd_loss(student, teacher, wrong, temperature=4)


@few_examples
@given(seeds)
def test_with_one_region_it_is_plain_distillation(seed: int) -> None:
    student, teacher, labels = make_logits(seed, regions=1)
    plain = kd_loss(student[:, 0], teacher[:, 0], temperature=4).item()
    assert sdd_loss(student, teacher, labels, temperature=4).item() == pytest.approx(plain)


@few_examples
@given(seeds)
def test_samples_and_regions_can_be_permuted_except_the_whole_image(seed: int) -> None:
    student, teacher, labels = make_logits(seed)
    expected = sdd_loss(student, teacher, labels, temperature=4).item()
    generator = torch.Generator().manual_seed(seed)
    samples, regions = torch.randperm(6, generator=generator), torch.randperm(4, generator=generator)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + regions])
    moved = sdd_loss(student[samples], teacher[samples], labels[samples], temperature=4).item()
    assert moved == pytest.approx(expected)
    assert sdd_loss(student[:, order], teacher[:, order], labels, temperature=4).item() == pytest.approx(expected)


def test_a_region_that_differs_in_correctness_from_the_whole_counts_double() -> None:
    right, wrong = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    labels, flat = torch.tensor([0]), torch.zeros(1, 2, 2)

    def loss(whole: Tensor, region: Tensor) -> float:
        return sdd_loss(flat, torch.stack([whole, region])[None], labels, temperature=1).item()

    assert loss(right, wrong) == pytest.approx(1.5 * loss(right, right))
    assert loss(wrong, right) == pytest.approx(1.5 * loss(wrong, wrong))


def test_the_loss_is_zero_at_agreement_without_teacher_gradient_and_finite() -> None:
    student, teacher, labels = make_logits(0)
    student.requires_grad_()
    teacher.requires_grad_()
    assert sdd_loss(teacher, teacher, labels, temperature=4).item() == pytest.approx(0, abs=1e-12)
    sdd_loss(student, teacher, labels, temperature=4).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    huge = (1e4 * student.detach().float()).requires_grad_()
    loss = sdd_loss(huge, -huge.detach(), labels, temperature=1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    assert huge.grad is not None
    assert bool(huge.grad.isfinite().all())
    assert sdd_loss(student.half(), teacher.half(), labels, temperature=4).dtype == torch.float32


def test_incompatible_inputs_are_refused() -> None:
    student, teacher, labels = make_logits(0)
    with pytest.raises(ValueError, match=r"must both be \[B, N, K\].*Got \[6, 5, 3\] and \[6, 4, 3\] instead"):
        sdd_loss(student, teacher[:, 1:], labels, temperature=4)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        sdd_loss(student, teacher, labels, temperature=0)
    for scales in ("2,4", "1,x", "", "1,0"):
        with pytest.raises(ValueError, match=r"scales must be comma-separated integers, starting with 1"):
            build_objective("sdd", *build_models("sdd"), scales=scales)


def test_region_logits_are_the_models_logits_of_the_image_and_of_its_quarters() -> None:
    with kd.seeded(0):
        model = CNN(4, SHAPE, 4).eval()
    images = get_first_batch()[0]
    with torch.no_grad(), kd.capture(model, "layer3") as found:
        output = model(images)
        predictions = region_logits(found["layer3"], model.output, (1, 2, 4))
        upper_left = model.output(found["layer3"][:, :, :3, :3].mean(dim=(2, 3)))
    assert found["layer3"].shape[2:] == (6, 6)  # pooling 4 × 4 means again would give another whole image
    assert predictions.shape == (8, 1 + 4 + 16, 4)
    assert torch.allclose(predictions[:, 0], output, atol=1e-6)
    assert torch.allclose(predictions[:, 1], upper_left, atol=1e-6)


def test_a_model_without_global_average_pooling_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"teacher, ConvNet, they are not the means of norm2\..*--teacher cnn:32"):
        build_objective("sdd", *build_models())
    with pytest.raises(ValueError, match="student, CNN, they are not the means of layer2"):
        build_objective("sdd", *build_models("sdd"), student_layers="layer2", teacher_layers="layer3")
    with pytest.raises(ValueError, match="none were found in the student, MLP"):
        build_objective("sdd", *build_models(maps=False))


def test_layer_names_do_not_matter() -> None:
    with kd.seeded(0):
        teacher = nn.Sequential(
            nn.Conv2d(1, 5, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
        )
    student, _ = build_models()
    objective: Any = build_objective("sdd", student, teacher, scales="1,2")
    assert (objective.teacher_layers, objective.classifiers) == (["1"], ("output", "4"))
    _, terms = objective(student, get_first_batch())
    assert terms["feature"].item() > 0


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "resnet18"])
def test_the_last_maps_before_the_pooling_are_used_even_if_they_are_no_stage(name: str) -> None:
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([0, 3])
    model, teacher = torchvision.models.get_model(name, weights=None, num_classes=4), CNN(4, (3, 64, 64), 4)
    ((student_layer, teacher_layer),) = try_method("sdd", model, teacher, (images, labels))
    assert layer_shapes(model, [student_layer], images)[0][0] == list(model.parameters())[-2].shape[1]
    assert teacher_layer == "layer3"
