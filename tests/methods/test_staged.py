"""Two-phase methods: active terms by epoch, compared layers, and unsupported models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.losses import ab_loss
from kd.models.networks import CNN
from tests.methods.test_feature import SHAPE, first, made, pair

every = pytest.mark.parametrize("name", ["fsp", "ab"])


def counted(name: str, epochs: int, **given: Any) -> list[str]:
    """Return the active terms of each epoch."""
    student, teacher = pair(name)
    objective: Any = made(name, student, teacher, **given)
    found = []
    for epoch in range(epochs):
        objective.set_epoch(epoch, epochs)
        _, terms = objective(student, first())
        assert list(terms) == ["hard", "feature"]
        found.append(" ".join(key for key, term in terms.items() if term.item() != 0))
    return found


@every
def test_features_come_first_and_labels_after_them(name: str) -> None:
    assert counted(name, 4) == ["feature", "hard", "hard", "hard"]  # a ninth, rounded up
    assert counted(name, 4, alone=0.5) == ["feature", "feature", "hard", "hard"]
    assert counted(name, 3, alone=0.99) == ["feature", "feature", "hard"]
    assert counted(name, 2, alone=0.0) == ["hard feature"] * 2
    assert counted(name, 1) == ["hard feature"]
    with pytest.raises(ValueError, match=r"alone must be in \[0, 1\), a share of the epochs\. Got 1\.0"):
        made(name, *pair(name), alone=1.0)


@every
def test_in_the_first_stage_no_label_is_learned_and_in_the_second_no_teacher_is_asked(name: str) -> None:
    student, teacher = pair(name)
    objective: Any = made(name, student, teacher, alone=0.5)
    objective.set_epoch(0, 2)
    _, terms = objective(student, first())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert not student.get_parameter("output.weight").grad.any()  # type: ignore[union-attr]
    assert student.get_parameter("layer1.0.weight").grad.any()  # type: ignore[union-attr]
    objective.set_epoch(1, 2)
    asked: list[bool] = []
    teacher.register_forward_hook(lambda *_: asked.append(True))
    output, terms = objective(student, first())
    assert terms["hard"].item() == pytest.approx(nn.functional.cross_entropy(output, first()[1]).item())
    assert not asked


def test_fsp_needs_stages_of_as_many_channels_and_two_of_them() -> None:
    with pytest.raises(ValueError, match=r"must be the teacher's \[32, 64, 64\] for fsp\. Got \[4, 8, 16\].*cnn:32"):
        made("fsp", *pair())
    with pytest.raises(ValueError, match=r"stages that fsp compares must be two or more\. Got 1 "):
        made("fsp", *pair("fsp"), student_layers="layer1", teacher_layers="layer1")
    with kd.seeded(1):
        student = CNN(32, SHAPE, 4)
    fitting = {"student_layers": "layer1,layer2", "teacher_layers": "conv1,norm2"}
    _, terms = made("fsp", student, pair()[1], **fitting)(student, first())
    assert terms["feature"].item() > 0


def test_ab_has_a_connector_for_each_stage_and_halves_the_weight_of_each_shallower_one() -> None:
    student, teacher = pair()
    objective: Any = made("ab", student, teacher)
    bounded = objective.objective.loss
    assert [list(connector[0].weight.shape[:2]) for connector in bounded.connectors] == [[32, 4], [64, 8], [64, 16]]
    generator = torch.Generator().manual_seed(0)
    sides = (10, 6, 3)
    ours = [torch.randn(5, c, n, n, generator=generator) for c, n in zip((4, 8, 16), sides, strict=True)]
    theirs = [torch.randn(5, c, n, n, generator=generator) for c, n in zip((32, 64, 64), sides, strict=True)]
    each = [ab_loss(c(s), t).item() for c, s, t in zip(bounded.connectors, ours, theirs, strict=True)]
    assert bounded(ours, theirs).item() == pytest.approx(0.003 * (each[0] / 4 + each[1] / 2 + each[2]), rel=1e-5)
    with pytest.raises(ValueError, match="margin must be a finite number above 0"):
        made("ab", *pair(), margin=0.0)
