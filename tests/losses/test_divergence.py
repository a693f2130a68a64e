"""Divergences of ``kd``: torch.distributions, limits, bounds, gradients (authors' values: test_reference_values.py)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import kd
from kd.losses import divergence_loss
from kd.losses.divergence import parse_divergence
from tests.losses.test_response import logit_pairs, temperatures

exactly = settings(max_examples=40)
shares = st.floats(0.01, 0.99)
ALL = ["forward", "reverse", "js", "js:0.2", "skew", "skew:0.5", "skew-reverse", "skew-reverse:0.5"]
every_divergence = pytest.mark.parametrize("divergence", ALL)


def softened(logits: Tensor, temperature: float) -> Categorical:
    return Categorical(logits=logits / temperature)


def mixture(first: Categorical, second: Categorical, share: float) -> Categorical:
    return Categorical(probs=share * first.probs + (1 - share) * second.probs)


def expected_loss(student: Tensor, teacher: Tensor, temperature: float, divergence: str) -> float:
    """Return T² · D, written with torch.distributions."""
    name, share = parse_divergence(divergence)
    p, q = softened(teacher, temperature), softened(student, temperature)
    values = {
        "forward": lambda: kl_divergence(p, q),
        "reverse": lambda: kl_divergence(q, p),
        "js": lambda: (
            share * kl_divergence(p, mixture(p, q, share)) + (1 - share) * kl_divergence(q, mixture(p, q, share))
        ),
        "skew": lambda: kl_divergence(p, mixture(p, q, share)),
        "skew-reverse": lambda: kl_divergence(q, mixture(q, p, share)),
    }
    return temperature**2 * float(values[name]().mean())


@every_divergence
@exactly
@given(logit_pairs(), temperatures)
def test_the_loss_is_that_of_torch_distributions(
    divergence: str, pair: tuple[Tensor, Tensor], temperature: float
) -> None:
    loss = divergence_loss(*pair, temperature=temperature, divergence=divergence)
    assert loss.ndim == 0
    # Mixtures of probabilities lose the digits of small ones; the loss works with logarithms.
    rounding = 1e-10 * temperature**2
    expected = expected_loss(*pair, temperature, divergence)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=max(rounding, 1e-10))


@every_divergence
@exactly
@given(logit_pairs(), temperatures)
def test_it_is_zero_at_agreement_and_not_negative_elsewhere(
    divergence: str, pair: tuple[Tensor, Tensor], temperature: float
) -> None:
    student, teacher = pair
    assert divergence_loss(teacher, teacher, temperature=temperature, divergence=divergence).item() == pytest.approx(
        0, abs=1e-12 * temperature**2
    )
    assert divergence_loss(student, teacher, temperature=temperature, divergence=divergence).item() > -1e-12


@exactly
@given(logit_pairs(), temperatures)
def test_forward_is_kd_bit_for_bit_and_reverse_swaps_the_models(
    pair: tuple[Tensor, Tensor], temperature: float
) -> None:
    student, teacher = pair
    forward = divergence_loss(student, teacher, temperature=temperature, divergence="forward")
    assert torch.equal(forward, kd.kd_loss(student, teacher, temperature=temperature))
    reverse = divergence_loss(student, teacher, temperature=temperature, divergence="reverse")
    assert reverse.item() == pytest.approx(kd.kd_loss(teacher, student, temperature=temperature).item(), rel=1e-9)


@exactly
@given(logit_pairs(), temperatures)
def test_skew_divergences_end_in_the_kl_divergences_as_the_share_vanishes(
    pair: tuple[Tensor, Tensor], temperature: float
) -> None:
    for skew, limit in (("skew", "forward"), ("skew-reverse", "reverse")):
        at_limit, at_zero, near = (
            divergence_loss(*pair, temperature=temperature, divergence=name).item()
            for name in (limit, f"{skew}:0", f"{skew}:1e-60")
        )
        assert at_zero == at_limit
        assert near == pytest.approx(at_limit, rel=1e-4, abs=1e-6 * temperature**2)


@exactly
@given(logit_pairs(), temperatures)
def test_jensen_shannon_is_symmetric_and_at_most_log_two(pair: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = pair
    value, swapped = (
        divergence_loss(*models, temperature=temperature, divergence="js").item()
        for models in ((student, teacher), (teacher, student))
    )
    assert value == pytest.approx(swapped, rel=1e-9, abs=1e-12)
    assert value <= temperature**2 * math.log(2) * (1 + 1e-12)


@exactly
@given(logit_pairs(), temperatures, shares)
def test_js_is_a_mean_of_two_skew_divergences(pair: tuple[Tensor, Tensor], temperature: float, share: float) -> None:
    js, skew, reverse = (
        divergence_loss(*pair, temperature=temperature, divergence=f"{name}:{value!r}").item()
        for name, value in (("js", share), ("skew", share), ("skew-reverse", 1 - share))
    )
    assert js == pytest.approx(share * skew + (1 - share) * reverse, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    ("divergence", "factor"),
    [("reverse", 1), ("js", 1 / 4), ("js:0.2", 0.16), ("skew:0.3", 0.49), ("skew-reverse:0.3", 0.49)],
)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_near_agreement_all_have_the_scale_of_kl(divergence: str, factor: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, step = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    student = (teacher + 1e-4 * step).requires_grad_()
    gradients = [
        torch.autograd.grad(divergence_loss(student, teacher, temperature=temperature, divergence=name), student)[0]
        for name in (divergence, "forward")
    ]
    assert torch.allclose(gradients[0], factor * gradients[1], rtol=1e-2, atol=1e-9)


@every_divergence
def test_the_gradient_is_that_of_finite_differences(divergence: str) -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    masked = teacher.clone()
    masked[0, 1] = -math.inf
    for target in (teacher, masked):
        torch.autograd.gradcheck(
            lambda logits, target=target: divergence_loss(logits, target, temperature=2.0, divergence=divergence),
            student.clone().requires_grad_(),
        )


def test_reverse_compares_the_unmasked_classes_only() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    masked = torch.cat([teacher, torch.full((3, 2), -math.inf, dtype=torch.float64)], dim=1)
    wide = torch.cat([student, torch.randn(3, 2, dtype=torch.float64)], dim=1).requires_grad_()
    loss = divergence_loss(wide, masked, temperature=3.0, divergence="reverse")
    assert loss.item() == pytest.approx(
        divergence_loss(student, teacher, temperature=3.0, divergence="reverse").item(), rel=1e-12
    )
    (gradient,) = torch.autograd.grad(loss, wide)
    assert not gradient[:, 5:].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backward", "divergence must be forward, reverse, js, js:SHARE, .* Got 'backward' instead"),
        ("revers", r"Did you mean reverse"),
        ("reverse:0.1", "Got 'reverse:0.1'"),
        ("skew:x", "the share of skew must be a number. Got 'x'"),
        ("skew:1", r"the share of skew must be in \[0, 1\). Got 1.0"),
        ("skew:nan", r"in \[0, 1\)"),
        ("js:0", r"the share of js must be in \(0, 1\). Got 0.0"),
        ("", "divergence must be"),
    ],
)
def test_an_unknown_divergence_or_a_share_out_of_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_divergence(text)
    with pytest.raises(ValueError, match=message):
        divergence_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=1, divergence=text)


@every_divergence
def test_a_wrong_temperature_or_shape_is_refused(divergence: str) -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        divergence_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0, divergence=divergence)
    with pytest.raises(ValueError, match=r"\[2, 4\]"):
        divergence_loss(torch.zeros(2, 3), torch.zeros(2, 4), temperature=1, divergence=divergence)
