"""CRD: formula of the loss, memory rows by sample id, and negatives from other classes only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor

import kd
from kd.losses import crd_loss
from kd.losses.contrastive import log_partition
from kd.methods.crd import MemoryBank, _get_ids
from kd.storage.snapshots import Snapshots
from kd.training.optimizers import adam
from tests.features_in_numpy import crd
from tests.methods.test_feature import WIDE, Cut, build_models, build_objective, fit, get_first_batch, make_distill_data

seeds = st.integers(0, 2**31)


def make_unit_rows(seed: int, *shape: int) -> Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=-1)


def make_embeddings(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    anchors, positives = make_unit_rows(seed, 2, 4, 6)
    return anchors, positives, make_unit_rows(seed + 1, 7, 6), torch.arange(28).view(4, 7) % 3 > 0


@settings(max_examples=20)
@given(seeds, st.sampled_from([0.07, 0.5, 2.0]))
def test_the_loss_equals_the_reference(seed: int, temperature: float) -> None:
    tensors = make_embeddings(seed)
    expected = crd(*(tensor.numpy() for tensor in tensors), temperature=temperature)
    assert crd_loss(*tensors, temperature=temperature).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("dimensions", "temperature"), [(128, 0.07), (8, 0.3), (2, 1.0)])
def test_the_partition_is_the_mean_over_random_directions(dimensions: int, temperature: float) -> None:
    cosines = make_unit_rows(0, 2000, dimensions) @ make_unit_rows(1, 2000, dimensions).T
    measured = (cosines / temperature).exp().mean().log().item()
    assert log_partition(dimensions, temperature) == pytest.approx(measured, abs=0.01)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0, 100.0])
def test_the_partition_equals_the_von_mises_fisher_normalisation(temperature: float) -> None:
    for dimensions in (1, 2, 3, 16, 128):
        order, kappa = dimensions / 2 - 1, 1 / temperature
        log_bessel = np.log(special.ive(order, kappa)) + kappa  # exponentially scaled, because iv overflows
        expected = special.gammaln(order + 1) + order * np.log(2 / kappa) + log_bessel
        assert log_partition(dimensions, temperature) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_ids_below_0_are_refused() -> None:
    batch = torch.rand(2, 1, 24, 24), torch.tensor([0, 1]), torch.tensor([-1, 0])
    with pytest.raises(ValueError, match=r"int64 \[B\] from 0"):
        _get_ids(batch)


def test_only_the_anchor_gets_a_gradient_and_a_better_pair_has_a_lower_loss() -> None:
    anchors, positives, negatives, allowed = (tensor.clone() for tensor in make_embeddings(0))
    for rows in (anchors, positives, negatives):
        rows.requires_grad_()
    loss = crd_loss(anchors, positives, negatives, allowed, temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert positives.grad is None
    assert negatives.grad is None
    assert anchors.grad is not None
    assert crd_loss(anchors, anchors, negatives, allowed, temperature=0.5).item() < loss.item()
    assert crd_loss(anchors, positives, -anchors[:1].expand(7, 6), allowed, temperature=0.5).item() != loss.item()


def test_the_loss_is_finite_at_any_temperature_and_unchanged_by_autocast() -> None:
    anchors, positives, negatives, allowed = make_embeddings(0)
    single = anchors.float().requires_grad_(), positives.float(), negatives.float(), allowed
    for temperature in (1e-4, 0.07, 1e4):
        loss = crd_loss(*single, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, single[0])
        assert math.isfinite(loss.item())
        assert bool(gradient.isfinite().all())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = crd_loss(*single, temperature=0.07)
    assert torch.equal(inside, crd_loss(*single, temperature=0.07))
    none = negatives[:0], allowed[:, :0]
    assert math.isfinite(crd_loss(anchors, positives, *none, temperature=0.07).item())


def test_incompatible_embeddings_are_refused() -> None:
    anchors, positives, negatives, allowed = make_embeddings(0)
    with pytest.raises(ValueError, match=r"Got \[4, 6\], \[4, 6\] and \[7, 5\]"):
        crd_loss(anchors, positives, negatives[:, :5], allowed, temperature=0.07)
    with pytest.raises(ValueError, match=r"allowed must be of shape \[4, 7\]"):
        crd_loss(anchors, positives, negatives, allowed.T, temperature=0.07)
    with pytest.raises(ValueError, match="temperature must be"):
        crd_loss(anchors, positives, negatives, allowed, temperature=0)
    for setting, value in {"momentum": 1.0, "negatives": 0, "dim": 0}.items():
        with pytest.raises(ValueError, match=rf"{setting}.* must be"):
            build_objective("crd", *build_models(), **{setting: value})


def test_batches_must_contain_sample_ids() -> None:
    student, teacher = build_models()
    objective = build_objective("crd", student, teacher)
    for batch in (get_first_batch()[:2], get_first_batch()[:3]):
        with pytest.raises(ValueError, match=r"kd\.DistillDataset\(dataset, logits, ids=True\)"):
            objective(student, batch)


def test_after_an_epoch_each_sample_has_a_unit_row_under_its_id() -> None:
    memory = {name.removeprefix("objective.memory."): value for name, value in fit("crd", epochs=1).items()}
    assert torch.equal(memory["labels"], torch.arange(48) % 4)
    assert memory["rows"].shape == (2, 48, 128)
    torch.testing.assert_close(memory["rows"].norm(dim=2), torch.ones(2, 48))


def test_the_positive_of_a_sample_is_its_row_and_the_memory_moves_by_the_momentum() -> None:
    memory = MemoryBank(dim=6, momentum=0.25)
    ids, labels = torch.tensor([5, 2]), torch.tensor([1, 0])
    now, later = make_unit_rows(0, 2, 2, 6).float(), make_unit_rows(1, 2, 2, 6).float()
    memory.add_new(ids, labels, now)
    assert memory.labels.tolist() == [-1, -1, 0, -1, -1, 1]
    assert sorted(memory.draw(10).tolist()) == [2, 5]  # only ids that have been added
    memory.add_new(ids, labels, later)  # known ids, so nothing changes
    assert torch.equal(memory.rows[:, ids], now)
    memory.update(ids, later)
    torch.testing.assert_close(memory.rows[:, ids], F.normalize(0.25 * now + 0.75 * later, dim=2))
    assert memory.draw(1).tolist() in ([2], [5])


def test_rows_of_the_same_class_are_not_negatives() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("crd", student, teacher)
    images, labels, logits, ids = next(iter(kd.make_loader(make_distill_data(), batch_size=48)))
    objective(student, (images, labels, logits, ids))
    student.eval()
    objective.eval()
    of_class_2 = labels == 2
    batch = (images[of_class_2], labels[of_class_2], logits[of_class_2], ids[of_class_2])

    def loss() -> float:
        return float(objective(student, batch)[1]["feature"].item())

    before = loss()
    objective.memory.rows[:, of_class_2] = -objective.memory.rows[:, of_class_2]
    assert loss() == before
    objective.memory.rows[:, ~of_class_2] = -objective.memory.rows[:, ~of_class_2]
    assert loss() != before


def test_evaluation_does_not_change_the_memory() -> None:
    student, teacher = build_models()
    objective: Any = build_objective("crd", student, teacher)
    objective(student, get_first_batch())
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    student.eval()
    objective.eval()
    images, labels, logits, ids = get_first_batch()
    _, terms = objective(student, (images, labels, logits, ids + 1000))  # ids of another dataset
    assert math.isfinite(terms["feature"].item())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_random_negatives_are_the_same_after_a_resume(tmp_path: Path) -> None:
    whole = fit("crd", negatives=10, dim=8)
    assert not torch.equal(whole["objective.heads.0.weight"], fit("crd", dim=8)["objective.heads.0.weight"])
    with pytest.raises(Cut):
        fit("crd", cut_after=3, snapshots=Snapshots(tmp_path, key="k", interval=0), negatives=10, dim=8)
    resumed = fit("crd", snapshots=Snapshots(tmp_path, key="k", interval=0), negatives=10, dim=8)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_training_reduces_the_distance_between_the_two_embeddings_of_a_sample() -> None:
    student, teacher = build_models(channels=WIDE)
    objective: Any = build_objective("crd", student, teacher, weight=1.0)
    loader = kd.make_loader(make_distill_data(), batch_size=8, shuffle=True)
    optimizer, _ = adam(student, learning_rate=0.003, steps=120, objective=objective)
    history = kd.fit(student, objective, loader, None, optimizer=optimizer, epochs=20, seed=0)
    student_rows, teacher_rows = objective.memory.rows
    same, labels = (student_rows * teacher_rows).sum(dim=1), objective.memory.labels
    others = (student_rows @ teacher_rows.T)[labels.unsqueeze(1) != labels]
    assert same.mean().item() > others.mean().item() + 0.3
    assert history["train_feature"][-1] < history["train_feature"][1]
