"""Two-phase methods: active terms by epoch, compared layers, and unsupported models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.losses import ab_loss
from kd.models.networks import CNN
from tests.methods.test_feature import SHAPE, WIDE, build_models, build_objective, get_first_batch

two_phase_methods = pytest.mark.parametrize("name", ["fsp", "ab"])


def list_active_terms(name: str, epochs: int, **settings: Any) -> list[str]:
    """Return the active terms of each epoch."""
    student, teacher = build_models(name)
    objective: Any = build_objective(name, student, teacher, **settings)
    active = []
    for epoch in range(epochs):
        objective.set_epoch(epoch, epochs)
        _, terms = objective(student, get_first_batch())
        assert list(terms) == ["hard", "feature"]
        active.append(" ".join(key for key, term in terms.items() if term.item() != 0))
    return active


@two_phase_methods
def test_features_come_first_and_labels_after_them(name: str) -> None:
    objective: Any = build_objective(name, *build_models(name), alone=0.5)
    assert [objective.first_phase(epochs) for epochs in (1, 2, 4)] == [0, 1, 2]
    assert list_active_terms(name, 4) == ["feature", "hard", "hard", "hard"]  # a ninth, rounded up
    assert list_active_terms(name, 4, alone=0.5) == ["feature", "feature", "hard", "hard"]
    assert list_active_terms(name, 3, alone=0.99) == ["feature", "feature", "hard"]
    assert list_active_terms(name, 2, alone=0.0) == ["hard feature"] * 2
    assert list_active_terms(name, 1) == ["hard feature"]
    with pytest.raises(ValueError, match=r"alone must be in \[0, 1\), a fraction of the epochs\. Got 1\.0"):
        build_objective(name, *build_models(name), alone=1.0)


@two_phase_methods
def test_the_first_phase_ignores_labels_and_the_second_does_not_run_the_teacher(name: str) -> None:
    student, teacher = build_models(name)
    objective: Any = build_objective(name, student, teacher, alone=0.5)
    objective.set_epoch(0, 2)
    _, terms = objective(student, get_first_batch())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert not student.get_parameter("output.weight").grad.any()  # type: ignore[union-attr]
    assert student.get_parameter("layer1.0.weight").grad.any()  # type: ignore[union-attr]
    objective.set_epoch(1, 2)
    asked: list[bool] = []
    teacher.register_forward_hook(lambda *_: asked.append(True))
    output, terms = objective(student, get_first_batch())
    assert terms["hard"].item() == pytest.approx(nn.functional.cross_entropy(output, get_first_batch()[1]).item())
    assert not asked


def test_fsp_needs_two_stages_with_equal_channels() -> None:
    with pytest.raises(ValueError, match=r"must be the teacher's \[32, 64, 64\] for fsp\. Got \[4, 8, 16\].*cnn:32"):
        build_objective("fsp", *build_models(channels=WIDE))
    with pytest.raises(ValueError, match=r"stages that fsp compares must be two or more\. Got 1 "):
        build_objective("fsp", *build_models("fsp"), student_layers="layer1", teacher_layers="layer1")
    with kd.seeded(1):
        student = CNN(32, SHAPE, 4)
    fitting = {"student_layers": "layer1,layer2", "teacher_layers": "conv1,norm2"}
    _, terms = build_objective("fsp", student, build_models(channels=WIDE)[1], **fitting)(student, get_first_batch())
    assert terms["feature"].item() > 0


def test_ab_has_a_connector_for_each_stage_and_halves_the_weight_of_each_shallower_stage() -> None:
    student, teacher = build_models(channels=WIDE)
    objective: Any = build_objective("ab", student, teacher)
    bounded = objective.objective.loss
    assert [list(connector[0].weight.shape[:2]) for connector in bounded.connectors] == [[32, 4], [64, 8], [64, 16]]
    generator = torch.Generator().manual_seed(0)
    sides = (10, 6, 3)
    student_maps = [torch.randn(5, c, n, n, generator=generator) for c, n in zip((4, 8, 16), sides, strict=True)]
    teacher_maps = [torch.randn(5, c, n, n, generator=generator) for c, n in zip((32, 64, 64), sides, strict=True)]
    losses = [ab_loss(c(s), t).item() for c, s, t in zip(bounded.connectors, student_maps, teacher_maps, strict=True)]
    assert bounded(student_maps, teacher_maps).item() == pytest.approx(
        0.003 * (losses[0] / 4 + losses[1] / 2 + losses[2]), rel=1e-5
    )
    with pytest.raises(ValueError, match="margin must be a finite number above 0"):
        build_objective("ab", *build_models(), margin=0.0)
