"""Table of methods: consistent with the factories, importable without torch, helpful errors."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

import kd
from kd.commands.method_flags import format_method_settings, parse_method_settings
from kd.methods import METHODS, make, method_named, settings_of, try_method
from kd.models.networks import CNN, MNIST_SHAPE

all_methods = pytest.mark.parametrize("name", METHODS)


@all_methods
def test_a_factory_takes_exactly_the_settings_of_the_table(name: str) -> None:
    module, _, function = METHODS[name].factory.partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module), function))
    positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert positional == ["student", "teacher", "batch"]
    assert keywords == list(METHODS[name].settings)
    assert all(p.default is p.empty for p in signature.parameters.values())  # settings have defaults in the table only


@all_methods
def test_needs_are_known_inputs_and_the_paper_has_an_identifier(name: str) -> None:
    assert set(METHODS[name].needs) <= {"labels", "logits", "teacher", "ids"}
    assert len({"logits", "teacher"} & set(METHODS[name].needs)) <= 1
    assert "arXiv:" in METHODS[name].paper or "doi:" in METHODS[name].paper
    assert METHODS[name].reference


def test_the_table_does_not_import_torch() -> None:
    program = "import sys, kd.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_kd_equals_the_objective_of_the_pipeline() -> None:
    import config

    expected = {"temperature": config.TEMPERATURE, "alpha": config.ALPHA, "divergence": "forward"}
    assert settings_of("kd") == expected


def test_an_unknown_method_is_refused_with_similar_names() -> None:
    with pytest.raises(ValueError, match=r"no method 'dkdd'\. Did you mean dkd "):
        method_named("dkdd")
    with pytest.raises(ValueError, match=r"Methods: .*, kd, label-smoothing, "):
        method_named("???")


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"nkd has no setting 'beta'\. It has temperature, gamma"):
        settings_of("nkd", {"beta": 1})


def test_given_settings_replace_defaults_with_the_same_type() -> None:
    assert settings_of("dkd", {"beta": "2"}) == {**METHODS["dkd"].settings, "beta": 2.0}
    assert list(settings_of("dkd", {"warmup": 0})) == list(METHODS["dkd"].settings)
    with pytest.raises(ValueError, match=r"beta must be a float\. Got 'many'"):
        settings_of("dkd", {"beta": "many"})


@pytest.mark.parametrize("texts", [["beta"], ["=3"], ["beta=1", "beta=2"]])
def test_a_setting_must_be_given_once_as_name_and_value(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=f"--set must be NAME=VALUE, each name once.*{texts[-1]}"):
        parse_method_settings(texts)


def test_texts_are_parsed_as_settings() -> None:
    assert parse_method_settings(["beta=8", "layers=a,b=c"]) == {"beta": "8", "layers": "a,b=c"}


@all_methods
def test_formatted_settings_can_be_parsed(name: str) -> None:
    parsed = settings_of(name, parse_method_settings(format_method_settings(settings_of(name))))
    assert format_method_settings(parsed) == format_method_settings(METHODS[name].settings)


def test_empty_text_is_valid_for_text_settings_only() -> None:
    assert settings_of("at", parse_method_settings(["student_layers="]))["student_layers"] == ""
    with pytest.raises(ValueError, match=r"beta must be a float\. Got '' instead"):
        settings_of("dkd", parse_method_settings(["beta="]))


@all_methods
@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), "-1", "nan"])
def test_numbers_are_finite_and_not_negative(name: str, value: float | str) -> None:
    for setting, default in METHODS[name].settings.items():
        if not isinstance(default, str):
            with pytest.raises(ValueError, match=rf"^{setting} must be .* Got {value!r} instead"):
                settings_of(name, {setting: value})


def test_whole_numbers_are_not_truncated() -> None:
    for value in (100.9, "100.9", None):
        with pytest.raises(ValueError, match=rf"negatives must be an? .* Got {value!r} instead"):
            settings_of("crd", {"negatives": value})  # type: ignore[dict-item]
    assert settings_of("crd", {"negatives": 100.0})["negatives"] == 100


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"temperature": 0}) for name, method in METHODS.items() if "temperature" in method.settings),
        ("kd", {"temperature": 1e-320}),  # in its range, but the logits overflow
        ("ttm", {"gamma": 0}),
        ("wttm", {"gamma": 0}),
        ("ofa", {"gamma": 0}),
        ("teacher-free", {"correct": 2}),
        ("at", {"form": "other"}),
        ("cc", {"order": 0}),
    ],
)
def test_a_value_outside_its_range_is_refused_before_training(name: str, settings: dict[str, float]) -> None:
    with kd.seeded(0):
        student, teacher = CNN(4, MNIST_SHAPE, 10), CNN(8, MNIST_SHAPE, 10)
        batch = torch.rand(8, *MNIST_SHAPE), torch.randint(10, (8,))
        before = [kd.weights_bytes(model) for model in (student, teacher)]
        with pytest.raises(ValueError, match=next(iter(settings))):
            try_method(name, student, teacher, batch, settings)
    assert [kd.weights_bytes(model) for model in (student, teacher)] == before


@all_methods
def test_every_method_can_be_tried(name: str) -> None:
    with kd.seeded(0):
        student, teacher = CNN(4, MNIST_SHAPE, 10), CNN(4, MNIST_SHAPE, 10)
        batch = torch.rand(8, *MNIST_SHAPE), torch.randint(10, (8,))
        pairs = try_method(name, student, teacher, batch)
    assert bool(pairs) == ("teacher" in METHODS[name].needs)
    assert {layer for pair in pairs for layer in pair} <= {"layer1", "layer2", "layer3", "output:input"}
    assert student.training
    assert teacher.training


class InPlace(CNN):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs.mul_(2).sub_(1))


@all_methods
def test_models_that_change_their_input_leave_the_example_as_it_is(name: str) -> None:
    """It may be a view of the user's data."""
    with kd.seeded(0):
        student, teacher = InPlace(4, MNIST_SHAPE, 10), InPlace(4, MNIST_SHAPE, 10)
        data, labels = torch.rand(8, *MNIST_SHAPE), torch.randint(10, (8,))
        before = data.clone()
        make(name, student, teacher, (data[:4], labels[:4], torch.randn(4, 10), torch.arange(4)))
        try_method(name, student, teacher, (data, labels))
    assert torch.equal(data, before)


def test_a_method_is_built_with_its_settings() -> None:
    model, batch = nn.Identity(), (torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5))
    logits, labels = torch.randn(3, 5), torch.tensor([0, 1, 2])
    _, terms = make("kd", model, model, batch, {"alpha": "1"})(model, (logits, labels, torch.randn(3, 5)))
    assert terms["hard"].item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert terms["soft"].item() == 0
