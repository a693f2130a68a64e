"""Models are tried before any training: what would fail at the end fails first, and good models pass unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd import cli
from kd.storage.run_folder import open_run
from kd.teachers.ensemble import Ensemble
from kd.training import run_steps
from kd.training.trial import last_batch_size, require_repeatable, require_restorable, try_training
from tests.conftest import tiny_model

BATCH = (torch.rand(5, 1, 6, 6), torch.arange(5) % 4)


class WithPlainTensor(nn.Module):
    """A model with a random projection that its state_dict lacks."""

    def __init__(self, *, persistent: bool | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 4)
        if persistent is None:
            self.projection = torch.randn(36, 36)
        else:
            self.register_buffer("projection", torch.randn(36, 36), persistent=persistent)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs.flatten(1) @ self.projection)
        return logits


class WithExtraState(nn.Linear):
    def __init__(self) -> None:
        super().__init__(36, 4)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: object) -> None:
        pass

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.flatten(1))


class OtherInTraining(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(36, 4), answer

    def forward(self, inputs: Tensor) -> object:
        logits = self.layer(inputs.flatten(1))
        return self.answer(logits) if self.training else logits


class WithTrainOfItsOwn(nn.Linear):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]  # returns nothing, as many users' do
        super().train(mode)


def test_train_need_not_return_the_model() -> None:
    try_training("student", nn.Sequential(nn.Flatten(), WithTrainOfItsOwn(36, 4)), BATCH)
    model = WithTrainOfItsOwn(36, 4)
    try_training("student", model, (BATCH[0].flatten(1), BATCH[1]))
    assert model.training


@given(st.integers(1, 500), st.integers(1, 200))
def test_the_last_batch_is_that_of_a_loader(samples: int, batch_size: int) -> None:
    *_, last = torch.arange(samples).split(batch_size)  # type: ignore[no-untyped-call]
    assert last_batch_size(samples, batch_size) == len(last)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_trial_changes_nothing(batch_norm: bool) -> None:
    model = tiny_model(dropout=0.5, batch_norm=batch_norm)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    try_training("model", model, BATCH, epochs=[(32, 16)])
    require_restorable("model", model, tiny_model(1, batch_norm=batch_norm), BATCH)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_last_batch_of_one_raises_before_training() -> None:
    model = tiny_model(batch_norm=True)
    message = (
        r"student cannot be trained on a batch of one .*and 287 samples leave one with a batch size of 11.*--batch"
    )
    with pytest.raises(ValueError, match=message):
        try_training("student", model, BATCH, epochs=[(96, 16), (287, 11)])
    try_training("student", tiny_model(), BATCH, epochs=[(287, 11)])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: (logits, logits), r"must return logits \[B, K\] there too\. Got a tuple"),
        (lambda logits: {"logits": logits}, "Got a dict"),
        (lambda logits: logits[None], r"Got \[1, 2, 4\]"),
        (lambda logits: logits.detach(), "does not require grad"),
        (lambda logits: logits * float("nan"), r"the loss is nan\. Look for outputs that are not finite"),
        (lambda logits: logits + (logits * 0).sqrt(), r"the gradient of layer\.weight is not finite, although"),
        (lambda logits: logits.index_fill(1, torch.tensor([0]), -torch.inf), "the loss is inf"),
    ],
)
def test_a_model_that_answers_otherwise_in_training_raises(answer: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"teacher fails in training mode on a batch of 2 samples: .*{message}"):
        try_training("teacher", OtherInTraining(answer), BATCH)


def test_masked_classes_without_samples_and_missing_labels_pass() -> None:
    """Outputs of −∞ are meant, as long as the loss is finite; without a label there is no loss."""
    masked = OtherInTraining(lambda logits: logits.index_fill(1, torch.tensor([3]), -torch.inf))
    try_training("student", masked, BATCH)
    try_training("student", tiny_model(), (BATCH[0], torch.full_like(BATCH[1], -1)))


def test_entries_that_are_no_tensors_raise() -> None:
    with pytest.raises(ValueError, match=r"state_dict of teacher must hold dense.*Got dict under '_extra_state'"):
        try_training("teacher", WithExtraState(), BATCH)


def test_tensors_that_are_not_dense_raise() -> None:
    model = tiny_model()
    model.register_buffer("graph", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match=r"must hold dense tensors.* Got torch\.sparse_coo.* under 'graph'"):
        try_training("teacher", model, BATCH)


@pytest.mark.parametrize("persistent", [None, False])
def test_weights_that_are_not_in_the_file_raise(persistent: bool | None) -> None:
    models = [WithPlainTensor(persistent=persistent) for _ in range(2)]
    with pytest.raises(ValueError, match=r"teacher returns other outputs after .*: .*persistent=False"):
        require_restorable("teacher", *models, BATCH)
    require_restorable("teacher", *(WithPlainTensor(persistent=True) for _ in range(2)), BATCH)


class InEval(nn.Module):
    """A model whose hidden features a function changes, also in eval mode."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.norm, self.change = nn.Linear(36, 4), nn.BatchNorm1d(36), change

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(self.change(self.norm(inputs.flatten(1))))
        return logits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: nn.functional.dropout(x, 0.3, training=True), "for the same inputs in eval mode: it draws random"),
        (lambda x: x + 0.1 * torch.randn_like(x), "for the same inputs in eval mode"),
        (lambda x: x - x.mean(dim=0), r"in a batch than for this sample alone in eval mode.* mean over dimension 0"),
        (lambda x: nn.functional.normalize(x, dim=0), "in a batch than for this sample alone"),
    ],
)
def test_outputs_that_depend_on_chance_or_on_the_batch_raise(change: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"teacher returns other outputs .*{message}"):
        require_repeatable("teacher", InEval(change), BATCH[0])


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x - x.mean(dim=1, keepdim=True), torch.zeros_like])
@pytest.mark.parametrize("samples", [1, 5])
def test_outputs_of_each_sample_by_itself_pass(change: Callable[[Tensor], Tensor], samples: int) -> None:
    model, random_state = InEval(change).train(), torch.get_rng_state()
    require_repeatable("teacher", model, BATCH[0][:samples])
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)


