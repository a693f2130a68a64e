"""Fidelity metrics match loops and values by hand; symmetries; the split by correctness of the teacher."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.evaluation.fidelity import Match, agreement, fidelity, mean_kl
from kd.losses import kd_loss

exactly = settings(max_examples=40)
temperatures = st.floats(0.5, 30)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits [N, K] in float64, at times related, and labels."""
    images, classes = draw(st.integers(1, 30)), draw(st.integers(2, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student, teacher = 2 * torch.randn(2, images, classes, generator=random, dtype=torch.float64)
    student = student + draw(st.sampled_from([0.0, 1.0, 5.0])) * teacher
    return student, teacher, torch.randint(0, classes, (images,), generator=random)


def compute_kl_by_loop(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Σ_k p_k · (ln p_k − ln q_k) of softened probabilities, averaged, with nothing but ``math``."""

    def log_softmax(row: list[float]) -> list[float]:
        softened = [z / temperature for z in row]
        normalizer = max(softened) + math.log(sum(math.exp(z - max(softened)) for z in softened))
        return [z - normalizer for z in softened]

    total = 0.0
    for q_row, p_row in zip(student.tolist(), teacher.tolist(), strict=True):
        for log_q, log_p in zip(log_softmax(q_row), log_softmax(p_row), strict=True):
            total += math.exp(log_p) * (log_p - log_q)
    return total / len(student)


def compute_agreement_by_loop(first: Tensor, second: Tensor) -> float:
    rows = list(zip(first.tolist(), second.tolist(), strict=True))
    return sum(a.index(max(a)) == b.index(max(b)) for a, b in rows) / len(rows)


def test_four_images_worked_by_hand() -> None:
    """Teacher: right, right, wrong, wrong. The student agrees on the first and the third."""
    three = math.log(3)  # a lead of ln 3 is a probability of 3/4
    teacher = torch.tensor([[three, 0.0], [three, 0.0], [three, 0.0], [0.0, three]])
    student = torch.tensor([[three, 0.0], [0.0, three], [2 * three, 0.0], [three, 0.0]])
    labels = torch.tensor([0, 0, 1, 0])
    result = fidelity(student, teacher, labels, temperature=2.0)
    opposite = 0.75 * three - 0.25 * three  # KL of (3/4, 1/4) to (1/4, 3/4)
    surer = 0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(0.25 / 0.1)
    assert result.temperature == 2
    assert result.overall[:2] == (4, 0.5)
    assert result.overall.kl == pytest.approx((0 + opposite + surer + opposite) / 4)
    assert result.teacher_right is not None
    assert result.teacher_right[:2] == (2, 0.5)
    assert result.teacher_right.kl == pytest.approx((0 + opposite) / 2)
    assert result.teacher_wrong is not None
    assert result.teacher_wrong[:2] == (2, 0.5)
    assert result.teacher_wrong.kl == pytest.approx((surer + opposite) / 2)
    p = math.sqrt(3) / (1 + math.sqrt(3))  # the same lead at T = 2
    assert result.teacher_right.softened_kl == pytest.approx((2 * p - 1) * three / 2 / 2)


@exactly
@given(networks(), temperatures)
def test_every_metric_matches_a_loop_over_its_images(data: tuple[Tensor, Tensor, Tensor], temperature: float) -> None:
    student, teacher, labels = data
    result = fidelity(student, teacher, labels, temperature=temperature)
    correct = [row.index(max(row)) == label for row, label in zip(teacher.tolist(), labels.tolist(), strict=True)]
    groups = (
        (result.overall, list(range(len(labels)))),
        (result.teacher_right, [i for i, hit in enumerate(correct) if hit]),
        (result.teacher_wrong, [i for i, hit in enumerate(correct) if not hit]),
    )
    for match, rows in groups:
        if not rows:
            assert match is None
            continue
        s, t = student[rows], teacher[rows]
        expected = (
            len(rows),
            compute_agreement_by_loop(s, t),
            compute_kl_by_loop(s, t, 1.0),
            compute_kl_by_loop(s, t, temperature),
        )
        assert match == pytest.approx(expected, rel=1e-8, abs=1e-12)


@exactly
@given(networks(), temperatures)
def test_divergence_is_the_training_loss_without_the_factor_t_squared(
    data: tuple[Tensor, Tensor, Tensor], temperature: float
) -> None:
    student, teacher, _ = data
    loss = kd_loss(student, teacher, temperature=temperature).item()
    assert temperature**2 * mean_kl(student, teacher, temperature=temperature) == pytest.approx(loss)


@exactly
@given(networks(), temperatures)
def test_divergence_is_zero_at_equality_and_positive_elsewhere(
    data: tuple[Tensor, Tensor, Tensor], temperature: float
) -> None:
    student, teacher, _ = data
    assert mean_kl(teacher, teacher, temperature=temperature) == 0
    assert mean_kl(teacher + 3, teacher, temperature=temperature) == pytest.approx(0, abs=1e-12)
    assert mean_kl(student, teacher, temperature=temperature) > 0
    # Even for differences near rounding error, where tiny terms of both signs are summed, the result is not negative.
    for exponent in range(6, 17):
        near = teacher + 10.0**-exponent * student
        assert mean_kl(near, teacher, temperature=temperature) >= 0


@exactly
@given(networks())
def test_agreement_is_symmetric_and_one_with_itself(data: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, _ = data
    assert agreement(student, teacher) == agreement(teacher, student)
    assert agreement(student, 7 * student - 3) == 1


def test_divergence_is_not_symmetric() -> None:
    sure, unsure = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    assert mean_kl(sure, unsure, temperature=1) != pytest.approx(mean_kl(unsure, sure, temperature=1), rel=0.05)


@exactly
@given(networks(), st.integers(0, 2**31), st.floats(-20, 20))
def test_order_of_images_and_a_constant_in_a_row_change_no_metric(
    data: tuple[Tensor, Tensor, Tensor], seed: int, constant: float
) -> None:
    student, teacher, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    base = fidelity(student, teacher, labels, temperature=4)
    changed = fidelity(student[order] + constant, teacher[order] - 2 * constant, labels[order], temperature=4)
    for first, second in zip(base[1:], changed[1:], strict=True):
        assert first == (None if second is None else pytest.approx(second, rel=1e-8, abs=1e-11))


@exactly
@given(networks())
def test_overall_metrics_are_the_weighted_mean_of_both_groups(data: tuple[Tensor, Tensor, Tensor]) -> None:
    result = fidelity(*data, temperature=3)
    groups = [group for group in result[2:] if group is not None]
    assert sum(group.images for group in groups) == result.overall.images
    for value in (1, 2, 3):
        total = sum(group.images * group[value] for group in groups)
        assert total == pytest.approx(result.overall.images * result.overall[value])


@pytest.mark.parametrize(("label", "correct", "wrong"), [(0, True, False), (1, False, True)])
def test_a_group_without_images_is_none(label: int, correct: bool, wrong: bool) -> None:
    logits = torch.tensor([[2.0, 0.0]])
    result = fidelity(logits, logits, torch.tensor([label]), temperature=1)
    assert result.overall == Match(1, 1.0, 0.0, 0.0)
    assert (result.teacher_right is not None, result.teacher_wrong is not None) == (correct, wrong)


def test_equally_accurate_networks_may_disagree_on_every_image() -> None:
    """Both classify half of the images correctly: accuracy does not measure fidelity."""
    labels = torch.tensor([0, 0, 0, 0])
    first = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0]])
    second = torch.tensor([[0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0], [1.0, 0, 0]])
    assert agreement(first, second) == 0
    result = fidelity(first, second, labels, temperature=1)
    assert result.teacher_right is not None
    assert result.teacher_right.images == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_gaps_of_ten_thousand_stay_finite(dtype: torch.dtype) -> None:
    teacher, student = torch.tensor([[1e4, 0.0]]).to(dtype), torch.tensor([[0.0, 1e4]]).to(dtype)
    result = fidelity(student, teacher, torch.tensor([0]), temperature=5)
    assert result.overall == pytest.approx(Match(1, 0.0, 1e4, 2e3))


def test_constant_logits_predict_the_first_class_and_do_not_diverge() -> None:
    assert agreement(torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])) == 0.5
    assert mean_kl(torch.zeros(2, 3), torch.ones(2, 3), temperature=1) == 0


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(5, 3), r"both networks must be equal in shape. Got \[\[4, 3\], \[5, 3\]\]"),
        (torch.zeros(4, 3), torch.zeros(4, 2), r"both networks must be equal in shape. Got \[\[4, 3\], \[4, 2\]\]"),
        (
            torch.zeros(4),
            torch.zeros(4, 3),
            r"first network's logits must be of shape \[images, classes\].*Got \[4\]",
        ),
        (torch.zeros(4, 3), torch.zeros(0, 3), r"the second network's logits must be .*Got \[0, 3\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3) / 0, r"the second network's logits must be finite.*4 of 4 rows"),
    ],
)
def test_logits_of_different_shape_or_with_invalid_values_raise(student: Tensor, teacher: Tensor, message: str) -> None:
    for compare in (
        lambda: agreement(student, teacher),
        lambda: mean_kl(student, teacher, temperature=1),
        lambda: fidelity(student, teacher, torch.zeros(4).long(), temperature=1),
    ):
        with pytest.raises(ValueError, match=message):
            compare()


def test_invalid_labels_and_temperature_raise() -> None:
    logits = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"labels must be of shape \[4\], one per row of logits. Got \[2\]"):
        fidelity(logits, logits, torch.zeros(2).long(), temperature=1)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
            mean_kl(logits, logits, temperature=temperature)
