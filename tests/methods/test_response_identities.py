"""Logit methods: special cases in which one equals another, and invariances from their papers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kd
from tests.methods.test_response import Logits, batches, compute_loss, few_examples


@few_examples
@given(batches(), st.floats(0.5, 10))
def test_dkd_with_its_weight_put_back_is_kd(batch: Logits, temperature: float) -> None:
    for row in range(len(batch[0])):
        student, teacher, labels = (part[row : row + 1] for part in batch)
        freed = 1 - (teacher / temperature).softmax(dim=1)[0, labels[0]].item()
        loss = kd.losses.dkd_loss(student, teacher, labels, temperature=temperature, alpha=1.0, beta=freed)
        expected = kd.kd_loss(student, teacher, temperature=temperature)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)


@few_examples
@given(batches(), st.floats(0.1, 10), st.floats(-5, 5))
def test_standardised_logits_are_invariant_to_scale_and_shift(batch: Logits, scale: float, shift: float) -> None:
    logits = batch[0]
    scores, rescaled = kd.losses.standardised(logits), kd.losses.standardised(scale * logits + shift)
    assert torch.allclose(scores, rescaled, atol=1e-5)
    assert torch.allclose(scores.mean(dim=1), torch.zeros(len(scores), dtype=scores.dtype), atol=1e-9)


@few_examples
@given(batches(), st.floats(0.05, 0.9), st.floats(0.1, 1))
def test_dist_is_invariant_to_scale_and_shift_of_probabilities(batch: Logits, share: float, scale: float) -> None:
    # q' = scale · q + (1 − scale) / K is a distribution again, and correlates with everything as q does, but for the
    # epsilon that is added to the product of two lengths.
    student, teacher, _ = batch
    q = student.softmax(dim=1)
    mixed = (scale * q + (1 - scale) / q.shape[1]).log()
    loss, rescaled_loss = (
        kd.losses.dist_loss(logits, teacher, temperature=1, beta=share, gamma=1 - share) for logits in (student, mixed)
    )
    q, p = (values - values.mean(dim=1, keepdim=True) for values in (q, teacher.softmax(dim=1)))
    columns = [(values - values.mean(dim=0)).norm(dim=0) for values in (student.softmax(dim=1), teacher.softmax(dim=1))]
    shortest = min(float((q.norm(dim=1) * p.norm(dim=1)).min()), float((columns[0] * columns[1]).min()))
    assert loss.item() == pytest.approx(rescaled_loss.item(), abs=2 * 1e-8 / (scale * shortest))


@few_examples
@given(batches())
def test_ttm_with_an_exponent_of_one_is_kd_at_temperature_one(batch: Logits) -> None:
    student, teacher, _ = batch
    for weighted in (False, True):  # Σ p¹ = 1
        loss = kd.losses.ttm_loss(student, teacher, gamma=1, weighted=weighted)
        assert loss.item() == pytest.approx(kd.kd_loss(student, teacher, temperature=1).item(), abs=1e-9)


@few_examples
@given(batches(), st.floats(1, 20))
def test_rld_is_zero_at_agreement_with_a_teacher_that_is_right(batch: Logits, temperature: float) -> None:
    _, teacher, _ = batch
    right = kd.losses.rld_loss(
        teacher,
        teacher,
        teacher.argmax(dim=1),
        temperature=temperature,
        confidence_temperature=1,
        alpha=1,
        beta=8,
    )
    assert right.item() == pytest.approx(0, abs=1e-9)


@few_examples
@given(batches(), st.floats(1, 20))
def test_rld_with_a_teacher_that_is_right_is_dkd(batch: Logits, temperature: float) -> None:
    """The teacher's likeliest class is then the label, and all other classes are ranked below it."""
    student, teacher, _ = batch
    labels = teacher.argmax(dim=1)
    rld = kd.losses.rld_loss(
        student, teacher, labels, temperature=temperature, confidence_temperature=temperature, alpha=1, beta=8
    )
    dkd = kd.losses.dkd_loss(student, teacher, labels, temperature=temperature, alpha=1, beta=8)
    assert rld.item() == pytest.approx(dkd.item(), rel=1e-7, abs=1e-9)


def test_rld_leaves_out_the_classes_that_a_wrong_teacher_ranks_above_the_label() -> None:
    teacher, labels = torch.tensor([[3.0, 1.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([1])
    settings: dict[str, float] = {"temperature": 2, "confidence_temperature": 1, "alpha": 0, "beta": 1}
    losses = [
        kd.losses.rld_loss(torch.tensor([row], dtype=torch.float64), teacher, labels, **settings).item()
        for row in ([0.0, 0.0, 0.5, 0.2], [9.0, 0.0, 0.5, 0.2], [0.0, 7.0, 0.5, 0.2])
    ]
    assert losses[0] == losses[1] == losses[2] > 0
    last = torch.tensor([3])  # the teacher ranks no class below it
    assert kd.losses.rld_loss(teacher.flip(1), teacher, last, **settings).item() == 0


@few_examples
@given(batches(), st.floats(0.05, 1))
def test_ttm_softens_only_the_teacher(batch: Logits, gamma: float) -> None:
    student, teacher, _ = batch
    expected = kd.kd_loss(student, gamma * teacher, temperature=1)
    assert kd.losses.ttm_loss(student, teacher, gamma=gamma).item() == pytest.approx(expected.item(), abs=1e-9)


@few_examples
@given(batches())
def test_soft_labels_equal_kd_plus_the_teachers_entropy(batch: Logits) -> None:
    student, teacher, _ = batch
    p = teacher.softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    loss = kd.losses.soft_cross_entropy(student, teacher, temperature=1)
    assert loss.item() == pytest.approx((kd.kd_loss(student, teacher, temperature=1) + entropy).item(), abs=1e-9)


@few_examples
@given(batches(), st.floats(0.01, 0.99))
def test_a_uniform_teacher_gives_smoothed_labels(batch: Logits, alpha: float) -> None:
    student, _, labels = batch
    student = student.clone().requires_grad_()
    nothing = torch.zeros_like(student)
    taught = compute_loss("kd", student, nothing, labels, temperature=1, alpha=alpha)
    smoothed = compute_loss("label-smoothing", student, nothing, labels, smoothing=1 - alpha)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (taught, smoothed)]
    assert torch.allclose(*gradients, atol=1e-6)


@few_examples
@given(batches(), st.floats(0.6, 0.999))
def test_a_virtual_teacher_has_the_given_probability(batch: Logits, correct: float) -> None:
    student, _, labels = batch
    p = kd.losses.virtual_logits(labels, student, correct=correct).softmax(dim=1)
    assert torch.allclose(p.gather(1, labels.unsqueeze(1)), torch.tensor(correct, dtype=p.dtype))
    others = p[torch.arange(p.shape[1]) != labels.unsqueeze(1)].view(len(p), -1)
    assert torch.allclose(others, others[:, :1].expand_as(others))
