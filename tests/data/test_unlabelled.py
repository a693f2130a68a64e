"""Unlabelled samples: they affect only the soft term, their labels are never read, without them nothing changes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import kd
from kd.data.datasets import ArrayDataset, Split, collate
from kd.data.unlabelled import Joined, Unlabelled, repeated
from kd.methods import METHODS, make, require_unlabelled_method
from kd.methods.objectives import supervised_where_labelled
from kd.models.networks import CNN
from kd.teachers.cache import with_unlabelled
from kd.training.batch_metrics import METRICS
from kd.types import UNLABELLED
from tests.conftest import CLASSES, tiny_model

SUPPORTED = sorted(name for name, method in METHODS.items() if method.unlabelled)
UNSUPPORTED = sorted(set(METHODS) - set(SUPPORTED))
ITEMS = 8


def make_batch(seed: int = 0, unlabelled: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images like ``digits``, labels (the first ``unlabelled`` ones hidden), and teacher logits."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (ITEMS,), generator=generator)
    labels[:unlabelled] = UNLABELLED
    images = torch.randn(ITEMS, 1, 6, 6, generator=generator)
    return images, labels, 3 * torch.randn(ITEMS, CLASSES, generator=generator)


def compute_terms(objective: kd.Objective, model: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """The loss terms, then the gradients of their sum."""
    _, terms = objective(model, batch)
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(model.parameters()))
    return [*(term.detach() for term in terms.values()), *gradients]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def distil_labelled(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Plain distillation, written for labelled samples only."""
    output = model(batch[0])
    soft = kd.kd_loss(output, batch[2], temperature=4)
    return output, {"hard": 0.3 * F.cross_entropy(output, batch[1]), "soft": 0.7 * soft}


@given(st.integers(0, 10_000))
def test_with_all_labels_losses_are_batch_means_bit_for_bit(seed: int) -> None:
    model, batch = tiny_model(seed % 7), make_batch(seed)
    assert are_equal(
        compute_terms(kd.distilled(temperature=4, alpha=0.3), model, batch),
        compute_terms(distil_labelled, model, batch),
    )
    assert are_equal(compute_terms(supervised_where_labelled, model, batch), compute_terms(kd.supervised, model, batch))


@given(st.integers(0, 1000), st.integers(1, ITEMS - 1))
def test_the_hard_term_uses_labelled_samples_and_the_soft_term_all(seed: int, unlabelled: int) -> None:
    model, objective = tiny_model(), kd.distilled(temperature=4, alpha=0.3)
    labelled_batch, mixed_batch = make_batch(seed), make_batch(seed, unlabelled)
    _, terms = objective(model, mixed_batch)
    _, all_terms = objective(model, labelled_batch)
    _, labelled_terms = objective(model, tuple(tensor[unlabelled:] for tensor in labelled_batch))
    assert torch.equal(terms["soft"], all_terms["soft"])
    assert terms["hard"].item() == pytest.approx(labelled_terms["hard"].item(), rel=1e-5)


def test_without_labels_only_the_soft_term_remains() -> None:
    model, batch = tiny_model(), make_batch(unlabelled=ITEMS)
    hard, soft, *gradients = compute_terms(kd.distilled(temperature=4, alpha=0.3), model, batch)
    assert hard.item() == 0
    assert soft.item() > 0
    _, _, *soft_gradients = compute_terms(kd.distilled(temperature=4, alpha=0.0), model, make_batch())
    assert all(torch.allclose(a, 0.7 * b, rtol=1e-5, atol=1e-7) for a, b in zip(gradients, soft_gradients, strict=True))


@pytest.mark.parametrize("name", SUPPORTED)
def test_methods_without_labels_train_on_mixed_batches(name: str) -> None:
    student, teacher = tiny_model(0, batch_norm=False), tiny_model(1)
    layers = {"student_layers": "2", "teacher_layers": "2"} if METHODS[name].needs == ("labels", "teacher") else {}
    if name in {"fitnet", "at", "nst", "fsp", "ab", "ft", "vid", "reviewkd", "mgd", "semckd"}:
        indices = "0,1" if name == "fsp" else "0"
        student, teacher, layers = make_cnn(0), make_cnn(1), {"student_layers": indices, "teacher_layers": indices}
    if name == "cat-kd":
        student, teacher, layers = CNN(4, (1, 6, 6), CLASSES).eval(), CNN(4, (1, 6, 6), CLASSES), {}
    objective = make(name, student, teacher, make_batch(), layers)
    for unlabelled in (0, 3, ITEMS):
        hard, method_loss, *gradients = compute_terms(objective, student, make_batch(2, unlabelled))
        assert all(gradient.isfinite().all() for gradient in gradients)
        if name != "mgd":  # hides random channels each time
            assert method_loss == compute_terms(objective, student, make_batch(2))[1]
        assert (hard > 0) == (unlabelled < ITEMS and has_label_weight(name))


