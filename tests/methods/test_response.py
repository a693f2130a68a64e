"""All logit methods of the table: the common contract, and each paper's formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd.methods import METHODS, make, settings_of
from kd.methods.response import WarmupObjective
from kd.storage.fingerprint import describe, digest
from tests.methods_in_numpy import WRITTEN

RESPONSE = [name for name, method in METHODS.items() if set(method.needs) <= {"labels", "logits"}]
every = pytest.mark.parametrize("name", RESPONSE)
some = settings(max_examples=25)

# At agreement these losses equal the entropy of the teacher or of the virtual teacher.
NOT_ZERO_AT_AGREEMENT = {"soft-labels", "nkd", "wsld", "ofa", "label-smoothing", "teacher-free"}

Logits = tuple[Tensor, Tensor, Tensor]


@st.composite
def batches(draw: st.DrawFn) -> Logits:
    """Return student and teacher logits [B, K] in float64, from nearly uniform to nearly one-hot, and labels."""
    rows, classes = draw(st.integers(2, 6)), draw(st.integers(3, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.3, 1.0, 5.0]))
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def objective_of(name: str, **given: Any) -> kd.Objective:
    """Build the method's objective for an identity model, so that logits can be passed directly."""
    model, batch = nn.Identity(), (torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5))
    return make(name, model, model, batch, given)


def loss_of(name: str, student: Tensor, teacher: Tensor, labels: Tensor, **given: Any) -> Tensor:
    output, terms = objective_of(name, **given)(nn.Identity(), (student, labels, teacher))
    assert output is student
    return torch.stack([term.double() for term in terms.values()]).sum()


def numbers_of(name: str) -> dict[str, float]:
    """Return the numeric settings of a method."""
    return {key: value for key, value in settings_of(name).items() if isinstance(value, float)}


@every
@some
@given(batches())
def test_the_loss_is_the_written_formula(name: str, batch: Logits) -> None:
    student, teacher, labels = batch
    written = WRITTEN[name](student.numpy(), teacher.numpy(), labels.numpy(), **settings_of(name))
    assert loss_of(name, *batch).item() == pytest.approx(written, rel=1e-6, abs=1e-6)


@some
@given(batches(), st.sampled_from([0.5, 1.2, 1.5, 3.0]))
def test_ofa_is_the_written_formula_with_any_gamma_and_the_soft_cross_entropy_with_1(
    batch: Logits, gamma: float
) -> None:
    student, teacher, labels = batch
    arrays = student.numpy(), teacher.numpy(), labels.numpy()
    written = WRITTEN["ofa"](*arrays, gamma=gamma, soft=1.0, exits=1.0, student_layers="")
    hard = nn.functional.cross_entropy(student, labels).item()
    assert hard + kd.losses.ofa_loss(*batch, gamma=gamma).item() == pytest.approx(written, rel=1e-6)
    expected = kd.losses.soft_cross_entropy(student, teacher, temperature=1).item()
    assert kd.losses.ofa_loss(*batch, gamma=1).item() == pytest.approx(expected, rel=1e-9)


@every
def test_the_terms_are_scalars_that_say_which_is_which(name: str) -> None:
    batch = torch.randn(4, 5), torch.tensor([0, 1, 2, 3]), torch.randn(4, 5)
    _, terms = objective_of(name)(nn.Identity(), batch)
    assert next(iter(terms)) == "hard"
    assert set(terms) <= {"hard", "soft"}
    assert all(term.ndim == 0 for term in terms.values())


