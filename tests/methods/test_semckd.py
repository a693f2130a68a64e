"""SemCKD: attention for each sample over all pairs of layers, which shifts to the pairs that can agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kd.losses import semckd_loss
from kd.methods.semckd import SemCKDLoss
from tests.methods.test_feature import made, pair

CHANNELS = [(4, 6), (8, 3)]


def maps() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 8), (8, 4)], [(6, 6), (3, 2)]
    ours, theirs = ([torch.randn(5, c, side, side, generator=generator) for c, side in own] for own in shapes)
    return ours, theirs


def test_there_is_a_projector_for_each_pair_and_the_attention_of_a_layer_adds_up_to_one() -> None:
    attended = SemCKDLoss(CHANNELS, weight=1.0)
    assert [(own[0].in_channels, own[-1].out_channels) for own in attended.projectors] == [  # type: ignore[index]
        (4, 6),
        (4, 3),
        (8, 6),
        (8, 3),
    ]
    attention = attended.attention(*maps())
    assert attention.shape == (5, 2, 2)
    assert torch.allclose(attention.sum(dim=2), torch.ones(5, 2))
    assert attention.min() > 0


def test_a_sample_is_answered_alike_in_every_batch() -> None:
    attended = SemCKDLoss(CHANNELS, weight=1.0).eval()
    ours, theirs = maps()
    whole = attended.attention(ours, theirs)
    alone = attended.attention([each[2:3] for each in ours], [each[2:3] for each in theirs])
    assert torch.allclose(whole[2:3], alone, atol=1e-6)
    each = [attended([m[i : i + 1] for m in ours], [m[i : i + 1] for m in theirs]).item() for i in range(5)]
    assert attended(ours, theirs).item() == pytest.approx(sum(each) / 5, rel=1e-5)


def test_the_attention_moves_to_the_layer_that_can_be_agreed_upon() -> None:
    attended = SemCKDLoss([(4, 3), (4, 3)], weight=1.0)
    generator = torch.Generator().manual_seed(1)
    near, far = torch.zeros(8, 3, 4, 4), 5 * torch.randn(8, 3, 4, 4, generator=generator)
    ours = [torch.randn(8, 4, 4, 4, generator=generator) for _ in range(2)]
    before = attended.attention(ours, [near, far])[:, :, 0].mean().item()
    optimizer = torch.optim.Adam(attended.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        attended(ours, [near, far]).backward()
        optimizer.step()
    assert attended.attention(ours, [near, far])[:, :, 0].mean().item() > before + 0.1


def test_with_one_pair_it_is_the_mean_squared_difference_and_a_weight_multiplies() -> None:
    (student, _), (teacher, _) = maps()
    teacher = teacher[:, :4, :4, :4]
    student = student[..., :4, :4]
    one = semckd_loss([student], [teacher], torch.ones(5, 1, 1)).item()
    assert one == pytest.approx((student - teacher).square().mean().item())
    objective: Any = made("semckd", *pair(), weight=3.0)
    assert objective.loss.weight == 3.0


def test_what_does_not_fit_is_refused() -> None:
    (student, _), (teacher, _) = maps()
    with pytest.raises(ValueError, match=r"attention must be \[B, S, T\] of 1 pairs\. Got \[5, 2, 1\]"):
        semckd_loss([student], [student], torch.ones(5, 2, 1))
    with pytest.raises(ValueError, match=r"by a projector\. Got \[5, 4, 8, 8\] and \[5, 6, 6, 6\]"):
        semckd_loss([student], [teacher], torch.ones(5, 1, 1))