class WithOwnStatistics(nn.Module):
    """A model that normalises its inputs by a running mean, as a buffer or as a plain tensor."""

    def __init__(self, *, as_buffer: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 4)
        self.mean = nn.Buffer(torch.zeros(36)) if as_buffer else torch.zeros(36)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * flat.detach().mean(dim=0)
        logits: Tensor = self.layer(flat - self.mean)
        return logits


@pytest.mark.parametrize("spec", ["--teacher", "--student"])
def test_values_outside_the_file_and_random_outputs_raise_before_training(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from tests.training.test_trial import InEval, WithOwnStatistics\n\n\n"
        "def noisy(input_shape, classes):\n    return InEval(lambda x: x + x.new_empty(x.shape).normal_())\n\n\n"
        "def kept(input_shape, classes):\n    return WithOwnStatistics(as_buffer=True)\n\n\n"
        "def lost(input_shape, classes):\n    return WithOwnStatistics(as_buffer=False)\n"
    )
    data = (torch.rand(60, 6, 6) * 255).byte().numpy(), (torch.arange(60) % 4).numpy()
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    other = "--student=mlp" if spec == "--teacher" else "--teacher=mlp:8"
    quick = ("run", f"--data={tmp_path / 'd.npz'}", f"--out={tmp_path / 'out'}", "--epochs=1", "--dry-run", other)
    assert cli.main([*quick, spec, f"{file}:kept"]) == 0
    assert cli.main([*quick, spec, f"{file}:lost"]) == 1
    assert "returns other outputs after its weights are saved and loaded" in capsys.readouterr().err
    assert cli.main([*quick, spec, f"{file}:noisy"]) == 1
    assert "returns other outputs for the same inputs in eval mode" in capsys.readouterr().err


