"""All logit methods of the table: the common contract, and the formula of each paper."""

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
from tests.methods_in_numpy import REFERENCE

RESPONSE = [name for name, method in METHODS.items() if set(method.needs) <= {"labels", "logits"}]
all_methods = pytest.mark.parametrize("name", RESPONSE)
few_examples = settings(max_examples=15)

# At agreement these losses equal the entropy of the teacher or of the virtual teacher; rld corrects a wrong teacher.
NOT_ZERO_AT_AGREEMENT = {"soft-labels", "nkd", "wsld", "ofa", "rld", "label-smoothing", "teacher-free"}

Logits = tuple[Tensor, Tensor, Tensor]


@st.composite
def batches(draw: st.DrawFn) -> Logits:
    """Return student and teacher logits [B, K] in float64, from nearly uniform to nearly one-hot, and labels."""
    rows, classes = draw(st.integers(2, 6)), draw(st.integers(3, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.3, 1.0, 5.0]))
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def build_objective(name: str, **given: Any) -> kd.Objective:
    """Build the method's objective for an identity model, so that logits can be passed directly."""
    model, batch = nn.Identity(), (torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5))
    return make(name, model, model, batch, given)


def compute_loss(name: str, student: Tensor, teacher: Tensor, labels: Tensor, **given: Any) -> Tensor:
    output, terms = build_objective(name, **given)(nn.Identity(), (student, labels, teacher))
    assert output is student
    return torch.stack([term.double() for term in terms.values()]).sum()


def numeric_settings(name: str) -> dict[str, float]:
    """Return the numeric settings of a method."""
    return {key: value for key, value in settings_of(name).items() if isinstance(value, float)}


@all_methods
@few_examples
@given(batches())
def test_the_loss_equals_the_reference(name: str, batch: Logits) -> None:
    student, teacher, labels = batch
    reference = REFERENCE[name](student.numpy(), teacher.numpy(), labels.numpy(), **settings_of(name))
    assert compute_loss(name, *batch).item() == pytest.approx(reference, rel=1e-6, abs=1e-6)


@few_examples
@given(batches(), st.sampled_from(["forward", "reverse", "js", "js:0.3", "skew", "skew:0.4", "skew-reverse"]))
def test_kd_with_any_divergence_equals_the_reference(batch: Logits, divergence: str) -> None:
    arrays = (values.numpy() for values in batch)
    reference = REFERENCE["kd"](*arrays, temperature=3.0, alpha=0.3, divergence=divergence)
    loss = compute_loss("kd", *batch, temperature=3.0, alpha=0.3, divergence=divergence)
    assert loss.item() == pytest.approx(reference, rel=1e-6, abs=1e-6)


@few_examples
@given(batches(), st.sampled_from([0.5, 1.2, 1.5, 3.0]))
def test_ofa_equals_the_reference_for_any_gamma_and_the_soft_cross_entropy_for_1(batch: Logits, gamma: float) -> None:
    student, teacher, labels = batch
    arrays = student.numpy(), teacher.numpy(), labels.numpy()
    reference = REFERENCE["ofa"](*arrays, gamma=gamma, soft=1.0, exits=1.0, student_layers="")
    hard = nn.functional.cross_entropy(student, labels).item()
    assert hard + kd.losses.ofa_loss(*batch, gamma=gamma).item() == pytest.approx(reference, rel=1e-6)
    expected = kd.losses.soft_cross_entropy(student, teacher, temperature=1).item()
    assert kd.losses.ofa_loss(*batch, gamma=1).item() == pytest.approx(expected, rel=1e-9)


@all_methods
def test_the_terms_are_named_scalars(name: str) -> None:
    batch = torch.randn(4, 5), torch.tensor([0, 1, 2, 3]), torch.randn(4, 5)
    _, terms = build_objective(name)(nn.Identity(), batch)
    assert next(iter(terms)) == "hard"
    assert set(terms) <= {"hard", "soft"}
    assert all(term.ndim == 0 for term in terms.values())


