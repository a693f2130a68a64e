"""Losses and gradients equal those of the authors' code, run on the inputs that reference_values.json describes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd import losses
from kd.methods.fitnet import FitNetLoss
from kd.methods.sdd import region_logits

VALUES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("reference_values.json").read_text(encoding="utf-8")
)["values"]
Loss = Callable[..., Tensor]


def fsp(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    layers = ([maps[:, :2], maps[:, 1:, :3, :3], maps[:, :1, :3, :3]] for maps in (student, teacher))
    return losses.fsp_loss(*layers)


def vid(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    scales = torch.linspace(-1, 2, 4, dtype=torch.float64)
    return losses.vid_loss(student, teacher, torch.nn.functional.softplus(scales) + 1e-5)


def fitnet(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the loss with the weights that the authors' regressor had."""
    loss, state = FitNetLoss((4, 4), 1.0, relu=True).double(), np.random.RandomState(7)
    for parameter in loss.parameters():
        parameter.data = torch.from_numpy(state.standard_normal(parameter.shape))
    return loss([student], [teacher])


def sdd_pooling(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return an inner product with all pooled values; the number of classes does not matter for pooling."""
    pooled = region_logits(student, torch.nn.Identity(), (1, 2, 4)).transpose(1, 2)
    return (pooled * torch.from_numpy(np.random.RandomState(8).standard_normal(tuple(pooled.shape)))).sum()


def published_regulariser(
    student: Tensor, teacher: Tensor, labels: Tensor, *, correct: float, temperature: float
) -> Tensor:
    """Return the teacher-free regulariser of the published code, as docs/methods.md describes it."""
    p = losses.virtual_logits(labels, student, correct=correct).softmax(dim=1)
    return losses.kd_loss(student, p / temperature, temperature=1) / student.shape[1]


def published_nkd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, gamma: float) -> Tensor:
    """Return NKD as published: the mask that should remove the label's class from the second term removes nothing."""
    target = losses.nkd_loss(student, teacher, labels, temperature=temperature, gamma=0)
    return target + gamma * losses.soft_cross_entropy(student, teacher, temperature=temperature)


def cross_divergence(student: Tensor, teacher: Tensor, labels: Tensor, **given: Any) -> Tensor:
    """Return the skew divergence plus the teacher's entropy, which the published code leaves in its loss."""
    p = teacher.softmax(dim=1)
    return losses.divergence_loss(student, teacher, **given) - (p * p.log()).sum(dim=1).mean()


def unlabelled(loss: Loss) -> Loss:
    return lambda student, teacher, labels, **given: loss(student, teacher, **given)


LOSSES: Mapping[str, Loss] = {
    "kd": unlabelled(losses.kd_loss),
    "divergence": unlabelled(losses.divergence_loss),
    "divergence plus entropy": cross_divergence,
    "dkd": losses.dkd_loss,
    "rld": losses.rld_loss,
    "nkd with an empty mask": published_nkd,
    "dist": unlabelled(losses.dist_loss),
    # The authors' code has no temperature; the logits were multiplied by 6. The factor T² is ours.
    "dist peaked": lambda s, t, y, **given: 36 * losses.dist_loss(s, t, **given),
    "sdd": losses.sdd_loss,
    "teacher-free regulariser": published_regulariser,
    "hint": unlabelled(losses.hint_loss),
    "at code": unlabelled(losses.at_loss),
    "nst": unlabelled(losses.nst_loss),
    "fsp": fsp,
    "ab": unlabelled(losses.ab_loss),
    "vid": vid,
    "hcl": unlabelled(losses.hcl_loss),
    "sp": unlabelled(losses.sp_loss),
    "rkd distance": unlabelled(losses.rkd_distance_loss),
    "rkd angle": unlabelled(losses.rkd_angle_loss),
    "pkt": unlabelled(losses.pkt_loss),
    "fitnet": fitnet,
    "sdd pooling": sdd_pooling,
}


def make_inputs(seed: int, shape: tuple[int, ...], masked: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the student's and the teacher's values and labels, as reference_values.json describes them."""
    state = np.random.RandomState(seed)
    student, teacher = (torch.from_numpy(2 * state.standard_normal(shape)) for _ in range(2))
    labels = torch.from_numpy(state.randint(0, shape[-1], shape[0]))
    if masked:
        teacher[labels != 0, ..., 0] = -math.inf
    return student.requires_grad_(), teacher, labels


def name_case(case: Mapping[str, Any]) -> str:
    return f"{case['loss']}{' masked' if case['masked'] else ''} {case['shape']} {case['seed']}"


@pytest.mark.parametrize("case", VALUES, ids=name_case)
def test_value_and_gradient_are_the_authors(case: Mapping[str, Any]) -> None:
    shape = tuple(case["shape"])
    student, teacher, labels = make_inputs(case["seed"], shape, case["masked"])
    loss = LOSSES[case["loss"]](student, teacher, labels, **case["settings"])
    (gradient,) = torch.autograd.grad(loss, student)
    along = (gradient * torch.from_numpy(np.random.RandomState(case["seed"] + 1000).standard_normal(shape))).sum()
    # The authors' distances of RKD and lengths of PKT have an epsilon that ours need not have.
    tolerance = 1e-6 if case["loss"] in ("rkd distance", "pkt") else 1e-9
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(case["value"], rel=tolerance)
    assert gradient.norm().item() == pytest.approx(case["gradient_norm"], rel=tolerance)
    assert along.item() == pytest.approx(case["gradient_along"], rel=10 * tolerance)


def test_every_loss_has_a_value_and_every_value_a_loss() -> None:
    assert {case["loss"] for case in VALUES} == set(LOSSES)
