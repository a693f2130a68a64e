"""Methods on float64 models, on empty batches and on samples without a label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.losses.labels import loss_on_device
from kd.methods import METHODS, make, try_method
from kd.methods.objectives import live_teacher, smoothed, supervised
from kd.models.networks import CNN
from kd.training.batch_metrics import METRICS
from tests.methods.test_feature import SHAPE

all_methods = pytest.mark.parametrize("name", METHODS)


def build(dtype: torch.dtype) -> tuple[nn.Module, nn.Module, kd.Batch]:
    """Return a student, a teacher and a batch with logits and ids, in this precision."""
    with kd.seeded(0):
        student, teacher = CNN(4, SHAPE, 4).to(dtype), CNN(4, SHAPE, 4).to(dtype)
        batch = torch.rand(8, *SHAPE, dtype=dtype), torch.arange(8) % 4, torch.randn(8, 4, dtype=dtype), torch.arange(8)
    return student, teacher, batch


@all_methods
def test_a_float64_model_keeps_float64_in_every_term_and_gradient(name: str) -> None:
    student, teacher, batch = build(torch.float64)
    objective = make(name, student, teacher, batch)
    _, terms = objective(student, batch)
    assert {term.dtype for term in terms.values()} == {torch.float64}
    sum(terms.values(), torch.zeros((), dtype=torch.float64)).backward()  # type: ignore[no-untyped-call]
    modules = [student, objective] if isinstance(objective, nn.Module) else [student]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float64}
    assert {tensor.grad.dtype for tensor in tensors if tensor.grad is not None} == {torch.float64}
    assert try_method(name, student, teacher, batch[:2]) == try_method(
        name, *build(torch.float32)[:2], build(torch.float32)[2][:2]
    )


@all_methods
def test_a_float64_loss_is_the_float32_loss_but_for_rounding(name: str) -> None:
    losses: list[Tensor] = []
    for dtype in (torch.float32, torch.float64):
        student, teacher, batch = build(torch.float32)
        objective = make(
            name,
            student.to(dtype),
            teacher.to(dtype),
            tuple(t.to(dtype) if t.is_floating_point() else t for t in batch),
        )
        with kd.seeded(1):
            _, terms = objective(student, tuple(t.to(dtype) if t.is_floating_point() else t for t in batch))
        losses.append(torch.stack([term.double() for term in terms.values()]).sum())
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_predictions_have_the_models_precision_but_not_less_than_float32(
    dtype: torch.dtype, expected: torch.dtype
) -> None:
    model = nn.Linear(3, 2).to(dtype)
    inputs, labels = torch.rand(8, 3, dtype=dtype), torch.arange(8) % 2
    predictions = kd.predict(model, [(inputs[:5], labels[:5]), (inputs[5:], labels[5:])])
    assert predictions.logits.dtype == expected
    torch.testing.assert_close(predictions.logits, model(inputs).detach().to(expected), rtol=1e-2, atol=1e-2)


def test_a_live_teacher_and_the_metrics_keep_float64() -> None:
    student, teacher, batch = build(torch.float64)
    seen: list[torch.dtype] = []

    def objective(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(batch[2].dtype)
        return supervised(model, batch)

    output, _ = live_teacher(teacher, objective)(student, batch[:2])
    assert seen == [torch.float64]
    assert METRICS["ce"](output, batch).dtype == torch.float64


@pytest.mark.parametrize("name", ["kd", "soft-labels", "dkd", "label-smoothing", "teacher-free", "ctkd", "ofa"])
def test_an_empty_batch_is_refused(name: str) -> None:
    student, teacher, batch = build(torch.float32)
    objective = make(name, student, teacher, batch, {"student_layers": "layer1"} if name == "ofa" else {})
    with pytest.raises(ValueError, match=r"number of samples in a batch must be at least 1\. Got 0"):
        objective(student.eval(), tuple(values[:0] for values in batch))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_missing_label_gives_nan_on_a_device_and_an_error_on_the_cpu(smoothing: float) -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    objective = smoothed(smoothing=smoothing)
    expected = objective(nn.Identity(), (logits, labels))[1]["hard"]
    assert torch.equal(loss_on_device(logits, labels, label_smoothing=smoothing), expected)
    labels[2] = -1
    assert math.isnan(loss_on_device(logits, labels, label_smoothing=smoothing).item())
    with pytest.raises(ValueError, match=r"labels must be within 0 … 3.*Got -1 … 3"):
        objective(nn.Identity(), (logits, labels))
    on_meta = logits.to("meta"), labels.to("meta")
    assert objective(nn.Identity(), on_meta)[1]["hard"].shape == ()


def test_training_on_a_device_reports_a_missing_label_by_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.methods.objectives.label_loss", loss_on_device)  # as on a GPU
    inputs, labels = torch.rand(8, 3), torch.tensor([0, 1, 0, 1, 0, -1, 0, 1])
    model = nn.Linear(3, 2)
    loader = kd.make_loader(kd.data.ArrayDataset(inputs, labels), batch_size=4)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(FloatingPointError, match=r"batch 2 .*labels of -1"):
        kd.fit(model, supervised, loader, None, optimizer=optimizer, epochs=1, seed=0, metrics={})
