"""Ensembles match the documented formulas in float64, and hold invariants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kd
from kd.storage.fingerprint import describe, digest
from kd.teachers.ensemble import Ensemble, average_logits, confidences
from tests.conftest import tiny_model

some = settings(max_examples=60)
seeds, temperatures = st.integers(0, 999), st.floats(0.1, 50)
shares = st.lists(st.floats(0, 9), min_size=3, max_size=3).filter(lambda given: sum(given) > 0.01)


def make_logits(seed: int, teachers: int = 3, scale: float = 5.0) -> list[Tensor]:
    return [torch.from_numpy(z_m) for z_m in scale * np.random.default_rng(seed).normal(size=(teachers, 6, 4))]


def softmax(values: Any) -> Any:
    """Compute the softmax [N, K] in float64."""
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@some
@given(seed=seeds, temperature=temperatures, weights=shares)
def test_softened_average_is_the_mean_of_the_softened_probabilities(
    seed: int, temperature: float, weights: list[float]
) -> None:
    logits = make_logits(seed)
    z = average_logits(logits, temperature=temperature, weights=weights)
    mean = sum(w * softmax(z_m.numpy() / temperature) for w, z_m in zip(weights, logits, strict=True)) / sum(weights)
    np.testing.assert_allclose(softmax(z.numpy() / temperature), mean, rtol=1e-9, atol=1e-300)


@some
@given(seed=seeds, temperature=temperatures, weights=shares)
def test_a_mean_of_logits_is_the_geometric_mean_at_every_temperature(
    seed: int, temperature: float, weights: list[float]
) -> None:
    logits = make_logits(seed)
    z = average_logits(logits, how="logits", weights=weights)
    log_mean = sum(
        w / sum(weights) * np.log(softmax(z_m.numpy() / temperature)) for w, z_m in zip(weights, logits, strict=True)
    )
    np.testing.assert_allclose(softmax(z.numpy() / temperature), softmax(log_mean), rtol=1e-7, atol=1e-300)


@some
@given(seed=seeds, temperature=temperatures, how=st.sampled_from(["probabilities", "logits"]))
def test_single_and_identical_teachers_keep_their_softened_probabilities(
    seed: int, temperature: float, how: str
) -> None:
    (single,) = make_logits(seed, teachers=1)
    for logits in ([single], [single, single], [single, single - 7]):  # a constant added to all logits has no effect
        z = average_logits(logits, how=how, temperature=temperature)
        np.testing.assert_allclose(softmax(z.numpy() / temperature), softmax(single.numpy() / temperature), rtol=1e-9)


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_the_order_of_teachers_is_irrelevant_and_a_weight_of_0_excludes_a_teacher(how: str) -> None:
    first, second, third = make_logits(0)
    z = average_logits([first, second, third], how=how, temperature=3.0, weights=[1, 2, 0])
    torch.testing.assert_close(z, average_logits([second, first], how=how, temperature=3.0, weights=[20, 10]))


@pytest.mark.parametrize("how", ["probabilities", "logits"])
@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_the_result_is_float32_or_better_and_finite_for_extreme_logits(
    how: str, dtype: torch.dtype, expected: torch.dtype
) -> None:
    extreme = torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype)
    z = average_logits([extreme, extreme.flip(1)], how=how, temperature=0.5)
    assert z.dtype == expected
    assert z.isfinite().all()


def test_an_average_holds_at_one_temperature_only() -> None:
    logits = make_logits(0)
    z = average_logits(logits, temperature=4.0).numpy()
    mean = np.mean([softmax(z_m.numpy()) for z_m in logits], axis=0)
    assert np.abs(softmax(z) - mean).max() > 0.01


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_cached_logits_of_an_ensemble_are_the_average_of_the_teachers(how: str, digits: kd.ImageDataset) -> None:
    teachers = [tiny_model(seed, dropout=0.5, batch_norm=True) for seed in (1, 2)]
    ensemble = Ensemble(teachers, how=how, temperature=4.0, weights=[1, 3])
    cached = kd.collect_logits(ensemble, digits)
    kd.verify_logits(ensemble, digits, cached)
    caches = [kd.collect_logits(teacher, digits).logits for teacher in teachers]
    torch.testing.assert_close(cached.logits, average_logits(caches, how=how, temperature=4.0, weights=[1, 3]))


def test_every_input_of_an_average_changes_its_cache_key() -> None:
    teachers = [tiny_model(1), tiny_model(2)]
    ensembles = [
        Ensemble(teachers, temperature=4.0),
        Ensemble(teachers, temperature=5.0),
        Ensemble(teachers, temperature=4.0, weights=[1, 2]),
        Ensemble(teachers, temperature=4.0, how="logits"),
        Ensemble(teachers[::-1], temperature=4.0),
    ]
    assert len({digest(describe(ensemble)) for ensemble in ensembles}) == len(ensembles)


def test_gradients_of_two_teachers_average_to_the_gradient_of_their_mean(digits: kd.ImageDataset) -> None:
    """The gradient of the soft term is T · (p_student − p_teacher): it is linear in p_teacher, so gradients average."""
    student, logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), make_logits(3, teachers=2)
    gradients = [
        torch.autograd.grad(kd.kd_loss(student, z_m, temperature=4.0), student)[0]
        for z_m in (*logits, average_logits(logits, temperature=4.0))
    ]
    torch.testing.assert_close(gradients[2], (gradients[0] + gradients[1]) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"temperature must be a finite number above 0\. Got None instead \(the distillation temperature"),
        ({"temperature": 0.0}, r"temperature must be a finite number above 0\. Got 0.0"),
        ({"temperature": float("inf")}, r"temperature must be a finite number above 0\. Got inf"),
        ({"how": "votes"}, r"how must be 'probabilities' or 'logits'\. Got 'votes' instead"),
        ({"how": "logits", "weights": [1]}, r"weights must be one number for each of 2 teachers\. Got \[1\]"),
        ({"how": "logits", "weights": [1, -1]}, r"weights must be finite numbers of at least 0, not all 0"),
        (
            {"how": "logits", "weights": [0, 0]},
            r"weights must be .*Got \[0, 0\] instead \(they are scaled to sum to 1\)",
        ),
        ({"how": "logits", "weights": [1, float("nan")]}, r"weights must be finite"),
        ({"how": "logits", "weights": [1, float("inf")]}, r"weights must be finite"),
    ],
)
def test_function_and_ensemble_raise_the_same_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_logits(make_logits(0, teachers=2), **options)
    with pytest.raises(ValueError, match=message):
        Ensemble([tiny_model(0), tiny_model(1)], **options)


def test_no_teachers_and_different_shapes_raise() -> None:
    with pytest.raises(ValueError, match=r"the number of teachers must be at least 1\. Got 0"):
        average_logits([], how="logits")
    for other in (torch.zeros(6, 5), torch.zeros(5, 4), torch.zeros(6)):
        with pytest.raises(
            ValueError, match=r"logits of several teachers must be \[samples, classes\] and equal in shape"
        ):
            average_logits([torch.zeros(6, 4), other], how="logits")
    with pytest.raises(ValueError, match=r"Got \[\[4\]\] instead"):
        average_logits([torch.zeros(4)], how="logits")


@some
@given(seed=seeds)
def test_confidences_match_their_formula_and_follow_the_order_of_teachers(seed: int) -> None:
    logits, labels = make_logits(seed), torch.arange(6) % 4
    losses = np.array([-np.log(softmax(z_m.numpy()))[range(6), labels] for z_m in logits])
    powers = np.exp(losses - losses.max(axis=0))
    written = (1 - powers / powers.sum(axis=0)) / 2
    weights = confidences(logits, labels)
    assert weights.numpy() == pytest.approx(written, abs=1e-6)
    assert torch.allclose(weights.sum(dim=0), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(confidences(logits[::-1], labels), weights.flip(0))
    assert torch.allclose(confidences([logits[0]] * 3, labels), torch.full((3, 6), 1 / 3, dtype=torch.float64))


def test_confidence_favours_the_correct_teacher_and_requires_two_teachers_and_every_label() -> None:
    right, wrong = torch.tensor([[9.0, 0, 0, 0]]), torch.tensor([[0, 9.0, 0, 0]])
    assert confidences([right, wrong], torch.tensor([0])).flatten().tolist() == pytest.approx([1, 0], abs=1e-3)
    with pytest.raises(ValueError, match="number of teachers must be at least 2"):
        confidences([right], torch.tensor([0]))
    with pytest.raises(ValueError, match="needs a label for every sample"):
        confidences([right, wrong], torch.tensor([-1]))
    with pytest.raises(ValueError, match="equal in shape"):
        confidences([right, wrong[:, :3]], torch.tensor([0]))
