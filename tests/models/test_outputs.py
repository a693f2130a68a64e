"""Logits and probabilities are told apart by their values, and no advice leads into the other trap."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kd
from kd.losses.logit_kind import require_logits_kind, require_probabilities
from kd.models.outputs import require_model_returns_logits
from kd.teachers.ensemble import Ensemble
from kd.training.trial import try_training


def draw_logits(seed: int, rows: int = 60, classes: int = 10) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, classes), scale=3))


def keep_largest(probabilities: Tensor, count: int) -> Tensor:
    return probabilities * (probabilities >= probabilities.topk(count).values[:, -1:])


seeds, classes = st.integers(0, 1000), st.integers(2, 40)


@given(seeds, classes)
def test_logits_and_log_probabilities_are_logits_only(seed: int, classes: int) -> None:
    for values in (draw_logits(seed, classes=classes), draw_logits(seed, classes=classes).log_softmax(1)):
        require_logits_kind("values", values)
        with pytest.raises(ValueError, match=r"must be probabilities.*negative values are logits.*'logits'"):
            require_probabilities("values", values)


@given(seeds, classes, st.sampled_from([None, 2, 3, 4]))
def test_probabilities_are_probabilities_only_even_if_rounded(seed: int, classes: int, digits: int | None) -> None:
    values = draw_logits(seed, classes=classes).softmax(1)
    values = values if digits is None else values.mul(10**digits).round().div(10**digits)
    require_probabilities("values", values)
    require_probabilities("values", values.float())
    with pytest.raises(ValueError, match="must be logits"):
        require_logits_kind("values", values)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda p: torch.cat([p[:-1], p[-1:] * 1.02]), "row 59"),
        (lambda p: keep_largest(p, 3), "save all of them"),
        (lambda p: p * 100, "divide each row by its sum"),
        (lambda p: (p * 255).round(), "divide each row by its sum"),
        (lambda p: (p * 100).round(), "divide each row by its sum"),
        (lambda p: torch.cat([100 * p[:-1], 0 * p[-1:]]), "divide each row by its sum"),
        (lambda p: torch.cat([p[:-1], 0 * p[-1:]]), "row 59 with sum 0"),
        (lambda p: p.clamp(min=0.005), "divide each row by its sum"),
        (lambda p: draw_logits(0).sigmoid(), "Sigmoid"),
        (lambda p: (draw_logits(0) / 3 + 6 * p).sigmoid(), "Sigmoid"),  # sums that vary little
    ],
)
def test_what_is_neither_is_refused_as_both(change: Any, advice: str) -> None:
    values = change(draw_logits(0).softmax(1))
    with pytest.raises(ValueError, match="must be probabilities") as as_probabilities:
        require_probabilities("values", values)
    with pytest.raises(ValueError, match="must be logits") as as_logits:
        require_logits_kind("values", values)
    assert "'logits'" not in str(as_probabilities.value)
    assert "'probabilities'" not in str(as_logits.value)
    assert all(advice in str(error.value) for error in (as_probabilities, as_logits))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_percentages_are_not_logits_even_if_soft_or_rounded(classes: int) -> None:
    soft = (draw_logits(0, 300, classes) / 20).softmax(1)
    sharp = draw_logits(0, 300, classes).softmax(1)
    for values in (100 * soft, (100 * sharp).round(), torch.cat([soft[:-1], 1.1 * soft[-1:]])):
        with pytest.raises(ValueError, match="must be logits"):
            require_logits_kind("values", values)


def test_rounding_errors_do_not_hide_probabilities() -> None:
    values = draw_logits(0).softmax(1)
    for rounded in (values.half(), values.bfloat16(), values.mul(100).round().div(100), values - 1e-9):
        require_probabilities("values", rounded.double())
        with pytest.raises(ValueError, match="'probabilities'"):
            require_logits_kind("values", rounded.double())


def replace(values: Tensor, row: int, new: Any) -> Tensor:
    return torch.cat([values[:row], new + 0 * values[:1], values[row + 1 :]])


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda p: replace(p, 7, -1), "Most rows are probabilities.*row 7 with sum -10 and lowest value -1"),
        (lambda p: replace(p, 7, p[7] - 0.01), "Most rows are probabilities.*row 7"),
        (lambda p: replace(p, 7, p[7].log()), "Most rows are probabilities.*row 7"),
        (lambda p: p + 0.006 * torch.rand(p.shape) - 0.003, "set negative values to 0 and divide each row by its sum"),
        (lambda p: 100 * p.log().add(7).sigmoid(), "Sigmoid outputs in percent"),
        (lambda p: replace(100 * p, 7, -1), "divide each row by its sum"),
        (lambda p: replace(p.log().add(3).sigmoid(), 7, -1), "Sigmoid outputs p"),
        (lambda p: torch.cat([p[:30], 100 * p[30:]]), "others percentages: divide each row by its sum"),
        (lambda p: 2 * p - 1, r"\(values \+ 1\) by 2"),
    ],
)
def test_damaged_rows_and_negative_values_do_not_hide_what_the_rows_are(change: Any, advice: str) -> None:
    torch.manual_seed(0)
    values = change(draw_logits(0).softmax(1))
    for require, kind in ((require_probabilities, "probabilities"), (require_logits_kind, "logits")):
        with pytest.raises(ValueError, match=f"must be {kind}.*{advice}") as error:
            require("values", values)
        assert "kind=" not in str(error.value)


def test_few_small_logits_may_lie_in_the_unit_interval() -> None:
    require_logits_kind("values", torch.tensor([[0.2, 0.7]]))
    with pytest.raises(ValueError, match="Remove the model's softmax"):
        require_logits_kind("values", torch.tensor([[0.25, 0.75]]))


def test_positive_logits_are_logits() -> None:
    require_logits_kind("values", draw_logits(1).relu())
    require_logits_kind("values", draw_logits(1) + 20)


def test_small_or_nearly_constant_outputs_of_an_untrained_network_are_logits() -> None:
    noise = torch.rand(60, 10, generator=torch.Generator().manual_seed(0))
    require_logits_kind("values", 0.1 + 0.05 * noise)
    require_logits_kind("values", torch.linspace(0, 5, 10) + 0.01 * noise)


class Bounded(nn.Module):
    """A network whose outputs pass through a function."""

    def __init__(self, function: Any, std: float = 2.0) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(4, 3)
        nn.init.normal_(self.layer.weight, std=std, generator=torch.Generator().manual_seed(0))
        nn.init.constant_(self.layer.bias, 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.function(self.layer(inputs))
        return outputs


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (lambda outputs: outputs, False),
        (torch.sigmoid, True),
        (lambda outputs: outputs.softmax(1), True),
        (lambda outputs: 100 * outputs.softmax(1), True),
    ],
)
def test_logits_within_0_and_1_by_chance_are_told_from_bounded_outputs(function: Any, refused: bool) -> None:
    model, inputs = (
        Bounded(function, std=2.0 if refused else 0.1),
        torch.rand(60, 4, generator=torch.Generator().manual_seed(0)),
    )
    outputs = model(inputs).detach()
    with pytest.raises(ValueError, match="must be logits"):  # the values alone do not show the difference
        require_logits_kind("values", outputs)
    if refused:
        with pytest.raises(ValueError, match="outputs of it must be logits"):
            require_model_returns_logits("outputs of it", outputs, model, inputs)
    else:
        require_model_returns_logits("outputs of it", outputs, model, inputs)


def test_a_model_that_takes_integers_or_fails_on_large_inputs_stays_in_doubt() -> None:
    outputs, inputs = draw_logits(0).sigmoid(), torch.rand(60, 4)

    def fail(outputs: Tensor) -> Tensor:
        raise RuntimeError("no such input")

    for values, model in ((inputs.long(), Bounded(torch.sigmoid)), (inputs, Bounded(fail))):
        with pytest.raises(ValueError, match="must be logits"):
            require_model_returns_logits("outputs of it", outputs, model, values)


def test_the_remedy_for_a_model_is_none_for_files() -> None:
    model, inputs = Bounded(torch.sigmoid), torch.rand(60, 4)
    with pytest.raises(ValueError, match="Remove the model's softmax or sigmoid") as error:
        require_model_returns_logits("outputs of it", model(inputs).detach(), model, inputs)
    assert "save" not in str(error.value)


class Head(nn.Module):
    """An untrained network that ends in a function, in training and in eval mode or in one of them."""

    def __init__(self, function: Any, modes: tuple[bool, ...] = (False, True), seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.function, self.modes, self.layer = function, modes, nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return self.function(logits) if self.training in self.modes else logits


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


@pytest.mark.parametrize("function", [torch.sigmoid, softmax])
@pytest.mark.parametrize("modes", [(False, True), (False,), (True,)])
def test_an_untrained_model_that_ends_in_probabilities_is_refused(function: Any, modes: tuple[bool, ...]) -> None:
    batch = torch.rand(30, 4), torch.arange(30) % 3
    with pytest.raises(ValueError, match=r"outputs of student.* must be logits.*Remove the model's"):
        try_training("student", Head(function, modes), batch)


@given(seeds)
def test_untrained_logits_pass_even_within_0_and_1(seed: int) -> None:
    batch = torch.rand(30, 4), torch.arange(30) % 3
    for change in (lambda logits: logits + 0.5, lambda logits: 0.01 * (logits + 50)):
        try_training("student", Head(change, seed=seed), batch)


@pytest.mark.parametrize("function", [torch.sigmoid, softmax])
def test_members_of_ensembles_and_live_teachers_are_refused_at_their_first_batch(function: Any) -> None:
    data = TensorDataset(torch.rand(60, 4), torch.arange(60) % 3)
    wrong, logits = (Bounded(function), Bounded(lambda outputs: outputs))
    for how in ("probabilities", "logits"):
        kd.collect_logits(Ensemble([logits, logits], how=how, temperature=2), data)
        with pytest.raises(ValueError, match="outputs of teacher 2 of the ensemble must be logits"):
            kd.collect_logits(Ensemble([logits, wrong], how=how, temperature=2), data)
    loader, objective = kd.make_loader(data, batch_size=30), kd.distilled(temperature=2, alpha=0.5)
    for teacher in (logits, wrong):
        student = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(student.parameters())
        fit = partial(kd.fit, student, kd.live_teacher(teacher, objective), loader, None)
        if teacher is logits:
            fit(epochs=1, seed=0, optimizer=optimizer)
            continue
        with pytest.raises(ValueError, match="outputs of the teacher must be logits"):
            fit(epochs=1, seed=0, optimizer=optimizer)


def test_a_dataset_of_probabilities_is_refused_and_multiples_of_labels_are_logits() -> None:
    labels = torch.arange(60) % 10
    data, one_hot = TensorDataset(torch.rand(60, 4), labels), nn.functional.one_hot(labels, 10)
    probabilities = draw_logits(0).softmax(1)
    for wrong in (probabilities, 100 * probabilities, (draw_logits(0)).sigmoid(), replace(probabilities, 7, -1)):
        with pytest.raises(ValueError, match="logits must be logits"):
            kd.DistillDataset(data, wrong)
    for right in (draw_logits(0), probabilities.log(), 6 * one_hot, torch.zeros(60, 40), torch.rand(60, 1)):
        kd.DistillDataset(data, right)


def test_a_dataset_takes_the_logits_of_a_hardly_trained_teacher_within_0_and_1_but_for_a_few() -> None:
    logits = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    logits[:10, 0] = -0.1  # which no sigmoid returns
    kd.DistillDataset(TensorDataset(torch.rand(200, 4), torch.zeros(200)), logits)
    with pytest.raises(ValueError, match="logits must be logits"):
        kd.DistillDataset(TensorDataset(torch.rand(200, 4), torch.zeros(200)), logits.abs())
