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
from tests.methods.test_feature import Cut, distill_data, first, fit, made, pair

seeds = st.integers(0, 2**31)


def unit(seed: int, *shape: int) -> Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=-1)


def contrasted(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    anchors, positives = unit(seed, 2, 4, 6)
    return anchors, positives, unit(seed + 1, 7, 6), torch.arange(28).view(4, 7) % 3 > 0


@settings(max_examples=20)
@given(seeds, st.sampled_from([0.07, 0.5, 2.0]))
def test_the_loss_is_the_written_formula(seed: int, temperature: float) -> None:
    tensors = contrasted(seed)
    written = crd(*(tensor.numpy() for tensor in tensors), temperature=temperature)
    assert crd_loss(*tensors, temperature=temperature).item() == pytest.approx(written, rel=1e-6)


@pytest.mark.parametrize(("dimensions", "temperature"), [(128, 0.07), (8, 0.3), (2, 1.0)])
def test_what_is_taken_for_the_partition_is_its_mean_over_random_directions(
    dimensions: int, temperature: float
) -> None:
    cosines = unit(0, 2000, dimensions) @ unit(1, 2000, dimensions).T
    measured = (cosines / temperature).exp().mean().log().item()
    assert log_partition(dimensions, temperature) == pytest.approx(measured, abs=0.01)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0, 100.0])
def test_the_partition_is_that_of_the_von_mises_fisher_distribution(temperature: float) -> None:
    for dimensions in (1, 2, 3, 16, 128):
        order, kappa = dimensions / 2 - 1, 1 / temperature
        log_bessel = np.log(special.ive(order, kappa)) + kappa  # scaled, where it would overflow
        written = special.gammaln(order + 1) + order * np.log(2 / kappa) + log_bessel
        assert log_partition(dimensions, temperature) == pytest.approx(written, rel=1e-9, abs=1e-12)


def test_ids_below_0_are_refused() -> None:
    batch = torch.rand(2, 1, 24, 24), torch.tensor([0, 1]), torch.tensor([-1, 0])
    with pytest.raises(ValueError, match=r"int64 \[B\] from 0"):
        _get_ids(batch)


