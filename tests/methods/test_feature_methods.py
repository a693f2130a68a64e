"""Single feature methods: fusion, masks, exits, projectors, variances and the layers that they compare."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.test_feature import MAPS, PROJECTED, build_models, build_objective, fit, get_first_batch


def test_reviewkd_fuses_from_the_deepest_stage_and_warms_up() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("reviewkd", student, teacher, warmup=0.5)
    fusions = objective.objective.loss.fusions
    assert [fusion.attention is None for fusion in fusions] == [False, False, True]
    assert [fusion.leave[0].weight.shape[:2] for fusion in fusions] == [(12, 16), (20, 16), (20, 16)]
    losses = []
    for epoch in (0, 1, 2, 3):
        objective.set_epoch(epoch, 4)
        losses.append(objective(student, get_first_batch())[1]["feature"].item())
    assert losses[0] == pytest.approx(losses[1] / 2)
    assert losses[1] == losses[2] == losses[3]
    # The loss at the shallowest stage depends on the deepest stage too.
    maps = [torch.randn(2, channels, 6, 6, requires_grad=True) for channels in (4, 8, 16)]
    fused, projected = fusions[2](maps[2], None, (6, 6))
    for fusion, stage in ((fusions[1], maps[1]), (fusions[0], maps[0])):
        fused, projected = fusion(stage, fused, (3, 3))
    assert projected.shape == (2, 12, 3, 3)
    projected.square().sum().backward()
    assert all(stage.grad is not None and bool(stage.grad.abs().sum() > 0) for stage in maps)
    before = {f"objective.{name}": parameter.clone() for name, parameter in objective.named_parameters()}
    after = fit("reviewkd")
    assert all(not torch.equal(parameter, after[name]) for name, parameter in before.items())


def test_mgd_masks_only_in_training_and_uses_the_last_stage() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("mgd", student, teacher, mask=0.5)
    assert (objective.student_layers, objective.teacher_layers) == (["layer3"], ["norm2"])
    student.eval()
    values = [objective(student, get_first_batch())[1]["feature"].item() for _ in range(2)]
    assert values[0] != values[1]
    objective.eval()
    values = [objective(student, get_first_batch())[1]["feature"].item() for _ in range(2)]
    assert values[0] == values[1]
    with pytest.raises(ValueError, match=r"mask must be in \[0, 1\)\. Got 1\.0"):
        build_objective("mgd", student, teacher, mask=1.0)


def test_ofa_trains_an_exit_at_each_stage() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("ofa", student, teacher)
    assert objective.layers == ["layer1", "layer2", "layer3"]
    _, terms = objective(student, get_first_batch())
    assert list(terms) == ["hard", "soft", "exits"]
    _, without = build_objective("ofa", student, teacher, student_layers="layer2", soft=0.0)(student, get_first_batch())
    assert without["soft"].item() == 0
    assert 0 < without["exits"].item() < terms["exits"].item()
    terms["exits"].backward()
    assert bool(student.get_parameter("layer1.0.weight").grad.abs().sum() > 0)  # type: ignore[union-attr]
    assert student.get_parameter("output.weight").grad is None
    assert [branch(torch.zeros(2, 4 * 2**i, 5, 5)).shape for i, branch in enumerate(objective.branches)] == [(2, 4)] * 3
    before = {f"objective.{name}": parameter.clone() for name, parameter in objective.named_parameters()}
    after = fit("ofa")
    assert all(not torch.equal(parameter, after[name]) for name, parameter in before.items())


def test_a_student_without_maps_has_exits_at_named_layers() -> None:
    student, teacher = build_models(maps=False)
    _, terms = build_objective("ofa", student, teacher)(student, get_first_batch())
    assert list(terms) == ["hard", "soft"]
    _, terms = build_objective("ofa", student, teacher, student_layers="hidden")(student, get_first_batch())
    assert terms["exits"].item() > 0
    with pytest.raises(ValueError, match=r"MLP has no layer 'hiden'\. Did you mean hidden\?"):
        build_objective("ofa", student, teacher, student_layers="hiden")


def test_the_projector_is_trained_with_the_student() -> None:
    student, teacher = build_models()
    objective = build_objective("fitnet", student, teacher)
    assert isinstance(objective, nn.Module)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    assert {name: list(value.shape) for name, value in before.items()} == {
        "loss.projector.0.weight": [20, 8, 1, 1],
        "loss.projector.0.bias": [20],
        "loss.projector.1.weight": [20],
        "loss.projector.1.bias": [20],
        "loss.projector.1.running_mean": [20],
        "loss.projector.1.running_var": [20],
        "loss.projector.1.num_batches_tracked": [],
    }
    after = {name.removeprefix("objective."): v for name, v in fit("fitnet").items() if name.startswith("objective.")}
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_the_variances_of_vid_start_at_five_and_are_trained_with_the_mean_predictors() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("vid", student, teacher)
    scales = [nn.functional.softplus(scale) + 1e-5 for scale in objective.loss.scales]
    assert [list(scale.shape) for scale in scales] == [[12], [20], [20]]  # the teacher's channels at three stages
    assert all(torch.allclose(scale, torch.tensor(5.0)) for scale in scales)
    before = {f"objective.{name}": value.clone() for name, value in objective.state_dict().items()}
    after = fit("vid")
    assert len(before) == 3 * 4
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("name", sorted(set(PROJECTED) & set(MAPS)))
def test_a_layer_without_maps_is_refused_when_the_method_is_built(name: str) -> None:
    with pytest.raises(ValueError, match=r"output of output must be maps \[C, H, W\].*Got \[4\]"):
        build_objective(name, *build_models(), student_layers="layer3", teacher_layers="output")


@pytest.mark.parametrize(("maps", "layers"), [(True, ("layer3", "norm2")), (False, ("output:input", "output:input"))])
def test_sp_compares_the_last_maps_if_both_models_have_maps(maps: bool, layers: tuple[str, str]) -> None:
    objective: Any = build_objective("sp", *build_models(maps=maps))
    assert (*objective.student_layers, *objective.teacher_layers) == layers
    student, teacher = build_models(maps=maps)
    explicit: Any = build_objective("sp", student, teacher, student_layers="output:input", teacher_layers="hidden")
    assert (*explicit.student_layers, *explicit.teacher_layers) == ("output:input", "hidden")
    assert explicit(student, get_first_batch())[1]["feature"].item() > 0
