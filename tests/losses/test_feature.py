"""Losses of feature maps and of relations between samples: the papers' formulas, invariances, invalid inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.losses import (
    at_loss,
    cat_loss,
    cc_loss,
    fsp_loss,
    ft_loss,
    hcl_loss,
    hint_loss,
    mgd_loss,
    nst_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    semckd_loss,
    sp_loss,
    vid_loss,
)
from kd.losses.feature import drop_channels
from kd.losses.relation import gaussian_kernels, neighbour_probabilities, similarities
from tests.features_in_numpy import ATTENTION, MAPS, ROWS, semckd_layers

Loss = Callable[[Tensor, Tensor], Tensor]


def layers(maps: Tensor) -> list[Tensor]:
    """Return the layers that ``tests.features_in_numpy`` uses for SemCKD."""
    return [maps[:, :2], maps[:, 1:, :4, :3], maps[:, :1, :4, :3]]


def semckd(student: Tensor, teacher: Tensor) -> Tensor:
    attention = torch.from_numpy(ATTENTION).expand(len(student), 2, 3)
    return semckd_loss(*(semckd_layers(values) for values in (student, teacher)), attention)  # type: ignore[arg-type]


VARIANCES = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)  # their logarithms add up to 0, so agreement reads 0
OF_MAPS: Mapping[str, Loss] = {
    "hint": hint_loss,
    "at code": at_loss,
    "at paper": partial(at_loss, form="paper"),
    "hcl": hcl_loss,
    "nst": nst_loss,
    "fsp": lambda student, teacher: fsp_loss(layers(student), layers(teacher)),
    "ft": ft_loss,
    "semckd": semckd,
    "cat": cat_loss,
    "cat normalised": partial(cat_loss, normalise=True),
    "mgd": mgd_loss,
    "vid": partial(vid_loss, variances=VARIANCES),
}
OF_ROWS: Mapping[str, Loss] = {
    "sp": sp_loss,
    "rkd distance": rkd_distance_loss,
    "rkd angle": rkd_angle_loss,
    "pkt": pkt_loss,
    "cc": cc_loss,
}
ALL = {**OF_MAPS, **OF_ROWS}
WRITTEN = {**MAPS, **ROWS}
some = settings(max_examples=20)
seeds = st.integers(0, 2**31)


def make_features(name: str, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return random feature maps of student and teacher, in float64."""
    shape = (4, 3, 5, 5) if name in OF_MAPS else (4, 6)
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student, teacher


every = pytest.mark.parametrize("name", ALL)
of_rows = pytest.mark.parametrize("name", OF_ROWS)


@every
@some
@given(seeds, st.sampled_from([0.1, 1.0, 10.0]))
def test_the_loss_is_the_written_formula(name: str, seed: int, scale: float) -> None:
    student, teacher = make_features(name, seed, scale)
    loss = ALL[name](student, teacher)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(WRITTEN[name](student.numpy(), teacher.numpy()), rel=1e-6, abs=1e-9)


@every
@given(seeds)
@some
def test_agreement_is_zero_and_the_order_of_samples_does_not_matter(name: str, seed: int) -> None:
    student, teacher = make_features(name, seed)
    assert ALL[name](teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    order = torch.randperm(len(student), generator=torch.Generator().manual_seed(seed))
    assert ALL[name](student[order], teacher[order]).item() == pytest.approx(ALL[name](student, teacher).item())


@every
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = (values.requires_grad_() for values in make_features(name, 0))
    ALL[name](student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.abs().sum() > 0)


@every
@pytest.mark.parametrize("scale", [1e4, 1e-4, 0.0])
def test_loss_and_gradient_are_finite_for_any_size_of_features(name: str, scale: float) -> None:
    student, teacher = (scale * values.float() for values in make_features(name, 1))
    for inputs in (student, teacher.clone()):
        inputs = inputs.detach().requires_grad_()
        loss = ALL[name](inputs, teacher)
        loss.backward()  # type: ignore[no-untyped-call]
        assert math.isfinite(loss.item())
        assert inputs.grad is not None
        assert bool(inputs.grad.isfinite().all())


@of_rows
def test_autocast_does_not_change_the_loss(name: str) -> None:
    student, teacher = (100 * values.float() for values in make_features(name, 2))
    expected = ALL[name](student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ALL[name](student, teacher), expected)
    assert ALL[name](student.half(), teacher.half()).dtype == torch.float32


@of_rows
def test_widths_may_differ_but_batch_sizes_must_not(name: str) -> None:
    assert math.isfinite(ALL[name](torch.randn(4, 3), torch.randn(4, 9)).item())
    with pytest.raises(ValueError, match=r"\[B, D\].*Got \[4, 3\] and \[5, 3\]"):
        ALL[name](torch.randn(4, 3), torch.randn(5, 3))


def test_incompatible_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"by a projector\. Got \[2, 3, 4, 4\] and \[2, 5, 4, 4\]"):
        hint_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4))
    with pytest.raises(ValueError, match=r"variances the shape \[C\]\. Got \[2, 3, 4, 4\], \[2, 3, 4, 4\] and \[4\]"):
        vid_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.ones(4))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        at_loss(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"\[B, K, H, W\].*Got \[2, 3, 4, 4\] and \[2, 5, 4, 4\]"):
        cat_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4))
    with pytest.raises(ValueError, match=r"both sides\. Got \[3, 3\] channels and \[3, 4\] instead"):
        fsp_loss([torch.randn(2, 3, 4, 4)] * 2, [torch.randn(2, 3, 4, 4), torch.randn(2, 4, 4, 4)])
    with pytest.raises(ValueError, match=r"two or more layers.*Got \[3\] channels"):
        fsp_loss([torch.randn(2, 3, 4, 4)], [torch.randn(2, 3, 4, 4)])
    with pytest.raises(ValueError, match="side must be an integer of at least 1"):
        cat_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), side=0)
    with pytest.raises(ValueError, match="form must be code or paper"):
        at_loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), form="other")