def test_only_the_anchor_learns_and_a_better_pair_costs_less() -> None:
    anchors, positives, negatives, allowed = (tensor.clone() for tensor in contrasted(0))
    for rows in (anchors, positives, negatives):
        rows.requires_grad_()
    loss = crd_loss(anchors, positives, negatives, allowed, temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert positives.grad is None
    assert negatives.grad is None
    assert anchors.grad is not None
    assert crd_loss(anchors, anchors, negatives, allowed, temperature=0.5).item() < loss.item()
    assert crd_loss(anchors, positives, -anchors[:1].expand(7, 6), allowed, temperature=0.5).item() != loss.item()


def test_finite_at_any_temperature_and_the_same_under_half_precision() -> None:
    anchors, positives, negatives, allowed = contrasted(0)
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


def test_what_cannot_be_contrasted_is_refused() -> None:
    anchors, positives, negatives, allowed = contrasted(0)
    with pytest.raises(ValueError, match=r"Got \[4, 6\], \[4, 6\] and \[7, 5\]"):
        crd_loss(anchors, positives, negatives[:, :5], allowed, temperature=0.07)
    with pytest.raises(ValueError, match=r"allowed must be \[4, 7\]"):
        crd_loss(anchors, positives, negatives, allowed.T, temperature=0.07)
    with pytest.raises(ValueError, match="temperature must be"):
        crd_loss(anchors, positives, negatives, allowed, temperature=0)
    for setting, value in {"momentum": 1.0, "negatives": 0, "dim": 0}.items():
        with pytest.raises(ValueError, match=rf"{setting}.* must be"):
            made("crd", *pair(), **{setting: value})


def test_batches_must_say_which_samples_they_hold() -> None:
    student, teacher = pair()
    objective = made("crd", student, teacher)
    for batch in (first()[:2], first()[:3]):
        with pytest.raises(ValueError, match=r"kd\.DistillDataset\(dataset, logits, ids=True\)"):
            objective(student, batch)


def test_after_an_epoch_each_sample_has_a_row_of_length_one_under_its_own_id() -> None:
    kept = {name.removeprefix("objective.memory."): value for name, value in fit("crd", epochs=1).items()}
    assert torch.equal(kept["labels"], torch.arange(48) % 4)
    assert kept["rows"].shape == (2, 48, 128)
    torch.testing.assert_close(kept["rows"].norm(dim=2), torch.ones(2, 48))


def test_the_positive_of_a_sample_is_its_own_row_and_the_memory_moves_by_the_momentum() -> None:
    memory = MemoryBank(dim=6, momentum=0.25)
    ids, labels = torch.tensor([5, 2]), torch.tensor([1, 0])
    now, later = unit(0, 2, 2, 6).float(), unit(1, 2, 2, 6).float()
    memory.add_new(ids, labels, now)
    assert memory.labels.tolist() == [-1, -1, 0, -1, -1, 1]
    assert sorted(memory.draw(10).tolist()) == [2, 5]  # samples never seen are not drawn
    memory.add_new(ids, labels, later)  # not the first time
    assert torch.equal(memory.rows[:, ids], now)
    memory.update(ids, later)
    torch.testing.assert_close(memory.rows[:, ids], F.normalize(0.25 * now + 0.75 * later, dim=2))
    assert memory.draw(1).tolist() in ([2], [5])


def test_rows_of_its_own_class_are_no_negatives_of_a_sample() -> None:
    student, teacher = pair()
    objective: Any = made("crd", student, teacher)
    images, labels, logits, ids = next(iter(kd.make_loader(distill_data(), batch_size=48)))
    objective(student, (images, labels, logits, ids))
    student.eval()
    objective.eval()
    one = labels == 2
    batch = (images[one], labels[one], logits[one], ids[one])

    def loss() -> float:
        return float(objective(student, batch)[1]["feature"].item())

    before = loss()
    objective.memory.rows[:, one] = -objective.memory.rows[:, one]
    assert loss() == before
    objective.memory.rows[:, ~one] = -objective.memory.rows[:, ~one]
    assert loss() != before


def test_what_is_only_measured_leaves_the_memory_as_it_is() -> None:
    student, teacher = pair()
    objective: Any = made("crd", student, teacher)
    objective(student, first())
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    student.eval()
    objective.eval()
    images, labels, logits, ids = first()
    _, terms = objective(student, (images, labels, logits, ids + 1000))  # ids of another dataset
    assert math.isfinite(terms["feature"].item())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_negatives_drawn_at_random_are_the_same_after_an_interruption(tmp_path: Path) -> None:
    whole = fit("crd", negatives=10, dim=8)
    assert not torch.equal(whole["objective.heads.0.weight"], fit("crd", dim=8)["objective.heads.0.weight"])
    with pytest.raises(Cut):
        fit("crd", cut_after=3, snapshots=Snapshots(tmp_path, key="k", interval=0), negatives=10, dim=8)
    resumed = fit("crd", snapshots=Snapshots(tmp_path, key="k", interval=0), negatives=10, dim=8)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_training_brings_the_two_embeddings_of_a_sample_together() -> None:
    student, teacher = pair()
    objective: Any = made("crd", student, teacher, weight=1.0)
    loader = kd.make_loader(distill_data(), batch_size=8, shuffle=True)
    optimizer, _ = adam(student, learning_rate=0.003, steps=120, objective=objective)
    history = kd.fit(student, objective, loader, None, optimizer=optimizer, epochs=20, seed=0)
    ours, theirs = objective.memory.rows
    own, labels = (ours * theirs).sum(dim=1), objective.memory.labels
    others = (ours @ theirs.T)[labels.unsqueeze(1) != labels]
    assert own.mean().item() > others.mean().item() + 0.3
    assert history["train_feature"][-1] < history["train_feature"][1]
