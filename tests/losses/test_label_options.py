"""Class weights, label smoothing and probabilities as labels: those of torch.nn.CrossEntropyLoss, in every method."""

from __future__ import annotations

import math

import cloudpickle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd.losses.labels import balanced_weights, label_loss, mean_where_labelled
from kd.methods import METHODS, make
from kd.methods.objectives import smoothed, supervised_where_labelled, with_label_options
from kd.models.networks import CNN
from kd.training.batch_metrics import METRICS
from tests.conftest import CLASSES, tiny_model
from tests.methods.test_feature import SHAPE

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.5])
NAMES = tuple("abcd")
options = st.tuples(st.sampled_from([None, WEIGHTS]), st.sampled_from([0.0, 0.1, 0.7]))


def random_logits(seed: int, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [B, 4], labels [B] and probabilities [B, 4]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, 4, generator=generator)
    return logits, torch.randint(4, (size,), generator=generator), torch.rand(size, 4, generator=generator).softmax(1)


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@given(seed=st.integers(0, 1000), option=options, mixed=st.booleans(), size=st.integers(1, 9))
def test_loss_and_gradient_equal_torchs_cross_entropy_loss_bit_for_bit(
    seed: int, option: tuple[Tensor | None, float], mixed: bool, size: int
) -> None:
    weight, smoothing = option
    logits, labels, probabilities = random_logits(seed, size)
    logits.requires_grad_()
    targets = probabilities if mixed else labels
    expected = value_and_gradient(nn.CrossEntropyLoss(weight, label_smoothing=smoothing)(logits, targets), logits)
    for loss in (label_loss, mean_where_labelled):
        found = value_and_gradient(loss(logits, targets, weight=weight, label_smoothing=smoothing), logits)
        assert all(map(torch.equal, found, expected))


@given(seed=st.integers(0, 1000), option=options)
def test_an_unlabelled_sample_contributes_nothing(seed: int, option: tuple[Tensor | None, float]) -> None:
    weight, smoothing = option
    logits, labels, _ = random_logits(seed)
    labels[[1, 4]] = -1
    kept = labels >= 0
    mean = mean_where_labelled(logits, labels, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(mean, label_loss(logits[kept], labels[kept], weight=weight, label_smoothing=smoothing))
    logits.requires_grad_()
    none = mean_where_labelled(logits, torch.full_like(labels, -1), weight=weight, label_smoothing=smoothing)
    value, gradient = value_and_gradient(none, logits)
    assert float(value) == 0
    assert not gradient.any()  # NaN would count as true


def test_a_weight_of_2_equals_a_second_copy_of_each_item_of_the_class() -> None:
    logits, labels, _ = random_logits(0)
    twice = torch.cat([torch.arange(8), (labels == 1).nonzero().flatten()])
    doubled = label_loss(logits, labels, weight=torch.tensor([1.0, 2.0, 1.0, 1.0]))
    torch.testing.assert_close(doubled, label_loss(logits[twice], labels[twice]))
    assert float(doubled) != float(label_loss(logits, labels))


def test_balanced_weights_give_each_class_the_same_total_and_a_mean_of_1() -> None:
    labels = torch.tensor([0] * 1 + [1] * 2 + [2] * 5 + [3] * 12 + [-1] * 7)
    weights = balanced_weights(labels, NAMES)
    torch.testing.assert_close(weights * torch.tensor([1, 2, 5, 12]), torch.full((4,), 5.0))
    assert weights.dtype == torch.float32
    assert torch.equal(balanced_weights(torch.arange(12) % 4, NAMES), torch.ones(4))


def test_a_class_without_items_cannot_be_balanced() -> None:
    with pytest.raises(ValueError, match=r"classes without training samples must be none .*Got 'b, d' instead"):
        balanced_weights(torch.tensor([0, 2]), NAMES)


def test_balanced_weights_of_balanced_data_train_the_same_weights(digits: kd.ImageDataset) -> None:
    weights = balanced_weights(digits.labels, NAMES)
    trained = []
    for objective in (kd.supervised, with_label_options(kd.supervised, class_weights=weights)):
        model = tiny_model()
        loader = kd.make_loader(digits, batch_size=32, shuffle=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kd.fit(model, objective, loader, loader, optimizer=optimizer, epochs=2, seed=0)
        trained.append(kd.weights_bytes(model))
    assert trained[0] == trained[1]


def methods_batch(name: str) -> tuple[nn.Module, kd.Objective, kd.Batch]:
    with kd.seeded(0):
        student, teacher = CNN(4, SHAPE, CLASSES), CNN(4, SHAPE, CLASSES)
        images, logits = torch.rand(8, *SHAPE), torch.randn(8, CLASSES)
        objective = make(name, student, teacher, (images, torch.arange(8) % CLASSES, logits, torch.arange(8)))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    further = (logits,) if "logits" in METHODS[name].needs else ()
    ids = (torch.arange(8),) if "ids" in METHODS[name].needs else ()
    return student, objective, (images, labels, *further, *ids)


@pytest.mark.parametrize("name", METHODS)
def test_the_options_change_the_hard_term_of_every_method_and_no_other(name: str) -> None:
    student, objective, batch = methods_batch(name)
    if isinstance(objective, nn.Module):
        objective.eval()
    output, plain = objective(student, batch)
    share = plain["hard"] / F.cross_entropy(output, batch[1], label_smoothing=0.1 * (name == "label-smoothing"))
    weighted = with_label_options(objective, class_weights=WEIGHTS, label_smoothing=0.3)
    _, terms = weighted.eval()(student, batch)  # type: ignore[attr-defined]
    smoothing = 0.0 if name == "label-smoothing" else 0.3
    expected = share * F.cross_entropy(output, batch[1], weight=WEIGHTS, label_smoothing=smoothing)
    if name == "label-smoothing":  # its own smoothing, without the weights
        expected = 0.9 * expected - 0.1 * output.log_softmax(1).mean()
    torch.testing.assert_close(terms["hard"], expected)
    assert not torch.equal(terms["hard"], plain["hard"]) or not share
    assert list(terms) == list(plain)
    for term in set(terms) - {"hard"}:
        assert torch.equal(terms[term], plain[term])


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].unlabelled])
def test_every_method_for_mixed_samples_takes_probabilities(name: str) -> None:
    student, objective, (images, labels, *rest) = methods_batch(name)
    if isinstance(objective, nn.Module):
        objective.eval()
    _, indices = objective(student, (images, labels, *rest))
    _, terms = objective(student, (images, F.one_hot(labels, CLASSES).float(), *rest))
    for term in terms:
        torch.testing.assert_close(terms[term], indices[term])


