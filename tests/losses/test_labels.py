"""One rule for labels on every path: a class, or −1 where samples may be unlabelled; nothing else is skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kd
from kd.data.datasets import ArrayDataset
from kd.data.sources import open_source, split_source
from kd.evaluation.metrics import confusion_matrix
from kd.losses import dkd_loss, sdd_loss
from kd.losses.labels import label_loss
from kd.methods import METHODS, try_method
from kd.methods.objectives import smoothed
from kd.models.networks import CNN
from kd.teachers.ensemble import confidences
from kd.training.trial import try_training

CLASSES, SHAPE = 3, (1, 8, 8)
GOOD = torch.arange(12) % CLASSES
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LOGITS = torch.rand(12, *SHAPE, generator=GENERATOR), torch.randn(12, CLASSES, generator=GENERATOR)


def with_label(value: int) -> Tensor:
    return GOOD.index_fill(0, torch.tensor(5), value)


NO_CLASS = [-100, -2, CLASSES, 255, 10**9, torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max]
OTHER_KINDS = {
    "floats": GOOD.float(),
    "fractions": GOOD + 0.5,
    "booleans": GOOD.bool(),
    "column": GOOD[:, None],
    "one-hot": F.one_hot(GOOD),
    "multi-label": torch.ones(12, CLASSES),
}


def student() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CNN(2, SHAPE, CLASSES)


def fit(objective: kd.Objective, *columns: Tensor) -> nn.Module:
    model = student()
    loader = DataLoader(TensorDataset(*columns), batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kd.fit(model, objective, loader, None, optimizer=optimizer, epochs=1, seed=0)
    return model


def evaluate(objective: kd.Objective, *columns: Tensor) -> dict[str, float]:
    return kd.evaluate(student(), objective, DataLoader(TensorDataset(*columns), batch_size=4))


def verify(labels: Tensor) -> None:
    dataset = TensorDataset(IMAGES, labels)
    kd.verify_logits(student(), dataset, kd.collect_logits(student(), dataset))


DISTILLED = kd.distilled(temperature=2, alpha=0.5)
PATHS: dict[str, Callable[[Tensor], object]] = {
    "fit": lambda labels: fit(kd.supervised, IMAGES, labels),
    "evaluate": lambda labels: evaluate(kd.supervised, IMAGES, labels),
    "smoothed": lambda labels: fit(smoothed(smoothing=0.1), IMAGES, labels),
    "distilled": lambda labels: fit(DISTILLED, IMAGES, labels, LOGITS),
    "live teacher": lambda labels: fit(kd.live_teacher(student(), DISTILLED), IMAGES, labels),
    "DistillDataset": lambda labels: fit(
        DISTILLED, *next(iter(kd.make_loader(kd.DistillDataset(TensorDataset(IMAGES, labels), LOGITS), batch_size=12)))
    ),
    "trial": lambda labels: try_training("student", student(), (IMAGES[4:6], labels[4:6])),
    "loss": lambda labels: label_loss(LOGITS, labels),
    "dkd": lambda labels: dkd_loss(LOGITS, LOGITS, labels, temperature=1, alpha=1, beta=1),
    "sdd": lambda labels: sdd_loss(LOGITS[:, None], LOGITS[:, None], labels, temperature=1),
    "ensemble": lambda labels: confidences([LOGITS, LOGITS], labels),
    "confusions": lambda labels: confusion_matrix(LOGITS, labels),
    "verify": verify,
}


@pytest.mark.parametrize("label", NO_CLASS)
@pytest.mark.parametrize("path", PATHS)
def test_a_label_that_is_no_class_raises_on_every_path(path: str, label: int) -> None:
    with pytest.raises(ValueError, match=rf"labels must be within 0 … 2, .*({label} …|… {label})"):
        PATHS[path](with_label(label))
    PATHS[path](GOOD)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_skips_a_label(name: str) -> None:
    teacher = CNN(2, SHAPE, CLASSES)
    try_method(name, student(), teacher, (IMAGES, GOOD))
    for label in (-100, CLASSES):
        with pytest.raises(ValueError, match="labels must be within 0 … 2"):
            try_method(name, student(), teacher, (IMAGES, with_label(label)))


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("path", [path for path in PATHS if path != "confusions"])
def test_labels_of_another_kind_are_refused_by_name(path: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"labels must be int64, one for each of .*(not supported|labels\.long)"):
        PATHS[path](OTHER_KINDS[kind])


def test_strings_are_refused_by_name() -> None:
    samples = [(image, "cat") for image in IMAGES]
    model = student()
    with pytest.raises(ValueError, match=r"labels must be a tensor of integers .*Got a (tuple|list)"):
        kd.evaluate(model, kd.supervised, DataLoader(samples, batch_size=4))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_integers_of_any_width_train_the_same_weights(dtype: torch.dtype) -> None:
    for objective, more in ((kd.supervised, ()), (DISTILLED, (LOGITS,))):
        expected = kd.weights_bytes(fit(objective, IMAGES, GOOD, *more))
        assert kd.weights_bytes(fit(objective, IMAGES, GOOD.to(dtype), *more)) == expected
    assert kd.collect_logits(student(), TensorDataset(IMAGES, GOOD.to(dtype))).labels.dtype == torch.int64


def test_unlabelled_samples_count_in_distillation_only() -> None:
    unlabelled = with_label(-1)
    labelled = unlabelled >= 0
    expected = label_loss(LOGITS[labelled], GOOD[labelled])
    torch.testing.assert_close(label_loss(LOGITS, unlabelled, unlabelled=True), expected)
    fit(DISTILLED, IMAGES, unlabelled, LOGITS)
    for path in ("fit", "evaluate", "smoothed", "loss"):
        with pytest.raises(ValueError, match=r"Unlabelled samples \(-1\) need distillation"):
            PATHS[path](unlabelled)


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((12, 5, CLASSES), GOOD), ((12, 5, CLASSES), torch.zeros(12, 5).long()), ((12, 1), GOOD.float()), ((12,), GOOD)],
)
def test_outputs_that_are_not_one_row_of_logits_per_sample_are_refused_by_name(
    shape: tuple[int, ...], labels: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"logits must be \[B, K\].*sequences must return one row.*for regression"):
        label_loss(torch.zeros(shape), labels)


def test_a_label_that_torch_skips_is_refused_when_a_dataset_is_made() -> None:
    with pytest.raises(ValueError, match=r"labels must be classes from 0, or -1 .*Got -100"):
        ArrayDataset(IMAGES, with_label(-100))
    ArrayDataset(IMAGES, with_label(-1))


@pytest.mark.parametrize("label", [-100, -1, 10**9])
def test_a_python_file_with_a_label_that_is_no_class_is_refused(tmp_path: Path, label: int) -> None:
    file = tmp_path / "data.py"
    file.write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        f"def load():\n    labels = torch.arange(12) % 3\n    labels[5] = {label}\n"
        "    data = TensorDataset(torch.rand(12, 4), labels)\n    return data, data\n"
    )
    with pytest.raises(ValueError, match=r"labels (of train must be within 0|must number the classes)"):
        split_source(open_source(file))


@pytest.mark.parametrize("y", [np.array([0.5, 1.5] * 6), np.eye(2, dtype=int)[np.arange(12) % 2]])
def test_the_classifier_refuses_regression_and_multi_label_targets(y: Any) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=r"Unknown label type|y should be a 1d array"):
        kd.DistilledClassifier(epochs=1).fit(np.random.default_rng(0).normal(size=(12, 3)), y)


def test_the_classifier_takes_any_number_as_a_class() -> None:
    X, y = np.random.default_rng(0).normal(size=(12, 3)), np.array([-100, -1] * 6)
    assert set(kd.DistilledClassifier(epochs=1, random_state=0).fit(X, y).predict(X)) <= {-100, -1}
