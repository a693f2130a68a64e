"""mixup and CutMix: mixtures are a function of seed, epoch and batch, the same for every model and its teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

import kd
from kd.data.datasets import Gathered
from kd.data.loaders import batches_differ, first_batch, loader_like, seed_loader
from kd.data.mixing import Mixing
from kd.data.views import one_view_each
from kd.methods import METHODS, make
from kd.storage.fingerprint import describe
from kd.storage.snapshots import Snapshots
from tests.conftest import CLASSES, tiny_model

BOTH = Mixing(CLASSES, mixup=1.0, cutmix=1.0)
Change = Callable[[nn.Module], None]


def batch_of(size: int = 8, shape: tuple[int, ...] = (1, 6, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, *shape, generator=generator), torch.arange(size) % CLASSES


def draw_epoch(loader: Any, seed: int = 0, epoch: int = 0) -> list[tuple[Tensor, ...]]:
    seed_loader(loader, seed=seed, epoch=epoch)
    return [tuple(batch) for batch in loader]


def same(first: list[tuple[Tensor, ...]], second: list[tuple[Tensor, ...]]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@given(seed=st.integers(0, 1000), mixing=st.sampled_from([BOTH, Mixing(CLASSES, mixup=0.3), Mixing(CLASSES, cutmix=2)]))
def test_the_labels_are_the_shares_of_the_inputs(seed: int, mixing: Mixing) -> None:
    _, labels = batch_of()
    constant = labels.float()[:, None, None, None].expand(8, 1, 6, 6)  # an image of each label
    with kd.seeded(seed):
        inputs, probabilities = mixing((constant.clone(), labels))
    torch.testing.assert_close(inputs.mean(dim=(1, 2, 3)), probabilities @ torch.arange(4.0))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(8))
    assert ((probabilities > 0).sum(dim=1) <= 2).all()


@pytest.mark.parametrize("mixing", [Mixing(CLASSES, mixup=0.2), Mixing(CLASSES, cutmix=0.2)])
def test_a_share_of_1_is_the_identity(mixing: Mixing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda *_: torch.ones(1))
    inputs, labels = batch_of()
    mixed, probabilities = mixing((inputs, labels))
    assert torch.equal(mixed, inputs)
    assert torch.equal(probabilities, nn.functional.one_hot(labels, CLASSES).float())


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4, 5)])
def test_mixup_takes_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    inputs, labels = batch_of(shape=shape)
    with kd.seeded(0):
        mixed, probabilities = Mixing(CLASSES, mixup=1.0)((inputs, labels))
    own, other = probabilities.gather(1, labels[:, None]), probabilities.gather(1, labels.roll(1)[:, None])
    expected = own * inputs.flatten(1) + other * inputs.roll(1, 0).flatten(1)
    torch.testing.assert_close(mixed.flatten(1), expected)
    assert mixed.shape == inputs.shape


def test_with_both_each_batch_draws_one_of_them() -> None:
    inputs, labels = batch_of()
    cut = 0
    for seed in range(40):
        with kd.seeded(seed):
            mixed, _ = BOTH((inputs, labels))
        cut += bool(((mixed == inputs) | (mixed == inputs.roll(1, 0))).all())
    assert 10 <= cut <= 30


def test_batches_depend_on_seed_epoch_and_number_only(digits: kd.ImageDataset) -> None:
    loader = kd.make_loader(digits, batch_size=16, shuffle=True, mix=BOTH)
    first = draw_epoch(loader)
    torch.rand(3)  # draws of a model, such as dropout
    state = torch.get_rng_state()
    again = draw_epoch(loader_like(loader, digits))
    assert same(first, again)
    assert first[0][1].shape == (16, CLASSES)
    assert not same(first, draw_epoch(loader, seed=1))
    assert not same(first, draw_epoch(loader, epoch=1))
    plain = kd.make_loader(digits, batch_size=16, shuffle=True)
    torch.set_rng_state(state)
    draw_epoch(plain)
    after_plain = torch.get_rng_state()
    torch.set_rng_state(state)
    draw_epoch(loader)
    assert torch.equal(torch.get_rng_state(), after_plain)  # the random stream of the model is not moved


def test_batches_of_one_epoch_are_mixed_differently() -> None:
    ones = torch.utils.data.TensorDataset(torch.rand(8, 1, 6, 6), torch.arange(8) % CLASSES)
    twice: Dataset[Any] = torch.utils.data.ConcatDataset([ones, ones])
    (first, shares), (second, other_shares) = draw_epoch(kd.make_loader(twice, batch_size=8, mix=BOTH))
    assert not torch.equal(first, second)
    assert not torch.equal(shares, other_shares)


class Views(Dataset[Any]):
    """A dataset that is read by workers, because it takes no rows."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Any) -> Gathered:
        rows = torch.as_tensor(indices)
        return Gathered(rows[:, None, None, None] * torch.ones(1, 1, 6, 6), rows % CLASSES)


def test_workers_do_not_change_the_mixtures() -> None:
    alone, shared = (one_view_each(Views(), 2, batch_size=8, workers=workers, mix=BOTH) for workers in (0, 2))
    assert same(draw_epoch(alone), draw_epoch(shared))
    assert same(draw_epoch(alone, epoch=1), draw_epoch(shared, epoch=1))