@all_methods
@few_examples
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_samples_and_of_classes_does_not_matter(name: str, batch: Logits, random: Any) -> None:
    student, teacher, labels = batch
    rows, classes = (random.sample(range(n), n) for n in student.shape)
    moved = torch.argsort(torch.tensor(classes))[labels]
    loss, expected = compute_loss(name, student[:, classes], teacher[:, classes], moved), compute_loss(name, *batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert compute_loss(name, student[rows], teacher[rows], labels[rows]).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


@all_methods
@few_examples
@given(batches())
def test_it_is_a_mean_over_the_batch(name: str, batch: Logits) -> None:
    twice = (torch.cat([values, values]) for values in batch)
    near = 1e-2 if name == "dist" else 1e-6  # its epsilon matters less in longer columns
    assert compute_loss(name, *twice).item() == pytest.approx(compute_loss(name, *batch).item(), rel=near)


@all_methods
@few_examples
@given(batches(), st.floats(-50, 50))
def test_a_constant_added_to_a_models_logits_changes_nothing(name: str, batch: Logits, constant: float) -> None:
    student, teacher, labels = batch
    loss, expected = compute_loss(name, student + constant, teacher - constant, labels), compute_loss(name, *batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)  # the labels' term is in single precision


@all_methods
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    compute_loss(name, student, teacher, torch.tensor([0, 1, 2, 3])).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.abs().sum() > 0)


@all_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("gap", [1e4, 0.0])
def test_loss_and_gradient_are_finite_for_any_logits(name: str, dtype: torch.dtype, gap: float) -> None:
    labels = torch.tensor([0, 1, 2, 3, 4])
    sure = (gap * torch.eye(5)).to(dtype)
    for student, teacher in ((sure, sure.flip(0)), (sure, sure), (sure.flip(0), torch.zeros_like(sure))):
        student = student.clone().requires_grad_()
        loss = compute_loss(name, student, teacher, labels)
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())


@all_methods
@few_examples
@given(batches())
def test_at_agreement_the_soft_term_is_zero_or_has_no_gradient(name: str, batch: Logits) -> None:
    _, teacher, labels = batch
    gamma = float(settings_of(name)["gamma"]) if "ttm" in name else 1.0  # the minimum is at the softened teacher
    student = (gamma * teacher).requires_grad_()
    _, terms = build_objective(name)(nn.Identity(), (student, labels, teacher))
    if name not in NOT_ZERO_AT_AGREEMENT:
        assert terms["soft"].item() == pytest.approx(0, abs=1e-2 if name == "dist" else 1e-9)  # dist has an epsilon
    elif name == "soft-labels":
        (gradient,) = torch.autograd.grad(terms["soft"], student)
        assert float(gradient.abs().max()) < 1e-9


@all_methods
def test_incompatible_shapes_are_refused(name: str) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    if "logits" in METHODS[name].needs:
        with pytest.raises(ValueError, match=r"\[4, 6\]"):
            compute_loss(name, torch.randn(4, 5), torch.randn(4, 6), labels)
        with pytest.raises(ValueError, match="teacher logits"):
            build_objective(name)(nn.Identity(), (torch.randn(4, 5), labels))


@all_methods
def test_each_setting_has_an_effect_and_is_part_of_the_fingerprint(name: str) -> None:
    known = digest(describe(build_objective(name)))
    assert known == digest(describe(build_objective(name)))
    for setting, value in numeric_settings(name).items():
        changed = value * 0.5 + 0.01
        assert digest(describe(build_objective(name, **{setting: changed}))) != known, setting


@all_methods
def test_a_setting_outside_its_range_is_refused_at_first_use_at_the_latest(name: str) -> None:
    batch = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    for setting in set(numeric_settings(name)) - {"soft", "hard"}:
        with pytest.raises(ValueError, match=r"must be .* Got"):
            compute_loss(name, *batch, **{setting: -1.0})


@pytest.mark.parametrize("name", ["dkd", "lskd", "lskd-dkd"])
def test_methods_that_need_more_than_two_classes_refuse_two(name: str) -> None:
    with pytest.raises(ValueError, match="2"):
        compute_loss(name, torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))


def test_a_warm_up_is_linear_and_does_not_change_the_hard_term() -> None:
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
