"""FT: which modules are trained in which epoch, the paraphraser, and invariances of its factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd.losses import ft_loss
from tests.methods.test_feature import WIDE, build_models, build_objective, get_first_batch


def find_trained_modules(terms: dict[str, torch.Tensor], **parts: nn.Module) -> set[str]:
    """Return the names of the modules that get a gradient from the terms."""
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    return {
        name
        for name, part in parts.items()
        if any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())
    }


def run_epoch(epoch: int, epochs: int, **settings: Any) -> tuple[set[str], set[str]]:
    """Return the nonzero terms of this epoch, and the modules that they train."""
    student, teacher = build_models()
    objective: Any = build_objective("ft", student, teacher, **settings)
    objective.set_epoch(epoch, epochs)
    _, terms = objective(student, get_first_batch())
    assert list(terms) == ["hard", "feature", "paraphraser"]
    parts = {name: getattr(objective, name) for name in ("encoder", "decoder", "translator")}
    return {name for name, term in terms.items() if term.item() != 0}, find_trained_modules(
        terms, student=student, **parts
    )


def test_the_paraphraser_is_trained_first_and_frozen_afterwards() -> None:
    for epoch in (0, 1):
        assert run_epoch(epoch, 4, alone=0.5) == ({"hard", "paraphraser"}, {"student", "encoder", "decoder"})
    for epoch in (2, 3):
        assert run_epoch(epoch, 4, alone=0.5) == ({"hard", "feature"}, {"student", "translator"})
    both = ({"hard", "feature", "paraphraser"}, {"student", "encoder", "decoder", "translator"})
    assert run_epoch(0, 4, alone=0.0) == run_epoch(3, 4, alone=0.0) == run_epoch(0, 1) == both
    assert [run_epoch(epoch, 3)[0] == {"hard", "feature"} for epoch in range(3)] == [
        False,
        True,
        True,
    ]  # a ninth, rounded up


def test_the_students_loss_has_no_gradient_for_the_paraphraser() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("ft", student, teacher)
    _, terms = objective(student, get_first_batch())
    parts = {name: getattr(objective, name) for name in ("encoder", "decoder", "translator")}
    assert find_trained_modules({"feature": terms["feature"]}, student=student, **parts) == {"student", "translator"}


def test_the_rate_sets_the_number_of_factors_and_the_decoder_restores_the_channels() -> None:
    for rate, factors in ((0.5, 32), (0.001, 1), (2.0, 128)):
        objective: Any = build_objective("ft", *build_models(channels=WIDE), rate=rate)
        maps = objective.encoder(torch.randn(2, 64, 5, 5))
        assert maps.shape == (2, factors, 5, 5)
        assert objective.decoder(maps).shape == (2, 64, 5, 5)
        assert objective.translator(torch.randn(2, 16, 5, 5)).shape == maps.shape
    with pytest.raises(ValueError, match=r"rate must be a finite number above 0\. Got 0\.0.*0\.5"):
        build_objective("ft", *build_models(), rate=0.0)
    with pytest.raises(ValueError, match=r"alone must be in \[0, 1\)"):
        build_objective("ft", *build_models(), alone=1.0)


def test_training_improves_the_paraphrasers_reconstruction() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("ft", student, teacher)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        _, terms = objective(student, get_first_batch())
        losses.append(terms["paraphraser"].item())
        optimizer.zero_grad()
        terms["paraphraser"].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 7.0]))
def test_factors_are_invariant_to_scale_but_not_to_sign(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    scales = scale * torch.rand(4, 1, 1, 1, generator=generator, dtype=torch.float64).add(0.1)
    assert ft_loss(scales * student, teacher).item() == pytest.approx(ft_loss(student, teacher).item())
    assert ft_loss(scales * teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert ft_loss(-teacher, teacher).item() > ft_loss(student, teacher).item()


def test_factors_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"by a translator\. Got \[2, 3, 4, 4\] and \[2, 4, 4, 4\]"):
        ft_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))
