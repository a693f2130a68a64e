"""Cached teacher logits: row i belongs to sample i, and every kind of wrong row raises an error."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import kd
from tests.conftest import CLASSES, tiny_model

Fault = Callable[[kd.Predictions], kd.Predictions]


def good_teacher() -> nn.Module:
    """Return a perfect teacher of ``digits`` whose logits are the brightness of the four quadrants."""
    weight = torch.zeros(CLASSES, 6, 6)
    for label in range(CLASSES):
        row, column = divmod(label, 2)
        weight[label, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 1.0
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES, bias=False))
    teacher.load_state_dict({"1.weight": weight.flatten(1)})
    return teacher


class Augmented(Dataset[tuple[Tensor, int]]):
    """A dataset that adds random noise at every read and records the indices read."""

    def __init__(self, dataset: kd.ImageDataset, noise: Callable[[], float]) -> None:
        self.dataset, self.noise = dataset, noise
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        image, label = self.dataset[index]
        return image + self.noise(), label


def shift_rows(cached: kd.Predictions) -> kd.Predictions:
    return cached._replace(logits=cached.logits.roll(1, dims=0))


def shuffle_within_classes(cached: kd.Predictions) -> kd.Predictions:
    """Permute rows within classes, which leaves the accuracy unchanged."""
    order = torch.arange(len(cached.labels))
    for label in range(CLASSES):
        members = (cached.labels == label).nonzero().flatten()
        order[members] = members.roll(1)
    return cached._replace(logits=cached.logits[order])


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_row_i_contains_the_logits_of_sample_i(digits: kd.ImageDataset, batch_size: int) -> None:
    teacher = tiny_model(1, dropout=0.5, batch_norm=True)
    shuffled = kd.make_loader(digits, batch_size=8, shuffle=True)
    next(iter(shuffled))
    cached = kd.collect_logits(teacher, digits, batch_size=batch_size)
    teacher.eval()
    assert cached.logits.shape == (len(digits), CLASSES)
    assert (cached.logits.dtype, cached.logits.requires_grad) == (torch.float32, False)
    for i, (row, number) in enumerate(zip(cached.logits, cached.labels, strict=True)):
        image, label = digits[i]
        torch.testing.assert_close(row, teacher(image[None])[0].detach(), rtol=1e-4, atol=1e-5)
        assert int(number) == label


def test_batches_of_a_shuffled_loader_contain_matching_logits(digits: kd.ImageDataset) -> None:
    teacher = tiny_model(1).eval()
    dataset = kd.DistillDataset(digits, kd.collect_logits(teacher, digits).logits)
    loader = kd.loader_like(kd.make_loader(digits, batch_size=20, shuffle=True), dataset)
    for _ in range(2):
        for images, _, logits in loader:
            torch.testing.assert_close(logits, teacher(images).detach(), rtol=1e-4, atol=1e-5)


def test_rows_follow_the_order_of_a_subset(digits: kd.ImageDataset) -> None:
    teacher, indices = tiny_model(1), [50, 3, 77]
    all_logits, subset_logits = kd.collect_logits(teacher, digits), kd.collect_logits(teacher, Subset(digits, indices))
    assert torch.equal(subset_logits.labels, digits.labels[indices])
    torch.testing.assert_close(subset_logits.logits, all_logits.logits[indices], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_does_not_change(digits: kd.ImageDataset, training: bool) -> None:
    teacher = tiny_model(1, dropout=0.5, batch_norm=True).train(training)
    before = kd.weights_bytes(teacher)
    steps: list[None] = []
    cached = kd.collect_logits(teacher, digits, batch_size=30, on_batch=lambda: steps.append(None))
    kd.verify_logits(teacher, digits, cached)
    assert {module.training for module in teacher.modules()} == {training}
    assert kd.weights_bytes(teacher) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert len(steps) == 4


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(1, 200), st.booleans())
def test_correct_logits_pass_for_any_subset(seed: int, sample: int, good: bool) -> None:
    images = torch.randint(0, 256, (64, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    dataset = kd.ImageDataset(images, torch.arange(64) % CLASSES, mean=0.5, std=0.3)
    teacher = good_teacher() if good else tiny_model(seed, batch_norm=True)
    kd.verify_logits(teacher, dataset, kd.collect_logits(teacher, dataset), sample=sample, seed=seed)


def test_verifying_does_not_change_the_random_state(digits: kd.ImageDataset) -> None:
    teacher = good_teacher()
    cached = kd.collect_logits(teacher, digits)
    before = torch.get_rng_state()
    kd.verify_logits(teacher, digits, cached)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fault", [shift_rows, shuffle_within_classes], ids=["shifted by one", "shuffled in class"])
def test_permuted_rows_raise(digits: kd.ImageDataset, fault: Fault) -> None:
    cached = fault(kd.collect_logits(good_teacher(), digits))
    with pytest.raises(ValueError, match=r"do not match their samples: 96 of 96 recomputed .*kd\.collect_logits"):
        kd.verify_logits(good_teacher(), digits, cached)


def test_logits_collected_from_a_shuffled_loader_raise(digits: kd.ImageDataset) -> None:
    loader = DataLoader(digits, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0))
    predictions = kd.predict(good_teacher(), loader)
    with pytest.raises(ValueError, match=r"do not match their samples: .* in a different order \(shuffled loader"):
        kd.verify_logits(good_teacher(), digits, predictions._replace(labels=digits.labels))


def test_logits_of_another_teacher_raise(digits: kd.ImageDataset) -> None:
    cached = kd.collect_logits(good_teacher(), digits)
    with pytest.raises(ValueError, match=r"do not match their samples: .* with another teacher"):
        kd.verify_logits(tiny_model(1), digits, cached)


def test_logits_of_another_dataset_raise(digits: kd.ImageDataset) -> None:
    brighter = kd.ImageDataset(digits.images + 20, digits.labels, mean=digits.mean, std=digits.std)
    with pytest.raises(ValueError, match=r"do not match their samples: .* from other data"):
        kd.verify_logits(good_teacher(), digits, kd.collect_logits(good_teacher(), brighter))


@settings(max_examples=30)
@given(st.integers(0, 63), st.integers(0, CLASSES - 1), st.sampled_from([-0.1, 0.1, 3.0]))
def test_a_single_wrong_value_in_the_recomputed_rows_is_reported_with_its_row(
    row: int, column: int, error: float
) -> None:
    images = torch.randint(0, 256, (64, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = kd.ImageDataset(images, torch.arange(64) % CLASSES, mean=0.5, std=0.3)
    cached = kd.collect_logits(good_teacher(), dataset)
    cached.logits[row, column] += error * float(cached.logits.abs().max())
    with pytest.raises(ValueError, match=rf"1 of 64 recomputed rows differ .* the first at row {row}\."):
        kd.verify_logits(good_teacher(), dataset, cached)


def test_wrong_rows_outside_the_subset_are_detected_by_their_labels(digits: kd.ImageDataset) -> None:
    teacher, dataset = good_teacher(), Augmented(digits, lambda: 0.0)
    cached = kd.collect_logits(teacher, digits)
    kd.verify_logits(teacher, dataset, cached, sample=16)
    unsampled = sorted(set(range(96)) - set(dataset.asked))
    assert len(unsampled) == 80
    cached.logits[unsampled] = cached.logits[unsampled].roll(1, dims=1)
    with pytest.raises(
        ValueError, match=r"do not match their labels: accuracy is 16\.7% on all cached rows, but 100\.0%"
    ):
        kd.verify_logits(teacher, dataset, cached, sample=16)


def test_permuted_labels_raise(digits: kd.ImageDataset) -> None:
    cached = kd.collect_logits(good_teacher(), digits)
    with pytest.raises(ValueError, match=r"labels .* differ from the dataset\. Collect"):
        kd.verify_logits(good_teacher(), digits, cached._replace(labels=cached.labels.roll(1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_value_raises_with_its_row(digits: kd.ImageDataset, bad: float) -> None:
    cached = kd.collect_logits(good_teacher(), digits)
    cached.logits[[17, 40], 2] = bad
    with pytest.raises(
        ValueError, match=r"must be finite\. Got NaN or infinity in 2 of 96 rows, .* at row 17\."
    ) as error:
        kd.verify_logits(good_teacher(), digits, cached, sample=1)
    assert ("masked_fill(logits == -math.inf" in str(error.value)) == (bad == -float("inf"))


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        (lambda c: kd.Predictions(c.logits[1:], c.labels[1:]), r"\[95, 4\] with 95 labels"),
        (lambda c: c._replace(labels=c.labels[1:]), r"\[96, 4\] with 95 labels"),
        (lambda c: c._replace(logits=c.logits[:, 0]), r"\[96\] with 96 labels"),
        (lambda c: c._replace(logits=c.logits[None]), r"\[1, 96, 4\] with 96 labels"),
    ],
)
def test_another_number_of_rows_raises(digits: kd.ImageDataset, fault: Fault, got: str) -> None:
    cached = fault(kd.collect_logits(good_teacher(), digits))
    with pytest.raises(ValueError, match=rf"one row per sample: \[96, classes\]\. Got {got} instead"):
        kd.verify_logits(good_teacher(), digits, cached)


@pytest.mark.parametrize("classes", [1, 3, 5])
def test_another_number_of_classes_raises_a_value_error(digits: kd.ImageDataset, classes: int) -> None:
    cached = kd.collect_logits(good_teacher(), digits)
    with pytest.raises(ValueError, match="teacher logits"):
        kd.verify_logits(good_teacher(), digits, cached._replace(logits=torch.randn(96, classes)))


@pytest.mark.parametrize("noise", [lambda: float(torch.rand(())), random.random], ids=["torch", "python"])
def test_samples_that_change_between_reads_raise(digits: kd.ImageDataset, noise: Callable[[], float]) -> None:
    dataset: Dataset[Any] = Augmented(digits, noise)
    with pytest.raises(ValueError, match=r"change between reads \(random augmentation\?\).*live_teacher\(\)"):
        kd.verify_logits(good_teacher(), dataset, kd.collect_logits(good_teacher(), dataset))


def test_a_teacher_that_returns_nan_raises(digits: kd.ImageDataset) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = good_teacher()(images)
            logits[0] = float("nan")
            return logits

    cached = shuffle_within_classes(kd.collect_logits(good_teacher(), digits))
    with pytest.raises(ValueError, match=r"do not match their samples|finite"):
        kd.verify_logits(Broken(), digits, cached)