class LateCounter(nn.Module):
    """A model that answers otherwise after ten training steps, which it counts in a number or in a buffer."""

    def __init__(self, *, as_buffer: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 4)
        self.steps: Tensor | int = nn.Buffer(torch.tensor(0)) if as_buffer else 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps = self.steps + 1
        logits: Tensor = self.layer(inputs.flatten(1) if self.steps < 10 else -inputs.flatten(1))
        return logits


@pytest.mark.parametrize("validated", [True, False])
def test_values_that_a_long_training_collects_outside_the_file_raise_after_it(
    digits: kd.ImageDataset, tmp_path: Path, *, validated: bool
) -> None:
    """The trial before the training has too few steps to find them. Nothing is saved, so that nothing is reused."""
    loader = kd.make_loader(digits, batch_size=8, shuffle=True)

    def train(*, as_buffer: bool) -> None:
        model = LateCounter(as_buffer=as_buffer)
        try_training("model", model, BATCH)
        optimizer, val_loader = torch.optim.Adam(model.parameters()), loader if validated else None
        run_steps.train("model", model, kd.supervised, loader, val_loader, epochs=2, seed=0, optimizer=optimizer)

    for _ in range(2):
        with open_run(tmp_path), pytest.raises(ValueError, match=r"model returns other outputs .* a plain number"):
            train(as_buffer=False)
    with open_run(tmp_path):
        train(as_buffer=True)


# --- the optimizer


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, digits: kd.ImageDataset, objective: kd.Objective) -> None:
    kd.fit(model, objective, kd.make_loader(digits, batch_size=32), None, optimizer=optimizer, epochs=1, seed=0)


def test_an_optimizer_of_another_model_raises(digits: kd.ImageDataset) -> None:
    optimizer = torch.optim.Adam(tiny_model().parameters())
    with pytest.raises(ValueError, match=r"must hold parameters of the model Sequential .*made for another model"):
        fit(tiny_model(), optimizer, digits, kd.supervised)


def test_a_frozen_model_raises(digits: kd.ImageDataset) -> None:
    model = tiny_model().requires_grad_(False)
    with pytest.raises(ValueError, match="all its parameters are frozen"):
        fit(model, torch.optim.Adam(model.parameters()), digits, kd.supervised)


def test_an_optimizer_of_a_part_of_the_model_is_allowed(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    fit(model, torch.optim.Adam([*model.parameters()][-1:]), digits, kd.supervised)


class WithProjector(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.projector = nn.Linear(4, 4, bias=bias)

    def forward(self, model: nn.Module, batch: kd.types.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(batch[0])
        return output, {"loss": self.projector(output).square().mean()}


@pytest.mark.parametrize(("bias", "more"), [(True, " and 1 more"), (False, "")])
def test_an_optimizer_without_the_objectives_parameters_raises(
    digits: kd.ImageDataset, tmp_path: Path, bias: bool, more: str
) -> None:
    model, objective = tiny_model(), WithProjector(bias=bias)
    with pytest.raises(ValueError, match=rf"objective WithProjector too\. It lacks projector\.weight{more}\. Make"):
        fit(model, torch.optim.Adam(model.parameters()), digits, objective)
    fit(model, torch.optim.Adam([*model.parameters(), *objective.parameters()]), digits, objective)


# --- models that change their inputs


class InPlace(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs.mul_(2).sub_(1))
        return logits


class OutOfPlace(InPlace):
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs * 2 - 1)
        return logits


def test_a_teacher_that_works_in_place_changes_nothing_for_others() -> None:
    first, second = tiny_model(1), tiny_model(2)
    inputs = torch.rand(5, 1, 6, 6)
    expected = Ensemble([OutOfPlace(first), second], how="logits")(inputs.clone())
    assert torch.equal(Ensemble([InPlace(first), second], how="logits")(inputs.clone()), expected)
    losses = []
    for kind in (InPlace, OutOfPlace):
        objective = kd.live_teacher(kind(first), kd.distilled(temperature=2, alpha=0.5))
        batch = (inputs.clone(), torch.arange(5) % 4)
        losses.append(objective(second, batch)[1])
        assert torch.equal(batch[0], inputs)
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
