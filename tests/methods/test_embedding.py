"""Embedding: distances by hand, no gradient across the student's features, and students that learn from the rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kd
from kd.data.datasets import ArrayDataset
from kd.losses import embedding_loss
from kd.losses.embedding import DISTANCES
from kd.methods import make, try_method
from kd.models.build import build
from kd.models.features import capture, detach_at
from kd.models.networks import CNN
from kd.storage.fingerprint import describe, digest
from kd.teachers.fitted_head import attach_head
from kd.teachers.lookup import build_lookup
from kd.training.optimizers import adam
from tests.features_in_numpy import Array, rkd_angle, rkd_distance

INPUTS, WIDTH, CLASSES, SAMPLES = 6, 8, 3, 12
every_distance = pytest.mark.parametrize("distance", DISTANCES)


class Student(nn.Module):
    """A trunk and a head, with a second head for ``auxiliary=True``, which is run last."""

    def __init__(self, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.auxiliary = nn.Linear(WIDTH, CLASSES) if auxiliary else None

    def forward(self, inputs: Tensor) -> Any:
        features = self.hidden(inputs).tanh()
        logits = self.output(features)
        return logits if self.auxiliary is None else {"logits": logits, "auxiliary": self.auxiliary(features)}


def build_models(width: int = WIDTH) -> tuple[Student, nn.Sequential, kd.Batch]:
    """Return a student and a teacher with features of this width, in float64, and a batch."""
    with kd.seeded(0):
        student = Student().double()
        teacher = nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh(), nn.Linear(width, CLASSES)).double()
        inputs = torch.randn(SAMPLES, INPUTS, dtype=torch.float64)
    return student, teacher, (inputs, torch.arange(SAMPLES) % CLASSES)


def cosine(student: Array, teacher: Array) -> float:
    pairs = zip(student, teacher, strict=True)
    return float(np.mean([1 - s @ t / math.sqrt((s @ s) * (t @ t)) for s, t in pairs]))


def by_hand(distance: str, student: Array, teacher: Array) -> float:
    if distance == "rkd":
        return rkd_distance(student, teacher) + 2 * rkd_angle(student, teacher)
    return cosine(student, teacher) if distance == "cosine" else float(((student - teacher) ** 2).mean())


@every_distance
@pytest.mark.parametrize("width", [WIDTH, 5])
def test_the_term_is_the_distance_of_the_projected_features(distance: str, width: int) -> None:
    student, teacher, batch = build_models(width)
    objective: Any = make("embedding", student, teacher, batch, {"distance": distance})
    output, terms = objective(student, batch)
    features, embeddings = student.hidden(batch[0]).tanh(), teacher[:2](batch[0])
    if width != WIDTH and distance != "rkd":
        features = features @ objective.projector.weight.T + objective.projector.bias
    else:
        assert not list(objective.parameters())
    expected = by_hand(distance, features.detach().numpy(), embeddings.detach().numpy())
    assert terms["feature"].item() == pytest.approx(expected, rel=1e-6)
    assert terms["hard"].item() == pytest.approx(F.cross_entropy(student(batch[0]), batch[1]).item())
    torch.testing.assert_close(output, student(batch[0]))


@every_distance
def test_labels_train_only_the_head_and_embeddings_only_the_trunk(distance: str) -> None:
    student, teacher, batch = build_models(5)
    objective = make("embedding", student, teacher, batch, {"distance": distance})
    _, terms = objective(student, batch)
    reached = {
        term: {
            name
            for (name, _), gradient in zip(
                student.named_parameters(),
                torch.autograd.grad(value, list(student.parameters()), allow_unused=True),
                strict=True,
            )
            if gradient is not None and bool(gradient.any())
        }
        for term, value in terms.items()
    }
    assert reached == {
        "hard": {"output.weight", "output.bias"},
        "feature": {"hidden.weight", "hidden.bias"},
    }
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_unlabelled_samples_train_the_trunk() -> None:
    student, teacher, (inputs, labels) = build_models()
    objective = make("embedding", student, teacher, (inputs, labels))
    _, terms = objective(student, (inputs, torch.full_like(labels, -1)))
    _, labelled = objective(student, (inputs, labels))
    assert terms["hard"].item() == 0
    assert torch.equal(terms["feature"], labelled["feature"])


@pytest.mark.parametrize(("distance", "is_same"), [("rkd", True), ("cosine", False), ("mse", False)])
def test_only_rkd_ignores_a_rotation_of_the_embeddings(distance: str, is_same: bool) -> None:
    student, embeddings = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    turned, plain = (embedding_loss(student, rows, distance=distance) for rows in (embeddings @ turn, embeddings))
    assert (turned.item() == pytest.approx(plain.item(), rel=1e-9)) == is_same


def test_cosine_ignores_the_length_of_embeddings_and_is_finite_for_zeros() -> None:
    student, embeddings = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(embedding_loss(student, 7 * embeddings), embedding_loss(student, embeddings))
    zeros = torch.zeros(2, 4, requires_grad=True)
    loss = embedding_loss(zeros, torch.ones(2, 4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 1
    assert zeros.grad is not None
    assert bool(zeros.grad.isfinite().all())


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_the_loss_refuses_what_it_cannot_compare(distance: str) -> None:
    with pytest.raises(ValueError, match=r"same shape \[B, D\].*projector\. Got \[3, 4\] and \[3, 5\]"):
        embedding_loss(torch.zeros(3, 4), torch.zeros(3, 5), distance=distance)
    with pytest.raises(ValueError, match="number of samples in a batch must be at least 1"):
        embedding_loss(torch.zeros(0, 4), torch.zeros(0, 4), distance=distance)
    with pytest.raises(ValueError, match=r"distance must be cosine, mse or rkd\. Got 'l1'"):
        embedding_loss(torch.zeros(3, 4), torch.zeros(3, 4), distance="l1")


def blobs(samples: int, seed: int) -> tuple[ArrayDataset, Tensor]:
    """Return inputs around a centre per class, with labels, and an embedding near another centre of its class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, INPUTS + 5, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(samples) % CLASSES
    values = centres[labels] + 0.3 * torch.randn(samples, INPUTS + 5, generator=generator)
    return ArrayDataset(values[:, :INPUTS].contiguous(), labels), values[:, INPUTS:]