@every
@some
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_samples_and_of_classes_does_not_matter(name: str, batch: Logits, random: Any) -> None:
    student, teacher, labels = batch
    rows, classes = (random.sample(range(n), n) for n in student.shape)
    moved = torch.argsort(torch.tensor(classes))[labels]
    loss, expected = loss_of(name, student[:, classes], teacher[:, classes], moved), loss_of(name, *batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss_of(name, student[rows], teacher[rows], labels[rows]).item() == pytest.approx(expected.item(), rel=1e-6)


@every
@some
@given(batches())
def test_it_is_a_mean_over_the_batch(name: str, batch: Logits) -> None:
    twice = (torch.cat([part, part]) for part in batch)
    assert loss_of(name, *twice).item() == pytest.approx(loss_of(name, *batch).item(), rel=1e-6)


@every
@some
@given(batches(), st.floats(-50, 50))
def test_a_constant_added_to_a_models_logits_says_nothing(name: str, batch: Logits, constant: float) -> None:
    student, teacher, labels = batch
    loss, expected = loss_of(name, student + constant, teacher - constant, labels), loss_of(name, *batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)  # the labels' term is in single precision


@every
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    loss_of(name, student, teacher, torch.tensor([0, 1, 2, 3])).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.abs().sum() > 0)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("gap", [1e4, 0.0])
def test_loss_and_gradient_are_finite_for_any_logits(name: str, dtype: torch.dtype, gap: float) -> None:
    labels = torch.tensor([0, 1, 2, 3, 4])
    sure = (gap * torch.eye(5)).to(dtype)
    for student, teacher in ((sure, sure.flip(0)), (sure, sure), (sure.flip(0), torch.zeros_like(sure))):
        student = student.clone().requires_grad_()
        loss = loss_of(name, student, teacher, labels)
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())


@every
@some
@given(batches())
def test_at_agreement_the_methods_own_term_is_zero_or_has_no_gradient(name: str, batch: Logits) -> None:
    _, teacher, labels = batch
    gamma = (
        float(settings_of(name)["gamma"]) if "ttm" in name else 1.0
    )  # the minimum is at the softened teacher
    student = (gamma * teacher).requires_grad_()
    _, terms = objective_of(name)(nn.Identity(), (student, labels, teacher))
    if name not in NOT_ZERO_AT_AGREEMENT:
        assert terms["soft"].item() == pytest.approx(0, abs=1e-9)
    elif name == "soft-labels":
        (gradient,) = torch.autograd.grad(terms["soft"], student)
        assert float(gradient.abs().max()) < 1e-9


@every
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    if "logits" in METHODS[name].needs:
        with pytest.raises(ValueError, match=r"\[4, 6\]"):
            loss_of(name, torch.randn(4, 5), torch.randn(4, 6), labels)
        with pytest.raises(ValueError, match="teacher logits"):
            objective_of(name)(nn.Identity(), (torch.randn(4, 5), labels))


@every
def test_each_setting_counts_and_is_part_of_what_a_run_knows_the_method_by(name: str) -> None:
    known = digest(describe(objective_of(name)))
    assert known == digest(describe(objective_of(name)))
    for setting, value in numbers_of(name).items():
        other = value * 0.5 + 0.01
        assert digest(describe(objective_of(name, **{setting: other}))) != known, setting


@every
def test_a_setting_outside_its_range_is_refused_at_the_latest_when_it_is_used(name: str) -> None:
    batch = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    for setting in set(numbers_of(name)) - {"soft", "hard"}:
        with pytest.raises(ValueError, match=r"must be .* Got"):
            loss_of(name, *batch, **{setting: -1.0})


@pytest.mark.parametrize("name", ["dkd", "lskd", "lskd-dkd"])
def test_methods_of_more_than_two_classes_say_so(name: str) -> None:
    with pytest.raises(ValueError, match="2"):
        loss_of(name, torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))


@some
@given(batches(), st.floats(0.5, 10))
def test_dkd_with_its_weight_put_back_is_kd(batch: Logits, temperature: float) -> None:
    for row in range(len(batch[0])):
        student, teacher, labels = (part[row : row + 1] for part in batch)
        freed = 1 - (teacher / temperature).softmax(dim=1)[0, labels[0]].item()
        loss = kd.losses.dkd_loss(student, teacher, labels, temperature=temperature, alpha=1.0, beta=freed)
        expected = kd.kd_loss(student, teacher, temperature=temperature)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)