def test_alpha_1_equals_the_control_bit_for_bit_with_weights_and_smoothing() -> None:
    model, logits = tiny_model(), torch.randn(8, CLASSES)
    batch = torch.rand(8, 1, 6, 6), torch.arange(8) % CLASSES
    both = [kd.supervised, kd.distilled(temperature=3, alpha=1)]
    both = [with_label_options(objective, class_weights=WEIGHTS, label_smoothing=0.2) for objective in both]
    control, distilled = (objective(model, (*batch, logits))[1]["hard"] for objective in both)
    found = [torch.autograd.grad(loss, list(model.parameters())) for loss in (control, distilled)]
    assert torch.equal(control, distilled)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("weights", [None, WEIGHTS, torch.tensor([49.0, 1.0, 1.0, 0.5])])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_smoothed_control_learns_as_from_a_uniform_teacher(weights: Tensor | None, mixed: bool) -> None:
    """Also with class weights: the loss differs by a constant, the entropy of the teacher."""
    model, smoothing = tiny_model(), 0.4
    labels = torch.rand(8, CLASSES).softmax(1) if mixed else torch.arange(8) % CLASSES
    batch = torch.rand(8, 1, 6, 6), labels
    arm = with_label_options(smoothed(smoothing=smoothing), class_weights=weights, label_smoothing=0.1)
    taught = with_label_options(kd.distilled(temperature=1, alpha=1 - smoothing), class_weights=weights)
    losses = [
        sum(objective(model, given)[1].values(), torch.zeros(()))
        for objective, given in ((arm, batch), (taught, (*batch, torch.zeros(8, CLASSES))))
    ]
    torch.testing.assert_close(losses[0], losses[1] + smoothing * math.log(CLASSES))
    found = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    torch.testing.assert_close(*found)


def test_the_smoothed_control_without_smoothing_equals_the_control_bit_for_bit() -> None:
    model, batch = tiny_model(), (torch.rand(8, 1, 6, 6), torch.arange(8) % CLASSES)
    both = [with_label_options(o, class_weights=WEIGHTS) for o in (smoothed(smoothing=0), kd.supervised)]
    assert torch.equal(*(objective(model, batch)[1]["hard"] for objective in both))


def test_the_options_end_with_the_objective_even_after_an_error() -> None:
    model, batch = tiny_model(), (torch.rand(8, 1, 6, 6), torch.arange(8) % CLASSES)
    _, before = kd.supervised(model, batch)
    objective = with_label_options(kd.supervised, class_weights=WEIGHTS)
    objective(model, batch)
    with pytest.raises(ValueError, match="labels must be int64"):
        objective(model, (batch[0], batch[1].float()))
    for later in (kd.supervised, supervised_where_labelled):
        assert torch.equal(later(model, batch)[1]["hard"], before["hard"])


def test_objectives_with_options_can_be_sent_to_a_worker() -> None:
    model, batch = tiny_model(), (torch.rand(8, 1, 6, 6), torch.arange(8) % CLASSES)
    for inner in (
        kd.supervised,
        smoothed(smoothing=0.4),
        kd.live_teacher(model, kd.distilled(temperature=2, alpha=0.5)),
    ):
        objective = with_label_options(inner, class_weights=WEIGHTS, label_smoothing=0.1)
        sent = cloudpickle.loads(cloudpickle.dumps(objective))
        assert torch.equal(sent(model, batch)[1]["hard"], objective(model, batch)[1]["hard"])


def test_no_options_leave_the_objective_as_it_is() -> None:
    assert with_label_options(kd.supervised) is kd.supervised


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, -1.0], [1.0, math.inf], [math.nan, 1.0]])
def test_weights_outside_their_range_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="class_weights must be finite and above 0"):
        with_label_options(kd.supervised, class_weights=torch.tensor(weights))


def test_weights_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight must be of shape \[3\]. Got \[4\]"):
        label_loss(torch.zeros(2, 3), torch.tensor([0, 1]), weight=WEIGHTS)


@pytest.mark.parametrize("row", [[0.5, 0.0, 0.0], [1.5, -0.5, 0.0], [1.0, 1.0, 0.0], [math.nan, 1.0, 0.0]])
def test_rows_that_are_no_probabilities_are_refused(row: list[float]) -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], row])
    with pytest.raises(ValueError, match=r"probabilities \[2, 3\] whose rows sum to 1.*not supported"):
        label_loss(torch.zeros(2, 3), labels)


def test_accuracy_of_a_mixed_sample_counts_the_class_with_the_larger_share() -> None:
    output = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    labels = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.1, 0.2, 0.7]])
    assert float(METRICS["acc"](output, (output, labels))) == pytest.approx(2 / 3)
    assert torch.equal(METRICS["ce"](output, (output, labels)), F.cross_entropy(output, labels))