@some
@given(seeds, st.floats(0.1, 100))
def test_attention_is_invariant_to_order_number_and_scale_of_channels(seed: int, scale: float) -> None:
    student, teacher = make_features("at code", seed)
    expected = at_loss(student, teacher).item()
    order = torch.randperm(student.shape[1], generator=torch.Generator().manual_seed(seed))
    assert at_loss(scale * student[:, order], teacher).item() == pytest.approx(expected)
    assert at_loss(torch.cat([student, student], dim=1), teacher).item() == pytest.approx(expected)


@some
@given(seeds, st.sampled_from([0.5, 0.9, 1.1, 2.0]))
def test_the_best_variance_of_vid_is_the_mean_squared_error_of_its_channel(seed: int, factor: float) -> None:
    student, teacher = make_features("vid", seed)
    best = (student - teacher).square().mean(dim=(0, 2, 3))
    least = vid_loss(student, teacher, best).item()
    assert least == pytest.approx((1 + best.log().mean().item()) / 2)
    assert vid_loss(student, teacher, factor * best).item() > least


@pytest.mark.parametrize(("size", "levels"), [((5, 4), 3), ((9, 3), 3), ((2, 2), 2), ((1, 6), 1)])
def test_hcl_uses_only_levels_smaller_than_the_maps(size: tuple[int, int], levels: int) -> None:
    student, teacher = torch.randn(2, 3, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert hcl_loss(student, teacher).item() == pytest.approx(WRITTEN["hcl"](student.numpy(), teacher.numpy()))
    # A constant difference is equal at all levels, and so is the weighted mean.
    assert hcl_loss(teacher + 3, teacher).item() == pytest.approx(9)
    # A difference that averages to 0 counts at the finest level only.
    unseen = torch.zeros(1, 1, 8, 8)
    unseen[..., ::2], unseen[..., 1::2] = 1, -1
    assert hcl_loss(unseen, torch.zeros_like(unseen)).item() == pytest.approx(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8))


def test_mgd_masks_whole_channels_of_each_sample_without_rescaling() -> None:
    torch.manual_seed(0)
    maps = torch.rand(50, 40, 2, 3) + 1
    left = drop_channels(maps, 0.15)
    missing = (left == 0).all(dim=(2, 3))
    assert torch.equal(left[~missing], maps[~missing])
    assert missing.float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert len({tuple(row.tolist()) for row in missing}) > 40  # other channels of each sample
    assert torch.equal(drop_channels(maps, 0.0), maps)


def test_larger_maps_are_averaged_to_the_size_of_the_smaller() -> None:
    small = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(2, dim=3)
    other_rows = torch.rand(2, 4, 2, 2, dtype=torch.float64)
    assert at_loss(large, other_rows).item() == pytest.approx(at_loss(small, other_rows).item())
    assert at_loss(other_rows, large).item() == pytest.approx(at_loss(other_rows, small).item())


@some
@given(seeds, st.floats(0.1, 100))
def test_rkd_is_invariant_to_translation_rotation_and_scale(seed: int, scale: float) -> None:
    student, teacher = make_features("rkd angle", seed)
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    moved = scale * student @ turn + torch.randn(6, generator=generator, dtype=torch.float64)
    for loss in (rkd_distance_loss, rkd_angle_loss):
        assert loss(moved, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-6, abs=1e-9)


@some
@given(seeds)
def test_rows_of_sp_have_unit_length_and_rows_of_pkt_sum_to_one(seed: int) -> None:
    rows, _ = make_features("sp", seed)
    assert torch.allclose(similarities(rows).norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(neighbour_probabilities(rows).sum(dim=1), torch.ones(4, dtype=torch.float64))
    scales = torch.rand(4, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    assert torch.allclose(neighbour_probabilities(scales * rows), neighbour_probabilities(rows))


@some
@given(seeds, st.floats(0.05, 1.5))
def test_the_series_of_cc_converges_to_the_gaussian_kernel_and_starts_with_cosines(seed: int, gamma: float) -> None:
    rows, other_rows = make_features("cc", seed)
    unit = torch.nn.functional.normalize(rows, dim=1)
    gaussian = (-gamma * torch.cdist(unit, unit).square()).exp()
    assert torch.allclose(gaussian_kernels(rows, gamma=gamma, order=25), gaussian, atol=1e-6)
    cosines = [values @ values.T for values in (unit, torch.nn.functional.normalize(other_rows, dim=1))]
    bilinear = (cosines[0] - cosines[1]).square().mean() * (2 * gamma * math.exp(-2 * gamma)) ** 2
    assert cc_loss(rows, other_rows, gamma=gamma, order=1).item() == pytest.approx(bilinear.item())
    # Rotating all rows or scaling any row does not change the result.
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    scales = torch.rand(4, 1, generator=generator, dtype=torch.float64) + 0.1
    assert cc_loss(scales * rows @ turn, other_rows).item() == pytest.approx(cc_loss(rows, other_rows).item())


@pytest.mark.parametrize("given", [{"gamma": 0.0}, {"gamma": math.inf}, {"order": 0}])
def test_invalid_kernel_parameters_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be .*the authors use"):
        cc_loss(torch.randn(4, 3), torch.randn(4, 3), **given)
