"""Objectives: weights of the terms, gradients, and an unchanged teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

import kd
from kd.methods.ctkd import CTKDLoss
from kd.methods.objectives import in_bfloat16
from kd.training.optimizers import adam
from tests.conftest import CLASSES, tiny_model

exactly = settings(max_examples=20)
alphas = st.floats(0, 1)
temperatures = st.floats(0.5, 20)


def random_batch(seed: int = 0, size: int = 8) -> kd.Batch:
    """Return images, labels and teacher logits for ``tiny_model``."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 1, 6, 6, generator=generator)
    labels = torch.randint(0, CLASSES, (size,), generator=generator)
    return inputs, labels, 3 * torch.randn(size, CLASSES, generator=generator)


def gradients(model: nn.Module, objective: kd.Objective, batch: kd.Batch) -> Tensor:
    _, terms = objective(model, batch)
    loss = torch.stack(list(terms.values())).sum()
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(model.parameters()))])


def train(model: nn.Module, objective: kd.Objective, dataset: Dataset[Any], epochs: int = 3) -> nn.Module:
    loader = kd.make_loader(dataset, batch_size=16, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kd.fit(model, objective, loader, loader, optimizer=optimizer, epochs=epochs, seed=3)
    return model


@exactly
@given(st.integers(0, 1000), temperatures)
def test_with_alpha_1_loss_and_gradient_equal_supervised_bit_for_bit(seed: int, temperature: float) -> None:
    model, batch = tiny_model(seed), random_batch(seed)
    distilled = kd.distilled(temperature=temperature, alpha=1)
    assert torch.equal(gradients(model, distilled, batch), gradients(model, kd.supervised, batch))
    assert distilled(model, batch)[1]["hard"].item() == kd.supervised(model, batch)[1]["hard"].item()
    assert distilled(model, batch)[1]["soft"].item() == 0


def test_with_alpha_1_training_gives_the_control_byte_for_byte(digits: kd.ImageDataset) -> None:
    logits = kd.collect_logits(tiny_model(9), digits).logits
    control = train(tiny_model(dropout=0.3), kd.supervised, digits)
    student = train(tiny_model(dropout=0.3), kd.distilled(temperature=4, alpha=1), kd.DistillDataset(digits, logits))
    assert kd.weights_bytes(student) == kd.weights_bytes(control)
    assert kd.weights_bytes(student) != kd.weights_bytes(tiny_model(dropout=0.3))


@exactly
@given(st.integers(0, 1000), temperatures)
def test_with_alpha_0_the_labels_do_not_matter(seed: int, temperature: float) -> None:
    model, (inputs, labels, logits) = tiny_model(seed), random_batch(seed)
    distilled = kd.distilled(temperature=temperature, alpha=0)
    other_labels = (labels + 1) % CLASSES
    with_labels = gradients(model, distilled, (inputs, labels, logits))
    assert torch.equal(with_labels, gradients(model, distilled, (inputs, other_labels, logits)))
    assert with_labels.abs().max() > 0


@exactly
@given(st.integers(0, 1000), temperatures, alphas)
def test_alpha_is_the_weight_of_the_hard_term_and_one_minus_alpha_of_the_soft(
    seed: int, temperature: float, alpha: float
) -> None:
    model, batch = tiny_model(seed), random_batch(seed)
    output, terms = kd.distilled(temperature=temperature, alpha=alpha)(model, batch)
    assert list(terms) == ["hard", "soft"]
    assert torch.equal(output, model(batch[0]))
    torch.testing.assert_close(terms["hard"], alpha * F.cross_entropy(output, batch[1]))
    torch.testing.assert_close(terms["soft"], (1 - alpha) * kd.kd_loss(output, batch[2], temperature=temperature))


@exactly
@given(st.integers(0, 1000), temperatures, alphas)
def test_the_gradient_is_the_weighted_sum_of_the_two_extremes(seed: int, temperature: float, alpha: float) -> None:
    model, batch = tiny_model(seed), random_batch(seed)
    hard, soft, mixed = (gradients(model, kd.distilled(temperature=temperature, alpha=a), batch) for a in (1, 0, alpha))
    torch.testing.assert_close(mixed, alpha * hard + (1 - alpha) * soft, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_a_uniform_teacher_is_label_smoothing(alpha: float) -> None:
    model, (inputs, labels, logits) = tiny_model(), random_batch()
    uniform = (inputs, labels, torch.full_like(logits, 7.0))

    def smoothed(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(batch[0])
        return output, {"hard": F.cross_entropy(output, batch[1], label_smoothing=1 - alpha)}

    from_teacher = gradients(model, kd.distilled(temperature=1, alpha=alpha), uniform)
    torch.testing.assert_close(from_teacher, gradients(model, smoothed, uniform), rtol=1e-4, atol=1e-6)


def test_supervised_is_cross_entropy_and_ignores_what_follows_the_label() -> None:
    model, batch = tiny_model(), random_batch()
    output, terms = kd.supervised(model, batch)
    assert list(terms) == ["hard"]
    assert terms["hard"].item() == pytest.approx(
        -output.log_softmax(1)[torch.arange(len(output)), batch[1]].mean().item(), rel=1e-6
    )
    assert kd.supervised(model, batch[:2])[1]["hard"].item() == terms["hard"].item()


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.Sigmoid()])
@pytest.mark.parametrize("objective", [kd.supervised, kd.distilled(temperature=4, alpha=0.5)])
def test_a_student_that_returns_probabilities_is_refused(last: nn.Module, objective: kd.Objective) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, logits = torch.randn(64, 8, generator=generator), torch.randn(64, 3, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(8, 3), last)
    with pytest.raises(ValueError, match=r"outputs of the model must be logits.* Remove the model's softmax"):
        objective(student, (inputs, logits.argmax(dim=1), logits))


def test_terms_of_a_half_precision_model_are_computed_in_single_precision() -> None:
    inputs, labels, logits = random_batch()
    _, terms = kd.distilled(temperature=2, alpha=0.5)(tiny_model().bfloat16(), (inputs.bfloat16(), labels, logits))
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_a_batch_without_teacher_logits_is_refused_with_both_remedies() -> None:
    with pytest.raises(ValueError, match=r"Got 2 tensors\. .*DistillDataset, or .* live_teacher\(\)"):
        kd.distilled(temperature=2, alpha=0.5)(tiny_model(), random_batch()[:2])


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_an_alpha_outside_0_to_1_is_refused_when_the_objective_is_built(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"^alpha must be in \[0, 1\]\. Got {alpha} instead .*weight of the labels"):
        kd.distilled(temperature=2, alpha=alpha)


@pytest.mark.parametrize("temperature", [0, -3, math.nan])
def test_a_bad_temperature_is_refused_when_the_objective_is_built(temperature: float) -> None:
    with pytest.raises(ValueError, match=rf"^temperature must be a finite number above 0\. Got {temperature} instead"):
        kd.distilled(temperature=temperature, alpha=0.5)


def test_a_live_teacher_gives_the_terms_of_its_logits() -> None:
    model, teacher, (inputs, labels, others) = tiny_model(), tiny_model(1), random_batch()
    objective = kd.distilled(temperature=3, alpha=0.4)
    expected = gradients(model, objective, (inputs, labels, teacher(inputs).detach()))
    live = kd.live_teacher(teacher, objective)
    assert torch.equal(gradients(model, live, (inputs, labels)), expected)
    assert torch.equal(gradients(model, live, (inputs, labels, others)), expected)


def test_a_live_teacher_is_in_eval_mode_at_every_step_and_unchanged(digits: kd.ImageDataset) -> None:
    teacher = tiny_model(1, dropout=0.5, batch_norm=True)
    before, modes = kd.weights_bytes(teacher), []
    teacher.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    student = train(tiny_model(), kd.live_teacher(teacher, kd.distilled(temperature=3, alpha=0.5)), digits)
    assert modes
    assert set(modes) == {(False, False)}
    assert kd.weights_bytes(teacher) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert kd.weights_bytes(student) != kd.weights_bytes(tiny_model())


def test_a_live_teacher_put_into_training_mode_is_still_unchanged(digits: kd.ImageDataset) -> None:
    teacher = tiny_model(1, batch_norm=True)
    objective = kd.live_teacher(teacher, kd.distilled(temperature=3, alpha=0.5))
    train(teacher, kd.supervised, digits, epochs=1)
    before = kd.weights_bytes(teacher)
    train(tiny_model(), objective, digits, epochs=1)
    assert kd.weights_bytes(teacher) == before


def test_cached_and_live_distillation_give_the_same_student(digits: kd.ImageDataset) -> None:
    teacher, objective = tiny_model(1, batch_norm=True), kd.distilled(temperature=4, alpha=0.3)
    logits = kd.collect_logits(teacher, digits).logits
    cached = train(tiny_model(dropout=0.2), objective, kd.DistillDataset(digits, logits))
    live = train(tiny_model(dropout=0.2), kd.live_teacher(teacher, objective), digits)
    # Not bit for bit: the teacher ran with another batch size, which changes the order of summation.
    for name, weight in cached.state_dict().items():
        torch.testing.assert_close(weight, live.state_dict()[name], rtol=1e-5, atol=1e-6)
    start = tiny_model().state_dict()["1.weight"]
    assert (cached.state_dict()["1.weight"] - start).abs().max() > 1e-2


def test_permuted_teacher_classes_train_permuted_classes(digits: kd.ImageDataset) -> None:
    right = 6.0 * F.one_hot(digits.labels, CLASSES).float()
    accuracies = []
    for logits in (right, right.roll(1, dims=1)):
        dataset = kd.DistillDataset(digits, logits)
        student = train(tiny_model(), kd.distilled(temperature=2, alpha=0), dataset, epochs=8)
        loader = kd.make_loader(digits, batch_size=32)
        accuracies.append(kd.evaluate(student, kd.supervised, loader)["acc"])
    assert accuracies[0] > 0.9
    assert accuracies[1] < 0.1


@exactly
@given(st.integers(0, 1000))
def test_in_bfloat16_products_are_rounded_in_training_and_nothing_else(seed: int) -> None:
    torch.manual_seed(seed)
    model, batch, distilled = tiny_model().train(), random_batch(seed), kd.distilled(temperature=4, alpha=0.5)
    exact, rounded = (gradients(model, objective, batch) for objective in (distilled, in_bfloat16(distilled)))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    # Each number is rounded by up to 0.4 %, which occasionally moves the input of a ReLU across 0.
    assert float((exact - rounded).norm() / exact.norm()) < 0.2
    _, terms = in_bfloat16(distilled)(model, batch)
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_in_bfloat16_validates_in_single_precision() -> None:
    model, batch = tiny_model().eval(), random_batch()
    (output, terms), (other, same) = kd.supervised(model, batch), in_bfloat16(kd.supervised)(model, batch)
    assert torch.equal(output, other)
    assert torch.equal(terms["hard"], same["hard"])


@pytest.mark.parametrize("wrap", [lambda inner: kd.live_teacher(tiny_model(1), inner), in_bfloat16])
def test_a_wrapped_objective_is_trained_saved_and_gets_the_epoch(
    wrap: Callable[[kd.Objective], nn.Module], digits: kd.ImageDataset
) -> None:
    inner = CTKDLoss(start=1.0, span=20.0, warmup=0.5, hard=0.1, soft=0.9)
    outer, model = wrap(inner), tiny_model()
    loader = kd.make_loader(kd.DistillDataset(digits, torch.randn(len(digits), CLASSES)), batch_size=16)
    optimizer, _ = adam(model, learning_rate=0.1, steps=100, objective=outer)
    kd.fit(model, outer, loader, None, optimizer=optimizer, epochs=2, seed=0)
    assert list(outer.parameters()) == [inner.theta]  # the teacher's are not among them
    assert inner.theta.item() != 1.0
    assert outer.state_dict() == {"objective.theta": inner.theta}
    strengths = []
    for epoch in range(4):
        outer.set_epoch(epoch, 4)  # type: ignore[operator]
        strengths.append(inner._strength)
    assert strengths == pytest.approx([0.5, 1, 1, 1])