def train(dataset: Dataset[Any], objective: kd.Objective, watch: Change = lambda _: None, **more: Any) -> nn.Module:
    model = tiny_model(dropout=0.5)
    watch(model)
    loader = kd.make_loader(dataset, batch_size=16, shuffle=True, mix=BOTH)
    validation = kd.make_loader(dataset, batch_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kd.fit(model, objective, loader, validation, optimizer=optimizer, epochs=2, seed=0, **more)
    return model


def record(seen: list[bytes], student: nn.Module | None = None) -> Change:
    """Return a function that records a model's inputs, while ``student`` (by default the model itself) is trained."""

    def watch(model: nn.Module) -> None:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if (student or module).training:
                seen.append(arguments[0].numpy().tobytes())

        model.register_forward_pre_hook(hook)

    return watch


@pytest.mark.parametrize("name", ["kd", "at"])
def test_control_distilled_student_and_teacher_see_the_same_bytes(name: str, digits: kd.ImageDataset) -> None:
    control, distilled, teacher = list[bytes](), list[bytes](), list[bytes]()
    train(digits, kd.supervised, record(control))
    model = tiny_model(1)
    objective: kd.Objective = kd.live_teacher(model, kd.distilled(temperature=2, alpha=0.5))
    if name == "at":
        model = kd.models.networks.CNN(2, (1, 6, 6), CLASSES)
        student = kd.models.networks.CNN(2, (1, 6, 6), CLASSES)
        objective = make("at", student, model, first_batch(kd.make_loader(digits, batch_size=16)))
    trained = tiny_model(dropout=0.5) if name == "kd" else student
    record(distilled)(trained)
    record(teacher, trained)(model)
    loader = kd.make_loader(digits, batch_size=16, shuffle=True, mix=BOTH)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    kd.fit(trained, objective, loader, None, optimizer=optimizer, epochs=2, seed=0)
    assert len(control) == 2 * 6
    assert control == distilled == teacher
    assert len(set(control)) == len(control)


def test_a_training_stopped_within_an_epoch_resumes_bit_identically(digits: kd.ImageDataset, tmp_path: Path) -> None:
    objective = kd.live_teacher(tiny_model(1), kd.distilled(temperature=2, alpha=0.5))
    expected = kd.weights_bytes(train(digits, objective))
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(digits, objective, snapshots=Snapshots(tmp_path, key="k", interval=0), on_batch=stop)
    resumed = train(digits, objective, snapshots=Snapshots(tmp_path, key="k"))
    assert kd.weights_bytes(resumed) == expected


def test_mixing_is_part_of_the_key_of_a_step_and_of_the_check_of_equal_batches(digits: kd.ImageDataset) -> None:
    plain, mixed, again, other = (
        kd.make_loader(digits, batch_size=16, shuffle=True, mix=mix)
        for mix in (None, BOTH, Mixing(CLASSES, mixup=1.0, cutmix=1.0), Mixing(CLASSES, mixup=0.5, cutmix=1.0))
    )
    draw_epoch(mixed)
    assert describe(mixed) == describe(again)
    assert describe(mixed) != describe(other)
    assert describe(mixed) != describe(plain)
    assert batches_differ(mixed, again, seed=0) is None
    assert batches_differ(mixed, other, seed=0)


def test_only_the_training_batches_are_mixed(digits: kd.ImageDataset) -> None:
    loader = kd.make_loader(digits, batch_size=16, shuffle=True, mix=BOTH)
    predictions = kd.predict(tiny_model(), kd.data.loaders.in_order(loader))
    assert torch.equal(predictions.labels, digits.labels)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda inputs, labels: (inputs, labels, labels), "columns of a batch to mix must be 2"),
        (lambda inputs, labels: (inputs.long(), labels), "inputs to mix must be floating-point"),
        (lambda inputs, labels: (inputs.flatten(1), labels), "inputs of CutMix must be images"),
        (lambda inputs, labels: (inputs, labels - 1), "labels must be within 0 … 3"),
        (lambda inputs, labels: (inputs, labels + 1), "labels must be within 0 … 3"),
        (lambda inputs, labels: (inputs, labels.float()), "labels must be int64"),
    ],
)
def test_batches_that_cannot_be_mixed_are_refused(change: Callable[..., kd.Batch], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        BOTH(change(*batch_of()))


@pytest.mark.parametrize("alphas", [{}, {"mixup": 0.0}, {"cutmix": -1.0}, {"mixup": float("nan")}])
def test_alphas_outside_their_range_are_refused(alphas: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"(mixup|cutmix) must be"):
        Mixing(CLASSES, **alphas)


def test_a_method_whose_loss_reads_labels_refuses_mixed_samples_when_it_runs(digits: kd.ImageDataset) -> None:
    names = [name for name, method in METHODS.items() if not method.unlabelled and method.needs == ("labels", "logits")]
    for name in names:
        teacher = tiny_model(1)
        batch = first_batch(kd.make_loader(digits, batch_size=16))
        objective = make(name, tiny_model(), teacher, (*batch, torch.zeros(16, CLASSES)), {})
        with pytest.raises(ValueError, match="labels must be int64"):
            train(digits, kd.live_teacher(teacher, objective))