def make_cnn(seed: int) -> nn.Module:
    with kd.seeded(seed):
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, CLASSES))


def has_label_weight(name: str) -> bool:
    return METHODS[name].settings.get("alpha", 1) != 0


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_methods_that_read_labels_raise(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs a label for every sample.*: kd, soft-labels, dist"):
        require_unlabelled_method(name)
    model = CNN(4, (1, 6, 6), CLASSES) if name == "sdd" else tiny_model()
    ids = (torch.arange(ITEMS),) if "ids" in METHODS[name].needs else ()
    teacher = copy.deepcopy(model) if name == "sdd" else tiny_model(1)
    objective = make(name, model, teacher, (*make_batch(), *ids))
    with pytest.raises(ValueError, match=r"needs a label for every sample|labels must be within 0 … 3"):
        objective(model, (*make_batch(unlabelled=1), *ids))


def test_the_methods_that_support_unlabelled_data() -> None:
    assert UNSUPPORTED == [
        "crd",
        "dkd",
        "label-smoothing",
        "lskd-dkd",
        "nkd",
        "ofa",
        "rld",
        "sdd",
        "teacher-free",
        "wsld",
    ]
    for name in SUPPORTED:
        require_unlabelled_method(name)
    with pytest.raises(ValueError, match="there is no method 'kdd'"):
        require_unlabelled_method("kdd")


def test_supervised_training_rejects_unlabelled_samples() -> None:
    with pytest.raises(ValueError, match=r"within 0 … 3, the logits' columns\. Got -1 … 3 instead.*distillation"):
        kd.supervised(tiny_model(), make_batch(unlabelled=2))


def distill_data(digits: kd.ImageDataset, hidden: Tensor | None = None) -> kd.DistillDataset:
    """24 labelled and 72 unlabelled images; ``hidden`` replaces the labels of all 96 in the unlabelled dataset."""
    unlabelled = kd.ImageDataset(digits.images, digits.labels if hidden is None else hidden, mean=0.4, std=0.25)
    return with_unlabelled(tiny_model(1), Split(digits, range(24)), Split(unlabelled, range(24, 96)))


def train(dataset: Dataset[Any], objective: kd.Objective) -> tuple[dict[str, Tensor], kd.History]:
    model = tiny_model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = kd.make_loader(dataset, batch_size=8, shuffle=True)
    history = kd.fit(model, objective, loader, None, optimizer=optimizer, epochs=2, seed=0)
    return model.state_dict(), history


def test_hidden_labels_are_never_read(digits: kd.ImageDataset) -> None:
    objective = kd.distilled(temperature=4, alpha=0.3)
    weights, history = train(distill_data(digits), objective)
    for hidden in (digits.labels.flip(0), torch.full((96,), 99)):
        again, same_history = train(distill_data(digits, hidden), objective)
        assert all(torch.equal(weights[name], again[name]) for name in weights)
        assert history == same_history
    labels = Split(digits, range(24))
    cached = kd.collect_logits(tiny_model(1), labels)
    labelled_only, _ = train(kd.DistillDataset(labels, cached.logits), objective)
    assert not torch.equal(weights["1.weight"], labelled_only["1.weight"])


def test_batches_contain_the_requested_items_in_order(digits: kd.ImageDataset) -> None:
    dataset = distill_data(digits)
    images, labels, logits = collate(dataset.__getitems__(range(96)))
    assert labels.tolist() == [*digits.labels[:24].tolist(), *[UNLABELLED] * 72]
    assert torch.equal(logits, kd.collect_logits(tiny_model(1), digits).logits)
    for rows in ([5, 90, 2, 30, -1, 5], [1, 0], [95, 24], [-96]):
        batch = collate(dataset.__getitems__(rows))
        items = collate([dataset[row] for row in rows])
        assert all(torch.equal(a, b) for a, b in zip(batch, items, strict=True))
        assert torch.equal(batch[0], images[rows])
    with pytest.raises(IndexError):
        Joined(digits, digits)[192]


def test_any_dataset_can_be_joined(digits: kd.ImageDataset) -> None:
    images, labels = digits.__getitems__(range(96)).tensors
    subset = Subset(TensorDataset(images, labels), range(96))
    joined = Joined(digits, Unlabelled(subset))
    batch = collate(joined.__getitems__([100, 3, 190]))
    assert torch.equal(batch[0], images[[4, 3, 94]])
    assert batch[1].tolist() == [-1, 3, -1]


def test_inputs_of_another_shape_and_empty_datasets_raise(digits: kd.ImageDataset) -> None:
    larger = ArrayDataset(torch.zeros(3, 1, 7, 7), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"\[1, 6, 6\] of torch.float32\. Got \[1, 7, 7\] of torch.float32 instead"):
        with_unlabelled(tiny_model(), digits, larger)
    for pair in ((digits, Split(digits, [])), (Split(digits, []), digits)):
        with pytest.raises(ValueError, match=r"must be at least 1\. Got 0"):
            with_unlabelled(tiny_model(), *pair)


def test_logits_of_unlabelled_samples_are_verified_against_the_teacher_only(digits: kd.ImageDataset) -> None:
    hidden = Unlabelled(digits)
    cached = kd.collect_logits(tiny_model(1), hidden)
    assert cached.labels.tolist() == [UNLABELLED] * 96
    kd.verify_logits(tiny_model(1), hidden, cached)  # a low accuracy does not matter: there are no labels
    with pytest.raises(ValueError, match="do not match their samples"):
        kd.verify_logits(tiny_model(1), hidden, cached._replace(logits=cached.logits.roll(1, 0)))
    mixed = Joined(digits, hidden)
    kd.verify_logits(tiny_model(1), mixed, kd.collect_logits(tiny_model(1), mixed), sample=64)


def test_the_verified_accuracy_counts_labelled_rows_only(digits: kd.ImageDataset) -> None:
    """Half of the rows have no label; a teacher that is always right has an accuracy of 100 %, not 50 %."""
    labels = kd.collect_logits(tiny_model(1), digits).logits.argmax(dim=1)
    right = kd.ImageDataset(digits.images, labels, mean=0.4, std=0.25)
    mixed = Joined(right, Unlabelled(right))
    cached = kd.collect_logits(tiny_model(1), mixed)
    kd.verify_logits(tiny_model(1), mixed, cached, sample=64)
    sampled = np.random.default_rng(0).permutation(192)[:64]
    unseen = torch.ones(192, 1, dtype=torch.bool)
    unseen[sampled] = False
    # The wrong rows are not sampled, so only the accuracy reveals them.
    wrong = torch.where(unseen, -cached.logits, cached.logits)
    with pytest.raises(ValueError, match=r"\d\d\.\d% on all cached rows, but 100\.0% for the live teacher on 24"):
        kd.verify_logits(tiny_model(1), mixed, cached._replace(logits=wrong), sample=64)


def test_metrics_count_each_labelled_sample_once(digits: kd.ImageDataset) -> None:
    labelled = Split(digits, range(5))
    mixed = Joined(labelled, Unlabelled(digits))
    for order in (range(101), [*range(5, 101), *range(5)], [*range(0, 101, 3), *range(1, 101, 3), *range(2, 101, 3)]):
        loader = kd.make_loader(Split(mixed, order), batch_size=8)
        means = kd.evaluate(tiny_model(), supervised_where_labelled, loader)
        labelled_means = kd.evaluate(tiny_model(), kd.supervised, kd.make_loader(labelled, batch_size=5))
        assert {name: means[name] for name in METRICS} == pytest.approx(
            {name: labelled_means[name] for name in METRICS}
        )


def test_a_metric_receives_labelled_samples_only(digits: kd.ImageDataset) -> None:
    seen: list[list[int]] = []

    def metric(output: Tensor, batch: kd.Batch) -> Tensor:
        assert [len(output)] * 3 == [len(tensor) for tensor in batch]
        seen.append(batch[2][:, 0].int().tolist())
        return output.sum()

    mixed = Split(Joined(Split(digits, range(3)), Unlabelled(digits)), [0, 5, 1, 6, 7, 8, 9, 2])
    distill_data = kd.DistillDataset(mixed, torch.arange(8.0)[:, None].expand(8, 10))
    loader = kd.make_loader(distill_data, batch_size=3)
    kd.evaluate(tiny_model(), supervised_where_labelled, loader, metrics={"mine": metric})
    assert seen == [[0, 2], [7]]


def test_without_labels_metrics_are_nan(digits: kd.ImageDataset) -> None:
    means = kd.evaluate(tiny_model(), supervised_where_labelled, kd.make_loader(Unlabelled(digits), batch_size=8))
    assert means["loss"] == 0
    assert math.isnan(means["acc"])
    assert math.isnan(means["ce"])


def test_repeated_cycles_through_the_samples(digits: kd.ImageDataset) -> None:
    three = Split(digits, [4, 8, 9])
    again = repeated(three, 8)
    assert [int(again[row][1]) for row in range(len(again))] == [int(three[row % 3][1]) for row in range(8)]
    assert len(repeated(TensorDataset(torch.zeros(3, 2), torch.zeros(3)), 5)) == 5
    with pytest.raises(ValueError, match=r"items must be at least 3.* Got 2 instead"):
        repeated(three, 2)
