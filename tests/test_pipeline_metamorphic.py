"""Relations between runs: equal results for equal inputs, no side effects, and aligned rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import config
import kd
import kd.teachers.cache
import main
import train
from kd.data.loaders import seed_loader
from kd.training.optimizers import adam
from models import StudentModel
from tests.conftest import ToyRun

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture
def teacher() -> nn.Module:
    """Return an untrained teacher with batch norm and dropout, so that training mode would change its results."""
    with kd.seeded(1):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
        ).train()


def _students(run: ToyRun) -> main.StudentTraining:
    return main.train_students(run.teacher.model, *run.data[:2], *run.loaders)


def _same(first: nn.Module, second: nn.Module) -> bool:
    return kd.weights_bytes(first) == kd.weights_bytes(second)


def _one_pass(loader: Any, seed: int = 3) -> list[tuple[Tensor, ...]]:
    with kd.seeded(seed):
        seed_loader(loader, seed=seed, epoch=0)
        return list(loader)


def test_with_alpha_one_both_students_end_bit_identical(toy_run: ToyRun) -> None:
    config.ALPHA = 1
    regular, distilled, regular_history, distilled_history = _students(toy_run)
    assert _same(regular, distilled)
    assert {name: distilled_history[name] for name in regular_history} == regular_history
    assert set(distilled_history) - set(regular_history) == {"train_soft", "val_soft"}


def test_with_alpha_below_one_the_students_differ(toy_run: ToyRun) -> None:
    config.ALPHA = 0.99
    regular, distilled, *_ = _students(toy_run)
    assert not _same(regular, distilled)


def test_with_alpha_zero_the_labels_do_not_matter(toy_run: ToyRun) -> None:
    config.ALPHA, config.EPOCHS = 0, 1

    def relabelled(dataset: kd.DistillDataset) -> kd.DistillDataset:
        items = [(image, (label + 1) % 10) for image, label, _ in map(dataset.__getitem__, range(len(dataset)))]
        return kd.DistillDataset(items, dataset.logits)  # type: ignore[arg-type]  # a list is a dataset to torch

    _, right, *_ = _students(toy_run)
    wrong_loaders = [kd.loader_like(loader, relabelled(loader.dataset)) for loader in toy_run.loaders]  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="did not see the same batches"):
        _, wrong, *_ = main.train_students(toy_run.teacher.model, *toy_run.data[:2], *wrong_loaders)
    assert _same(right, wrong)


def test_the_control_does_not_depend_on_alpha_and_temperature_but_the_distilled_student_does(toy_run: ToyRun) -> None:
    for alpha, temperature in ((0.1, 5), (0.5, 2)):
        config.ALPHA, config.TEMPERATURE = alpha, temperature
        regular, distilled, *_ = _students(toy_run)
        assert _same(regular, toy_run.students.student_regular)
        assert not _same(distilled, toy_run.students.student_distilled)


def test_cached_and_live_distillation_agree(toy_run: ToyRun) -> None:
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    with kd.seeded(config.SEED):
        student = StudentModel()
    steps = config.EPOCHS * len(toy_run.data.train_loader)
    optimizer, scheduler = adam(student, learning_rate=config.LEARNING_RATE, steps=steps)
    history = kd.fit(
        student,
        kd.live_teacher(toy_run.teacher.model, objective),
        *toy_run.data[:2],
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=config.EPOCHS,
        seed=config.SEED,
    )
    for name, values in toy_run.students.distilled_history.items():
        assert values == pytest.approx(history[name], rel=1e-4, abs=1e-6), name
    for cached, live in zip(toy_run.students.student_distilled.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(cached, live, atol=1e-4, rtol=1e-3)


def test_the_same_seed_gives_the_same_run_to_the_last_bit(toy_run: ToyRun) -> None:
    torch.rand(7)  # regardless of earlier random draws
    data = main.load_and_split_data()
    next(iter(data.train_loader))
    teacher = main.train_teacher(*data[:2])
    loaders = main.prepare_distillation_data(teacher.model, *data[:2], data.train_subset, data.val_subset)
    students = main.train_students(teacher.model, *data[:2], *loaders)
    assert teacher[1:] == toy_run.teacher[1:]
    assert students[2:] == toy_run.students[2:]
    for repeated, original in zip(
        (teacher.model, *students[:2]), (toy_run.teacher.model, *toy_run.students[:2]), strict=True
    ):
        assert _same(repeated, original)


def test_another_seed_gives_other_students(toy_run: ToyRun) -> None:
    config.SEED, config.EPOCHS = 1, 1
    for repeated, original in zip(_students(toy_run)[:2], toy_run.students[:2], strict=True):
        assert not _same(repeated, original)


def test_training_does_not_change_the_callers_random_state(toy_run: ToyRun) -> None:
    config.EPOCHS = 1
    before = torch.get_rng_state()
    _students(toy_run)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_step_changes_the_teacher(toy_run: ToyRun, teacher: nn.Module) -> None:
    config.EPOCHS = 1
    before = kd.weights_bytes(teacher)
    loaders = main.prepare_distillation_data(teacher, *toy_run.data[:2], *toy_run.data[3:5])
    assert kd.weights_bytes(teacher) == before
    students = main.train_students(teacher, *toy_run.data[:2], *loaders)
    assert kd.weights_bytes(teacher) == before
    main.evaluate_all_models(teacher, *students[:2], toy_run.data.test_loader)
    assert kd.weights_bytes(teacher) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training for module in teacher.modules())


def test_the_logits_of_an_image_do_not_depend_on_the_batch(toy_run: ToyRun, teacher: nn.Module) -> None:
    alone = kd.predict(teacher, [_batch(toy_run.data.test_dataset, [5])]).logits
    among = kd.predict(teacher, [_batch(toy_run.data.test_dataset, [5, 6, 7])]).logits
    torch.testing.assert_close(alone[0], among[0])


def test_both_students_start_from_the_same_weights(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    config.EPOCHS = 1
    starts: dict[str, tuple[int, bytes]] = {}
    train_model = train.train_model

    def spy(title: str, model: nn.Module, *args: Any) -> kd.History:
        starts[title] = (id(model), kd.weights_bytes(model))
        return train_model(title, model, *args)

    monkeypatch.setattr(main, "train_model", spy)
    _students(toy_run)
    assert starts["control"][1] == starts["distilled"][1]
    assert starts["control"][0] != starts["distilled"][0]


def test_both_students_see_the_same_batches_in_the_same_shuffled_order(toy_run: ToyRun) -> None:
    control, distillation = _one_pass(toy_run.data.train_loader), _one_pass(toy_run.loaders.train_distill_loader)
    assert len(control) == len(distillation) == 3
    for (images, labels), (same_images, same_labels, _) in zip(control, distillation, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    in_order = torch.stack([toy_run.data.train_subset[i][0] for i in range(len(control[0][0]))])
    assert not torch.equal(control[0][0], in_order)
    assert not torch.equal(control[0][0], _one_pass(toy_run.data.train_loader, seed=4)[0][0])


def test_in_a_shuffled_loader_each_row_of_logits_belongs_to_its_image(
    toy_run: ToyRun,
) -> None:
    for loader in toy_run.loaders:
        for images, labels, cached in _one_pass(loader):
            live = kd.predict(toy_run.teacher.model, [(images, labels)]).logits
            assert cached.dtype == torch.float32
            torch.testing.assert_close(cached, live, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(cached.roll(1, dims=0), live, atol=1e-3)


def test_logits_collected_from_a_shuffled_loader_are_refused(toy_run: ToyRun) -> None:
    shuffled = kd.predict(toy_run.teacher.model, toy_run.data.train_loader)
    with pytest.raises(ValueError, match="do not match their samples"):
        kd.verify_logits(toy_run.teacher.model, toy_run.data.train_subset, shuffled)


def test_the_pipeline_refuses_shuffled_logits(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's verification detects logits in a shuffled order."""

    def collect_shuffled(teacher: nn.Module, dataset: Any, **_: Any) -> kd.Predictions:
        return kd.predict(teacher, toy_run.data.train_loader)

    monkeypatch.setattr(kd.teachers.cache, "collect_logits", collect_shuffled)
    with pytest.raises(ValueError, match="do not match their samples"):
        main.prepare_distillation_data(toy_run.teacher.model, *toy_run.data[:2], *toy_run.data[3:5])


def test_logits_of_another_teacher_are_refused(toy_run: ToyRun) -> None:
    cached = kd.collect_logits(toy_run.teacher.model, toy_run.data.train_subset)
    changed = copy.deepcopy(toy_run.teacher.model)
    with torch.no_grad():
        next(changed.parameters()).add_(0.1)
    kd.verify_logits(toy_run.teacher.model, toy_run.data.train_subset, cached)
    with pytest.raises(ValueError, match="do not match their samples"):
        kd.verify_logits(changed, toy_run.data.train_subset, cached)


def _batch(dataset: Any, rows: list[int]) -> tuple[Tensor, Tensor]:
    return torch.stack([dataset[row][0] for row in rows]), torch.tensor([dataset[row][1] for row in rows])
