"""The split, and each documented function on loaders built by a user, as in a notebook."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import config
import kd
import main
from kd.data import mnist
from tests.conftest import ToyRun

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture(autouse=True)
def _one_epoch(toy: object) -> None:
    config.EPOCHS = 1


class Noisy(Dataset[Any]):
    """Dataset with random augmentation: a sample changes at each access."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        return image + torch.rand_like(image), label


def _digit_counts(subset: Subset[Any]) -> Tensor:
    labels: Tensor = subset.dataset.labels[subset.indices]  # type: ignore[attr-defined]
    return torch.bincount(labels, minlength=10)


def _tiny_teacher() -> nn.Module:
    with kd.seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def _prepare(run: ToyRun, train_loader: DataLoader[Any], val_loader: DataLoader[Any]) -> main.DistillLoaders:
    return main.prepare_distillation_data(
        run.teacher.model, train_loader, val_loader, run.data.train_subset, run.data.val_subset
    )


# The split


@pytest.mark.whole_mnist
def test_the_whole_training_set_is_split_by_test_size_disjoint_and_stratified() -> None:
    config.LIMIT = None
    data = main.load_and_split_data()
    train, val = set(data.train_subset.indices), set(data.val_subset.indices)
    assert (len(train), len(val), len(data.test_dataset)) == (54_000, 6_000, 10_000)  # type: ignore[arg-type]
    assert train | val == set(range(60_000))
    shares = _digit_counts(data.train_subset) + _digit_counts(data.val_subset)
    assert (_digit_counts(data.val_subset) - 0.1 * shares).abs().max() <= 1


def test_the_split_is_a_function_of_random_state() -> None:
    def split(random_state: int) -> tuple[list[int], list[int]]:
        config.RANDOM_STATE = random_state
        data = main.load_and_split_data()
        return list(data.train_subset.indices), list(data.val_subset.indices)

    assert split(42) == split(42)
    assert set(split(42)[1]) != set(split(7)[1])


def test_a_limit_takes_the_first_images_of_one_stratified_order() -> None:
    def select(limit: int) -> tuple[set[int], Tensor]:
        config.LIMIT = limit
        data = main.load_and_split_data()
        counts = _digit_counts(data.train_subset) + _digit_counts(data.val_subset)
        return set(data.train_subset.indices) | set(data.val_subset.indices), counts

    small, large = select(200), select(600)
    assert (len(small[0]), len(large[0])) == (200, 600)
    assert small[0] < large[0]
    everything = torch.bincount(kd.load_mnist(train=True).labels) / 6_000
    assert (large[1] - 600 * everything).abs().max() <= 1


def test_a_users_copy_in_torchvisions_layout_gives_the_same_data(tmp_path: Path, toy_run: ToyRun) -> None:
    raw = tmp_path / "copy" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in mnist.EMBEDDED.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    config.DATA_DIR = tmp_path / "copy"
    data = main.load_and_split_data()
    assert torch.equal(data.train_subset.dataset.images, toy_run.data.train_subset.dataset.images)  # type: ignore[attr-defined]
    assert list(data.val_subset.indices) == list(toy_run.data.val_subset.indices)


# Loaders built by a user


