"""Losses of feature maps compared as sets, by FSP matrices or by class: invariances and equivalent formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.losses import ab_loss, cat_loss, fsp_loss, nst_loss
from kd.losses.feature import fsp_matrix
from tests.features_in_numpy import ab

some = settings(max_examples=20)
seeds = st.integers(0, 2**31)


def make_maps(seed: int) -> tuple[Tensor, Tensor]:
    """Return random feature maps of student and teacher, in float64."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    return student, teacher


@some
@given(seeds, st.floats(0.1, 100))
def test_cat_of_side_1_compares_logits_and_normalised_is_scale_invariant(seed: int, scale: float) -> None:
    student, teacher = make_maps(seed)
    logits = [values.mean(dim=(2, 3)) for values in (student, teacher)]
    expected = (logits[0] - logits[1]).square().mean().item()
    assert cat_loss(student, teacher, side=1).item() == pytest.approx(expected)
    scaled = cat_loss(scale * student, teacher, normalise=True).item()
    assert scaled == pytest.approx(cat_loss(student, teacher, normalise=True).item())
    # Upsampling every pixel to 2 × 2 does not change 2 × 2 pooling if the windows divide the maps evenly.
    small = student[:, :, :4, :4]
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert cat_loss(large, teacher).item() == pytest.approx(cat_loss(small, teacher).item())


@some
@given(seeds, st.sampled_from([-3.0, 0.2, 5.0]))
def test_nst_is_invariant_to_order_number_scale_and_sign_of_maps(seed: int, factor: float) -> None:
    student, teacher = make_maps(seed)
    expected = nst_loss(student, teacher).item()
    assert expected > 0
    order = torch.randperm(student.shape[1], generator=torch.Generator().manual_seed(seed))
    scaled = torch.cat([factor * student[:, :1], student[:, 1:]], dim=1)
    for same in (student[:, order], torch.cat([student, student], dim=1), scaled):
        assert nst_loss(same, teacher).item() == pytest.approx(expected, rel=1e-9)
    assert nst_loss(teacher, student).item() == pytest.approx(expected, rel=1e-9)


@some
@given(seeds)
def test_nst_equals_the_broadcast_form_and_a_difference_of_gram_matrices(seed: int) -> None:
    student, teacher = make_maps(seed)
    teacher = torch.cat([teacher, student.flip(0)], dim=1)  # other channels than the student's
    s, t = (F.normalize(values.flatten(2), dim=2) for values in (student, teacher))

    def broadcast(one: Tensor, other: Tensor) -> Tensor:
        return (one.unsqueeze(1) * other.unsqueeze(2)).sum(dim=-1).square().mean()

    written = broadcast(s, s) + broadcast(t, t) - 2 * broadcast(s, t)
    assert nst_loss(student, teacher).item() == pytest.approx(written.item(), abs=1e-12)
    grams = [rows.transpose(1, 2) @ rows / rows.shape[1] for rows in (s, t)]
    square = (grams[0] - grams[1]).square().sum(dim=(1, 2)).mean()
    assert nst_loss(student, teacher).item() == pytest.approx(square.item(), abs=1e-12)


@some
@given(seeds, st.sampled_from([0.5, 2.0]))
def test_fsp_is_invariant_to_the_positions_of_activations(seed: int, factor: float) -> None:
    first, second = make_maps(seed)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    moved = [values.flatten(2)[..., order].view_as(values) for values in (first, second)]
    assert torch.allclose(fsp_matrix(*moved), fsp_matrix(first, second))
    assert torch.allclose(fsp_matrix(factor * first, second / factor), fsp_matrix(first, second))
    assert torch.allclose(fsp_matrix(second, first), fsp_matrix(first, second).transpose(1, 2))
    # So a student with the first layer doubled and the next layer halved agrees with its teacher.
    assert fsp_loss([factor * first, second / factor], [first, second]).item() == pytest.approx(0, abs=1e-12)
    whole = fsp_loss([first, second, first], [second, second, second]).item()
    parts = [fsp_loss(pair, [second, second]).item() for pair in ([first, second], [second, first])]
    assert whole == pytest.approx(sum(parts))


@some
@given(seeds, st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.1, 1.0, 10.0]))
def test_ab_is_the_written_formula_and_uses_only_signs_of_the_teacher(seed: int, margin: float, scale: float) -> None:
    student, teacher = make_maps(seed)
    student = scale * student
    loss = ab_loss(student, teacher, margin=margin)
    assert loss.item() == pytest.approx(ab(student.numpy(), teacher.numpy(), margin), rel=1e-9)
    for same in (teacher.relu(), 100 * teacher, teacher.sign()):
        assert torch.equal(ab_loss(student, same, margin=margin), loss)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    assert ab_loss(student[order], teacher[order], margin=margin).item() == pytest.approx(loss.item())
    assert ab_loss(margin * teacher.sign(), teacher, margin=margin).item() == 0
    assert ab_loss(7 * margin * teacher.sign(), teacher, margin=margin).item() == 0
    assert ab_loss(-margin * teacher.sign(), teacher, margin=margin).item() == pytest.approx(75 * (2 * margin) ** 2)


@pytest.mark.parametrize("scale", [1e4, 1e-4, 0.0])
def test_ab_has_a_finite_gradient_for_the_student_only_and_refuses_bad_shapes(scale: float) -> None:
    student, teacher = ((scale * values.float()).requires_grad_() for values in make_maps(1))
    ab_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert bool(student.grad.abs().sum() > 0)
    assert ab_loss(student.half(), teacher.half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"by a connector\. Got \[4, 2, 5, 5\] and \[4, 3, 5, 5\]"):
        ab_loss(student[:, :2], teacher)
    with pytest.raises(ValueError, match="margin must be a finite number above 0"):
        ab_loss(student, teacher, margin=0.0)


def test_autocast_does_not_change_products_of_maps() -> None:
    student, teacher = (100 * values.float() for values in make_maps(2))
    losses = [nst_loss(student, teacher), fsp_loss([student, student], [teacher, teacher])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nst_loss(student, teacher), losses[0])
        assert torch.equal(fsp_loss([student, student], [teacher, teacher]), losses[1])
    assert nst_loss(student.half(), teacher.half()).dtype == torch.float32
