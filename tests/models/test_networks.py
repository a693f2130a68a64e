"""Models of the pipeline: the claims of their docstrings, and results that do not depend on the memory format."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor

import config
import kd
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds
from models import StudentModel, TeacherModel


def make_images(count: int = 5) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def documented_parameters(model: type[TeacherModel] | type[StudentModel]) -> int:
    """Return the parameter count in the docstring."""
    (number,) = re.findall(r"([\d,]+) parameters", model.__doc__ or "")
    return int(number.replace(",", ""))


@pytest.fixture
def teacher() -> TeacherModel:
    with kd.seeded(0):
        return TeacherModel().eval()


@pytest.mark.parametrize("model", [TeacherModel, StudentModel])
@pytest.mark.parametrize("batch", [1, 5])
def test_each_model_returns_ten_logits_per_image(model: type[TeacherModel] | type[StudentModel], batch: int) -> None:
    output = model()(make_images(batch))
    assert output.shape == (batch, 10)
    assert output.dtype == torch.float32


def test_the_docstrings_state_the_true_parameter_counts() -> None:
    assert count_parameters(TeacherModel()) == documented_parameters(TeacherModel)
    assert count_parameters(StudentModel(256)) == documented_parameters(StudentModel)


def test_the_student_is_smaller_and_at_least_eight_times_cheaper() -> None:
    teacher, student = TeacherModel(), StudentModel()
    assert count_parameters(student) < count_parameters(teacher)
    assert 8 * count_multiply_adds(student, make_images(1)) <= count_multiply_adds(teacher, make_images(1))


def test_the_students_width_is_read_at_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "STUDENT_WIDTH", 17)
    assert StudentModel().hidden.out_features == 17
    assert StudentModel(5).hidden.out_features == 5


def test_the_memory_format_changes_no_logits_and_no_gradient(teacher: TeacherModel) -> None:
    plain = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    assert teacher.conv2.weight.stride() != plain.conv2.weight.stride()
    for model in (teacher, plain):
        model(make_images()).square().sum().backward()
    torch.testing.assert_close(teacher(make_images()), plain(make_images()))
    for parameter, plain_parameter in zip(teacher.parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None
        assert plain_parameter.grad is not None
        torch.testing.assert_close(parameter.grad, plain_parameter.grad, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only(teacher: TeacherModel) -> None:
    images = make_images()
    assert torch.equal(teacher(images), teacher(images))
    teacher.train()
    with kd.seeded(0):
        assert not torch.equal(teacher(images), teacher(images))
