"""Soft-target loss: formula, invariances, gradient, precision and invalid inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kd

exactly = settings(max_examples=40)
temperatures = st.floats(0.5, 30)


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Student and teacher logits [B, K] in float64, from nearly uniform to nearly one-hot."""
    batch, classes = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.01, 1.0, 10.0]))
    student, teacher = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student, teacher


def written_formula(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T² · Σ_k p_k · (log p_k − log q_k), averaged over the rows, in NumPy's float64."""

    def log_probabilities(logits: Tensor) -> np.ndarray:
        z = logits.detach().double().numpy() / temperature
        z = z - z.max(axis=1, keepdims=True)
        return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))

    log_q, log_p = log_probabilities(student), log_probabilities(teacher)
    return float(temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


@exactly
@given(logit_pairs(), temperatures)
def test_the_loss_is_the_written_formula(pair: tuple[Tensor, Tensor], temperature: float) -> None:
    loss = kd.kd_loss(*pair, temperature=temperature)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(written_formula(*pair, temperature), rel=1e-8, abs=1e-10)


@exactly
@given(logit_pairs(), temperatures)
def test_single_precision_stays_within_its_rounding_of_the_formula(
    pair: tuple[Tensor, Tensor], temperature: float
) -> None:
    student, teacher = (logits.float() for logits in pair)
    loss = kd.kd_loss(student, teacher, temperature=temperature)
    # The rounding of log-probabilities of size |z| / T, times the factor T².
    rounding = 1e-6 * temperature**2 * (1 + float(torch.stack(pair).abs().max()) / temperature)
    assert loss.item() == pytest.approx(written_formula(student, teacher, temperature), rel=1e-6, abs=rounding)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
def test_a_case_worked_by_hand(temperature: float) -> None:
    teacher = temperature * torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)  # p = (1/4, 3/4)
    student = torch.zeros(1, 2, dtype=torch.float64)  # q = (1/2, 1/2)
    expected = temperature**2 * (math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4)
    assert kd.kd_loss(student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-12)


@exactly
@given(logit_pairs(), temperatures)
def test_it_is_zero_at_agreement_and_positive_elsewhere(pair: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = pair
    assert kd.kd_loss(teacher, teacher, temperature=temperature).item() == 0
    assert kd.kd_loss(student, teacher, temperature=temperature).item() > 0


@exactly
@given(logit_pairs(), temperatures, st.floats(-20, 20), st.floats(-20, 20))
def test_a_constant_added_to_a_row_changes_nothing(
    pair: tuple[Tensor, Tensor], temperature: float, first: float, second: float
) -> None:
    student, teacher = pair
    row = torch.arange(len(student), dtype=torch.float64)[:, None]
    shifted = kd.kd_loss(student + first * row, teacher + second + row, temperature=temperature)
    torch.testing.assert_close(shifted, kd.kd_loss(student, teacher, temperature=temperature), rtol=1e-7, atol=1e-9)


@exactly
@given(logit_pairs(), temperatures, st.integers(0, 1000))
def test_the_order_of_samples_and_of_classes_does_not_matter(
    pair: tuple[Tensor, Tensor], temperature: float, seed: int
) -> None:
    student, teacher = pair
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(student.shape[0], generator=generator)[:, None]
    classes = torch.randperm(student.shape[1], generator=generator)
    permuted = kd.kd_loss(student[rows, classes], teacher[rows, classes], temperature=temperature)
    torch.testing.assert_close(permuted, kd.kd_loss(student, teacher, temperature=temperature), rtol=1e-9, atol=1e-12)


@exactly
@given(logit_pairs(), temperatures)
def test_it_is_a_mean_over_the_batch(pair: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = pair
    whole = kd.kd_loss(student, teacher, temperature=temperature)
    doubled = kd.kd_loss(student.repeat(2, 1), teacher.repeat(2, 1), temperature=temperature)
    rows = [kd.kd_loss(s[None], t[None], temperature=temperature).item() for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(doubled, whole, rtol=1e-9, atol=1e-12)
    assert whole.item() == pytest.approx(sum(rows) / len(rows), rel=1e-9, abs=1e-12)


def test_the_gradient_reaches_the_student_only() -> None:
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    student.requires_grad_()
    teacher.requires_grad_()
    kd.kd_loss(student, teacher, temperature=3.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@exactly
@given(logit_pairs(), temperatures)
def test_the_gradient_is_the_difference_of_the_softened_probabilities(
    pair: tuple[Tensor, Tensor], temperature: float
) -> None:
    student, teacher = pair
    expected = temperature / len(student) * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1))
    torch.testing.assert_close(_gradient(student, teacher, temperature), expected, rtol=1e-8, atol=1e-10)


@exactly
@given(logit_pairs())
def test_at_large_temperature_the_gradient_matches_centred_logits(pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = pair
    difference = student - teacher
    batch, classes = student.shape
    limit = (difference - difference.mean(dim=1, keepdim=True)) / classes / batch
    torch.testing.assert_close(_gradient(student, teacher, 1e5), limit, rtol=1e-3, atol=1e-3 * float(limit.abs().max()))


def _gradient(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(kd.kd_loss(leaf, teacher, temperature=temperature), leaf)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_precision(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    loss = kd.kd_loss(student, teacher, temperature=4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(written_formula(student, teacher, 4.0), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_huge_gap_between_logits_gives_a_finite_loss(dtype: torch.dtype) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], dtype=dtype)
    loss = kd.kd_loss(student, teacher, temperature=1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(2e4, rel=1e-3)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0]], dtype=dtype))


def test_autocast_does_not_lower_the_precision() -> None:
    student, teacher = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(2)).unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = kd.kd_loss(student, teacher, temperature=4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(written_formula(student, teacher, 4.0), rel=1e-5)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=rf"^temperature must be a finite number above 0\. Got {temperature} instead"):
        kd.kd_loss(torch.zeros(2, 3), torch.ones(2, 3), temperature=temperature)


def test_an_infinite_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature must be .* Got inf instead"):
        kd.kd_loss(torch.zeros(2, 3), torch.ones(2, 3), temperature=math.inf)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (2, 4)), ((2, 3), (1, 3)), ((2, 3), (3,)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))]
)
def test_wrong_shapes_are_refused_by_name(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="student_logits and teacher_logits must both be") as refused:
        kd.kd_loss(torch.zeros(student), torch.zeros(teacher), temperature=1.0)
    assert f"Got {list(student)} and {list(teacher)} instead" in str(refused.value)
