"""SemCKD: each sample has attention over all pairs of layers; training shifts it to pairs that can agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kd.losses import semckd_loss
from kd.methods.semckd import SemCKDLoss
from tests.methods.test_feature import build_models, build_objective

CHANNELS = [(4, 6), (8, 3)]


def make_maps() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 8), (8, 4)], [(6, 6), (3, 2)]
    student_maps, teacher_maps = (
        [torch.randn(5, c, side, side, generator=generator) for c, side in sizes] for sizes in shapes
    )
    return student_maps, teacher_maps


def test_each_pair_has_a_projector_and_attention_sums_to_one() -> None:
    loss = SemCKDLoss(CHANNELS, weight=1.0)
    assert [(layers[0].in_channels, layers[-1].out_channels) for layers in loss.projectors] == [  # type: ignore[index]
        (4, 6),
        (4, 3),
        (8, 6),
        (8, 3),
    ]
    attention = loss.attention(*make_maps())
    assert attention.shape == (5, 2, 2)
    assert torch.allclose(attention.sum(dim=2), torch.ones(5, 2))
    assert attention.min() > 0


def test_attention_of_a_sample_does_not_depend_on_the_batch() -> None:
    loss = SemCKDLoss(CHANNELS, weight=1.0).eval()
    student_maps, teacher_maps = make_maps()
    whole = loss.attention(student_maps, teacher_maps)
    alone = loss.attention([maps[2:3] for maps in student_maps], [maps[2:3] for maps in teacher_maps])
    assert torch.allclose(whole[2:3], alone, atol=1e-6)
    losses = [loss([m[i : i + 1] for m in student_maps], [m[i : i + 1] for m in teacher_maps]).item() for i in range(5)]
    assert loss(student_maps, teacher_maps).item() == pytest.approx(sum(losses) / 5, rel=1e-5)


def test_the_attention_shifts_to_the_layer_that_can_agree() -> None:
    loss = SemCKDLoss([(4, 3), (4, 3)], weight=1.0)
    generator = torch.Generator().manual_seed(1)
    near, far = torch.zeros(8, 3, 4, 4), 5 * torch.randn(8, 3, 4, 4, generator=generator)
    student_maps = [torch.randn(8, 4, 4, 4, generator=generator) for _ in range(2)]
    before = loss.attention(student_maps, [near, far])[:, :, 0].mean().item()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(student_maps, [near, far]).backward()
        optimizer.step()
    assert loss.attention(student_maps, [near, far])[:, :, 0].mean().item() > before + 0.1


def test_one_pair_gives_the_weighted_mean_squared_difference() -> None:
    (student, _), (teacher, _) = make_maps()
    teacher = teacher[:, :4, :4, :4]
    student = student[..., :4, :4]
    value = semckd_loss([student], [teacher], torch.ones(5, 1, 1)).item()
    assert value == pytest.approx((student - teacher).square().mean().item())
    objective: Any = build_objective("semckd", *build_models(), weight=3.0)
    assert objective.loss.weight == 3.0


def test_incompatible_inputs_are_refused() -> None:
    (student, _), (teacher, _) = make_maps()
    with pytest.raises(ValueError, match=r"attention must be of shape \[B, S, T\] for 1 pairs\. Got \[5, 2, 1\]"):
        semckd_loss([student], [student], torch.ones(5, 2, 1))
    with pytest.raises(ValueError, match=r"by a projector\. Got \[5, 4, 8, 8\] and \[5, 6, 6, 6\]"):
        semckd_loss([student], [teacher], torch.ones(5, 1, 1))