def test_every_function_works_on_plain_torch_loaders_over_a_plain_list(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    items: Any = [(torch.rand(1, 28, 28, generator=generator), index % 10) for index in range(90)]
    train: Subset[Any] = Subset(items, range(70))
    val: Subset[Any] = Subset(items, range(70, 90))
    train_loader: DataLoader[Any] = DataLoader(train, batch_size=32, shuffle=True)
    val_loader: DataLoader[Any] = DataLoader(val, batch_size=7, shuffle=True, drop_last=True)
    teacher = main.train_teacher(train_loader, val_loader)
    loaders = main.prepare_distillation_data(teacher.model, train_loader, val_loader, train, val)
    students = main.train_students(teacher.model, train_loader, val_loader, *loaders)
    models = (teacher.model, *students[:2])
    test = main.evaluate_all_models(*models, val_loader)
    histories = main.TrainMetrics(teacher.history, *students[2:])
    main.save_and_visualize_results(*models, histories, test, val_loader)
    assert students.distilled_history.notes == []
    assert [len(result.logits) for result in test] == [20, 20, 20]
    assert "test_predictions.csv" in capsys.readouterr().out


def test_a_users_shuffled_loader_without_generator_is_reproducible(toy_run: ToyRun) -> None:
    train_loader: DataLoader[Any] = DataLoader(toy_run.data.train_subset, batch_size=50, shuffle=True)
    runs = []
    for _ in range(2):
        torch.rand(3)
        loaders = _prepare(toy_run, train_loader, toy_run.data.val_loader)
        runs.append(main.train_students(toy_run.teacher.model, train_loader, toy_run.data.val_loader, *loaders))
    for first, second in zip(runs[0][:2], runs[1][:2], strict=True):
        assert kd.weights_bytes(first) == kd.weights_bytes(second)


@pytest.mark.parametrize(
    "order", [{"shuffle": True, "drop_last": True}, {"sampler": WeightedRandomSampler([1.0, 9.0] * 135, 270)}]
)
def test_with_alpha_one_the_students_agree_on_a_users_loader(toy_run: ToyRun, order: dict[str, Any]) -> None:
    """A warning about different batches would also fail this test."""
    config.ALPHA = 1
    train_loader: DataLoader[Any] = DataLoader(toy_run.data.train_subset, batch_size=50, **order)
    loaders = _prepare(toy_run, train_loader, toy_run.data.val_loader)
    regular, distilled, *_ = main.train_students(toy_run.teacher.model, train_loader, toy_run.data.val_loader, *loaders)
    assert kd.weights_bytes(regular) == kd.weights_bytes(distilled)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_distillation_loaders_copy_batch_size_drop_last_and_shuffling(
    toy_run: ToyRun, shuffle: bool, drop_last: bool
) -> None:
    original: DataLoader[Any] = DataLoader(
        toy_run.data.train_subset, batch_size=48, shuffle=shuffle, drop_last=drop_last, num_workers=0
    )
    copied, _ = _prepare(toy_run, original, toy_run.data.val_loader)
    assert (copied.batch_size, copied.drop_last, copied.num_workers) == (48, drop_last, 0)
    assert isinstance(copied.sampler, RandomSampler if shuffle else SequentialSampler)
    assert len(list(copied)) == (5 if drop_last else 6)


def test_a_loader_over_the_full_set_with_a_random_subset_sampler_is_still_shuffled(toy_run: ToyRun) -> None:
    """A common way to split without Subset: the loader's dataset is longer than ``train_subset``."""
    subset = toy_run.data.train_subset
    original: DataLoader[Any] = DataLoader(subset.dataset, batch_size=48, sampler=SubsetRandomSampler(subset.indices))
    copied, _ = _prepare(toy_run, original, toy_run.data.val_loader)
    with kd.seeded(0):
        labels = torch.cat([batch[1] for batch in copied])
    assert labels.tolist() != [subset[i][1] for i in range(len(subset))]


def test_students_that_see_different_batches_are_warned_about_and_it_is_recorded(toy_run: ToyRun) -> None:
    train_loader: DataLoader[Any] = DataLoader(toy_run.data.train_subset, batch_size=64, shuffle=True)
    with pytest.warns(UserWarning, match="did not see the same batches: their samplers draw different indices"):
        students = main.train_students(toy_run.teacher.model, train_loader, toy_run.data.val_loader, *toy_run.loaders)
    (note,) = students.regular_history.notes
    assert students.distilled_history.notes == [note]
    histories = main.TrainMetrics(toy_run.teacher.history, *students[2:])
    models = (toy_run.teacher.model, *toy_run.students[:2])
    main.save_and_visualize_results(*models, histories, toy_run.test, toy_run.data.test_loader)
    recorded = json.loads((config.RESULTS_DIR / "metrics" / "metrics.json").read_text(encoding="utf-8"))
    assert recorded["notes"] == [note]


def test_a_control_on_augmented_images_gives_a_warning(toy_run: ToyRun) -> None:
    noisy: DataLoader[Any] = DataLoader(Noisy(toy_run.data.train_subset), batch_size=64, shuffle=True)
    loaders = _prepare(toy_run, noisy, toy_run.data.val_loader)
    with pytest.warns(UserWarning, match="did not see the same batches: their samples differ"):
        main.train_students(toy_run.teacher.model, noisy, toy_run.data.val_loader, *loaders)


def test_a_subset_with_changing_items_cannot_have_cached_logits(toy_run: ToyRun) -> None:
    data = toy_run.data
    with pytest.raises(ValueError, match=r"change between reads .* kd\.live_teacher"):
        main.prepare_distillation_data(toy_run.teacher.model, *data[:2], Noisy(data.train_subset), data.val_subset)


def test_a_teacher_whose_logits_are_not_finite_is_refused(toy_run: ToyRun) -> None:
    teacher = _tiny_teacher()
    with torch.no_grad():
        next(teacher.parameters())[0, 0] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        main.prepare_distillation_data(teacher, *toy_run.data[:2], *toy_run.data[3:5])


def test_a_shuffled_test_loader_gives_logits_in_the_datasets_order(toy_run: ToyRun) -> None:
    shuffled: DataLoader[Any] = DataLoader(
        toy_run.data.test_dataset, batch_size=333, shuffle=True, drop_last=True, generator=torch.Generator()
    )
    students = toy_run.students[:2]
    measured = main.evaluate_all_models(students[0], *students, shuffled)
    assert [result.errors for result in measured[1:]] == [result.errors for result in toy_run.test[1:]]
    assert [result.accuracy for result in measured[1:]] == [result.accuracy for result in toy_run.test[1:]]
    for result, original in zip(measured[1:], toy_run.test[1:], strict=True):
        torch.testing.assert_close(result.logits, original.logits, atol=1e-4, rtol=1e-4)


def test_saving_refuses_metrics_that_were_measured_on_another_loader(toy_run: ToyRun) -> None:
    half: DataLoader[Any] = DataLoader(Subset(toy_run.data.test_dataset, range(500)), batch_size=128)
    reverse: DataLoader[Any] = DataLoader(Subset(toy_run.data.test_dataset, range(999, -1, -1)), batch_size=128)
    models = (toy_run.teacher.model, *toy_run.students[:2])
    histories = main.TrainMetrics(toy_run.teacher.history, *toy_run.students[2:])
    for loader in (half, reverse):
        with pytest.raises(ValueError, match="was not measured on this test_loader"):
            main.save_and_visualize_results(*models, histories, toy_run.test, loader)
    assert not config.MODELS_DIR.exists()