def train(rows: Tensor, training: ArrayDataset, test: ArrayDataset, distance: str) -> tuple[float, float]:
    """Return the accuracy of a student of these embeddings, and the last distance of its features from them."""
    teacher = attach_head(build_lookup([(training, range(len(rows)))], rows), training[0][0][None], classes=CLASSES)
    student = build("mlp:4", input_shape=(INPUTS,), classes=CLASSES, seed=0)
    loader = kd.make_loader(training, batch_size=30, shuffle=True)
    objective = make("embedding", student, teacher, next(iter(loader)), {"distance": distance})
    optimizer, scheduler = adam(student, learning_rate=0.03, steps=15 * len(loader), objective=objective)
    kd.fit(student, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=15, seed=0)
    _, terms = objective(student.eval(), training.__getitems__(range(len(rows))).tensors)
    predictions = kd.predict(student, kd.make_loader(test, batch_size=60))
    return 1 - float(predictions.wrong.float().mean()), terms["feature"].item()


@every_distance
def test_a_student_of_shuffled_embeddings_is_worse(distance: str) -> None:
    (training, rows), (test, _) = blobs(90, 0), blobs(60, 1)
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    accuracy, left = train(rows, training, test, distance)
    _, left_of_shuffled = train(shuffled, training, test, distance)
    assert accuracy > 0.9  # the head is trained too, so the student is a classifier
    assert left < 0.7 * left_of_shuffled


def test_a_network_whose_labels_would_train_its_features_is_refused() -> None:
    _, teacher, (inputs, labels) = build_models()
    batch = inputs, labels
    with pytest.raises(ValueError, match=r"depend on hidden.weight not only through auxiliary:input.*NAME:input"):
        try_method("embedding", Student(auxiliary=True).double(), teacher, batch)
    named = {"student_layers": "output:input"}
    assert try_method("embedding", Student(auxiliary=True).double(), teacher, batch, named) == [
        ("output:input", "2:input")
    ]
    with pytest.raises(ValueError, match=r"labels would train nothing.*no trained parameters behind output"):
        try_method("embedding", Student().double(), teacher, batch, {"student_layers": "output"})
    frozen = Student().double()
    frozen.output.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="labels would train nothing"):
        try_method("embedding", frozen, teacher, batch)


def test_maps_are_averaged_and_what_follows_a_named_layer_is_the_head() -> None:
    with kd.seeded(0):
        student, teacher = CNN(2, (1, 12, 12), CLASSES), CNN(3, (1, 12, 12), CLASSES)
        batch = torch.rand(5, 1, 12, 12), torch.arange(5) % CLASSES
    layers = {"student_layers": "layer2", "teacher_layers": "layer3"}
    objective: Any = make("embedding", student, teacher, batch, layers)
    assert (objective.projector.in_features, objective.projector.out_features) == (4, 12)
    _, terms = objective(student, batch)
    terms["hard"].backward()
    trained = {name.split(".")[0] for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert trained == {"layer3", "output"}


def test_the_distance_is_part_of_the_fingerprint() -> None:
    student, teacher, batch = build_models()
    digests = {
        digest(describe(make("embedding", student, teacher, batch, {"distance": distance}))) for distance in DISTANCES
    }
    assert len(digests) == len(DISTANCES)


def test_a_layer_is_detached_inside_the_block_only() -> None:
    student, _, (inputs, _) = build_models()
    with capture(student, "hidden") as captured, detach_at(student, "hidden"):
        output = student(inputs)
    assert captured["hidden"].requires_grad
    output.sum().backward()
    assert student.hidden.weight.grad is None
    student(inputs).sum().backward()
    assert student.hidden.weight.grad is not None
    with pytest.raises(ValueError, match=r"has no layer 'hiden'\. Did you mean hidden"), detach_at(student, "hiden"):
        pass
    pair = nn.LSTM(INPUTS, WIDTH, batch_first=True).double()
    with (
        pytest.raises(ValueError, match=r"the layer '' must return a tensor\. Got a tuple"),
        detach_at(pair, ""),
    ):
        pair(inputs[None])