@some
@given(batches(), st.floats(0.1, 10), st.floats(-5, 5))
def test_standardised_logits_do_not_know_scale_and_shift(batch: Logits, scale: float, shift: float) -> None:
    logits = batch[0]
    one, other = kd.losses.standardised(logits), kd.losses.standardised(scale * logits + shift)
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(one.mean(dim=1), torch.zeros(len(one), dtype=one.dtype), atol=1e-9)


@some
@given(batches(), st.floats(0.05, 0.9), st.floats(0.1, 1))
def test_dist_does_not_know_scale_and_shift_of_probabilities(batch: Logits, share: float, scale: float) -> None:
    # q' = scale · q + (1 − scale) / K is a distribution again, and correlates with everything as q does.
    student, teacher, _ = batch
    q = student.softmax(dim=1)
    mixed = (scale * q + (1 - scale) / q.shape[1]).log()
    one, other = (
        kd.losses.dist_loss(logits, teacher, temperature=1, beta=share, gamma=1 - share) for logits in (student, mixed)
    )
    assert one.item() == pytest.approx(other.item(), abs=1e-6)


@some
@given(batches())
def test_ttm_with_an_exponent_of_one_is_kd_at_temperature_one(batch: Logits) -> None:
    student, teacher, _ = batch
    for weighted in (False, True):  # Σ p¹ = 1
        loss = kd.losses.ttm_loss(student, teacher, gamma=1, weighted=weighted)
        assert loss.item() == pytest.approx(kd.kd_loss(student, teacher, temperature=1).item(), abs=1e-9)


@some
@given(batches(), st.floats(0.05, 1))
def test_ttm_softens_the_teacher_alone(batch: Logits, gamma: float) -> None:
    student, teacher, _ = batch
    expected = kd.kd_loss(student, gamma * teacher, temperature=1)
    assert kd.losses.ttm_loss(student, teacher, gamma=gamma).item() == pytest.approx(expected.item(), abs=1e-9)


@some
@given(batches())
def test_soft_labels_are_kd_and_the_teachers_entropy(batch: Logits) -> None:
    student, teacher, _ = batch
    p = teacher.softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    loss = kd.losses.soft_cross_entropy(student, teacher, temperature=1)
    assert loss.item() == pytest.approx((kd.kd_loss(student, teacher, temperature=1) + entropy).item(), abs=1e-9)


@some
@given(batches(), st.floats(0.01, 0.99))
def test_a_teacher_who_knows_nothing_teaches_smoothed_labels(batch: Logits, alpha: float) -> None:
    student, _, labels = batch
    student = student.clone().requires_grad_()
    nothing = torch.zeros_like(student)
    taught = loss_of("kd", student, nothing, labels, temperature=1, alpha=alpha)
    smoothed = loss_of("label-smoothing", student, nothing, labels, smoothing=1 - alpha)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (taught, smoothed)]
    assert torch.allclose(*gradients, atol=1e-6)


@some
@given(batches(), st.floats(0.6, 0.999))
def test_a_virtual_teacher_says_what_it_is_told_to(batch: Logits, correct: float) -> None:
    student, _, labels = batch
    p = kd.losses.virtual_logits(labels, student, correct=correct).softmax(dim=1)
    assert torch.allclose(p.gather(1, labels.unsqueeze(1)), torch.tensor(correct, dtype=p.dtype))
    others = p[torch.arange(p.shape[1]) != labels.unsqueeze(1)].view(len(p), -1)
    assert torch.allclose(others, others[:, :1].expand_as(others))


def test_a_warm_up_grows_evenly_and_leaves_the_labels_alone() -> None:
    def constant(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return batch[0], {"hard": torch.tensor(1.0), "soft": torch.tensor(1.0)}

    objective = WarmupObjective(constant, 0.5)
    weights = []
    for epoch in range(8):
        objective.set_epoch(epoch, 8)
        _, terms = objective(nn.Identity(), (torch.zeros(1, 1),))
        weights.append(float(terms["soft"]))
        assert float(terms["hard"]) == 1
    assert weights == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    at_once = WarmupObjective(constant, 0)
    at_once.set_epoch(0, 8)
    assert float(at_once(nn.Identity(), (torch.zeros(1, 1),))[1]["soft"]) == 1
