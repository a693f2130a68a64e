"""The gate passes files that agree with PyTorch and fails all others, with the amount."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kd.deploy.gate import TOLERANCE, Check, _check_loss, check_outputs
from kd.deploy.runtime import Outputs
from kd.evaluation.two_models import McNemar
from kd.models.inference import Predictions

ITEMS, CLASSES = 400, 5


def reference(items: int = ITEMS) -> Predictions:
    logits = 0.5 * torch.randn(items, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(items) % CLASSES
    logits[torch.arange(items), labels] += 3
    return Predictions(logits, labels)


def outputs(logits: Tensor) -> Outputs:
    return Outputs(logits.softmax(dim=1).numpy(), logits.numpy(), ())


def check(logits: Tensor, expected: Predictions | None = None, margin: float | None = None) -> Check:
    return check_outputs(outputs(logits), expected or reference(), size=10, margin=margin)


def with_errors(count: int, items: int = ITEMS) -> Tensor:
    """Return the logits with ``count`` more rows wrong."""
    expected = reference(items)
    rows = (~expected.wrong).nonzero().flatten()[:count]
    logits = expected.logits.clone()
    logits[rows] = logits[rows].roll(1, dims=1)
    return logits


def test_equal_outputs_pass_and_rounding_too() -> None:
    logits = reference().logits
    for other in (logits, logits + 0.5 * TOLERANCE):
        result = check(other)
        assert result.passed
        assert result.is_equivalence_shown
        assert result.agreement == 1
        assert result.loss == 0


def test_a_single_logit_beyond_the_tolerance_fails_with_the_amount() -> None:
    logits = reference().logits.clone()
    logits[7, 0] += 0.25
    result = check(logits)
    assert not result.passed
    assert "up to 2.5e-01" in result.problems[0]


def test_the_tolerance_grows_with_the_largest_logit() -> None:
    expected = reference()
    larger = Predictions(100 * expected.logits, expected.labels)
    result = check(larger.logits + 0.005, larger)
    assert result.passed
    assert not check(expected.logits + 0.005).passed


def test_another_class_is_only_allowed_where_two_logits_nearly_tie() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    near = Predictions(torch.tensor([[1.0, 1.0 - TOLERANCE / 2], [1.0, 0.0]]), labels)
    assert check(
        near.logits.clone().index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(1.00001)), near
    ).passed
    assert "another class for 1 of 2" in " ".join(check(near.logits.flip(1), near).problems)


@pytest.mark.parametrize("margin", [None, 5.0])
def test_wrong_probabilities_shapes_and_values_fail_for_every_format(margin: float | None) -> None:
    expected = reference()
    good = outputs(expected.logits)
    wrong = {
        "softmax of its logits": good._replace(probabilities=good.probabilities * np.float32(0.99)),
        "not finite": good._replace(logits=np.full_like(good.logits, np.nan)),
        "its outputs are": good._replace(logits=good.logits[:, :-1], probabilities=good.probabilities[:, :-1]),
    }
    for problem, bad in wrong.items():
        (found,) = check_outputs(bad, expected, size=1, margin=margin).problems
        assert problem in found


@pytest.mark.parametrize(
    ("errors", "margin", "passes"), [(0, 0.1, True), (4, 1.0, True), (5, 1.0, False), (400, 1, False)]
)
def test_a_quantised_file_passes_up_to_the_margin(errors: int, margin: float, passes: bool) -> None:
    result = check(with_errors(min(errors, int((~reference().wrong).sum()))), margin=margin)
    assert result.passed == passes
    assert result.passed or f"loses {result.loss:.2f} percentage points" in result.problems[0]
    assert result.loss == pytest.approx(100 * result.test.only_second_wrong / ITEMS)
    assert result.accuracy.errors == int(reference().wrong.sum()) + result.test.only_second_wrong


def test_equivalence_is_shown_only_with_enough_items() -> None:
    few, many = (check(reference(n).logits, reference(n), margin=0.1) for n in (ITEMS, 10 * ITEMS))
    assert few.passed
    assert not few.is_equivalence_shown
    assert many.is_equivalence_shown
    assert 0 < many.loss_bound < 0.1 < few.loss_bound


def test_the_bound_is_above_the_loss_and_covers_a_true_loss() -> None:
    """Simulated: files that lose a known share; the one-sided 95 % bound may lie below it in 5 % of test sets."""
    generator, below, rounds = torch.Generator().manual_seed(3), 0, 300
    right = torch.zeros(500, dtype=torch.int64)
    expected = Predictions(torch.tensor([[1.0, 0.0]]).repeat(500, 1), right)
    for _ in range(rounds):
        wrong = torch.rand(500, generator=generator) < 0.02
        logits = torch.where(wrong[:, None], torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
        result = check(logits, expected, margin=100)
        assert result.loss < result.loss_bound
        below += result.loss_bound < 2
    assert below / rounds < 0.09


@pytest.mark.parametrize("items", [1_000, 2_000, 3_000, 10_000])
def test_a_loss_of_exactly_the_margin_passes_and_one_more_error_fails(items: int) -> None:
    allowed = items // 1_000
    for gained in range(1, 40):
        for lost, passes in ((gained + allowed, True), (gained + allowed + 1, False)):
            assert (not _check_loss(McNemar(gained, lost, 1.0), items, 0.1)) == passes
