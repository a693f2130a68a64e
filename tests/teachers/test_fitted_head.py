"""Fitted heads: the linear probe is optimal, deterministic, kept as a step, and part of the teacher's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from kd.data.datasets import ArrayDataset
from kd.models.build import build
from kd.storage.run_folder import open_run
from kd.storage.weights import load_weights, weights_bytes
from kd.teachers.embeddings import read_embeddings
from kd.teachers.fitted_head import FittedHead, PenultimateFeatures, attach_head, fit_head
from kd.teachers.lookup import build_lookup

CLASSES = 3


def blobs(samples: int = 120, seed: int = 0, shape: tuple[int, ...] = (6,)) -> ArrayDataset:
    """Inputs around a centre per class, on different scales by feature."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, *shape))
    labels = np.arange(samples) % CLASSES
    scale = 10 ** np.linspace(-2, 2, num=shape[-1])
    inputs = (1.5 * centres[labels] + random.normal(size=(samples, *shape))) * scale + 3
    return ArrayDataset(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels))


class Identity(nn.Module):
    """A network without layers, such as a table of embeddings."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def fitted(model: nn.Module, training: ArrayDataset, validation: ArrayDataset) -> FittedHead:
    teacher = attach_head(model, training[0][0][None], classes=CLASSES)
    fit_head(teacher, training, validation, title="teacher")
    return teacher.eval()


class Gate(nn.Module):
    """Squeeze and excitation, whose last layer is a convolution of single positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        gates: Tensor = self.excite(self.squeeze(inputs.mean((2, 3), keepdim=True)).relu())
        return inputs * gates.sigmoid()


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = inputs + self.branch(inputs)
        return output


class Scaled(nn.Module):
    """A classifier that is followed by a softmax and a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 9)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.scale * self.head(self.body(inputs).relu_())).softmax(1)


class TwoHeads(nn.Module):
    """Returns class scores from the second of its linear layers, which is declared first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 9)
        self.first = nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.last(self.first(inputs).relu())
        return scores


@pytest.mark.parametrize(
    ("model", "shape", "layer", "width"),
    [
        (TwoHeads(), (6,), "last:input", 4),
        (Scaled(), (6,), "head:input", 4),
        (build("cnn:4", input_shape=(1, 8, 8), classes=7, seed=0), (1, 8, 8), "output:input", 16),
        (nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 9, 1), nn.Flatten(2)), (1, 8, 8), "2:input", 5),
        (nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.Linear(4, 4)), (6,), "2:input", 4),
        (Identity(), (6,), "", 6),
        (nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 9, 3), nn.AvgPool2d(4)), (1, 8, 8), "", 9),
        (nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 9, 6), nn.Flatten()), (1, 8, 8), "2:input", 5),
        (nn.Sequential(nn.Conv2d(1, 5, 3), Gate(5), nn.AdaptiveAvgPool2d(1)), (1, 8, 8), "", 5),
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), Residual(4)), (6,), "", 4),
        (nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1)), (1, 8, 8), "", 5),
    ],
)
def test_features_are_the_input_of_the_last_layer_that_runs(
    model: nn.Module, shape: tuple[int, ...], layer: str, width: int
) -> None:
    teacher = attach_head(model, torch.randn(2, *shape), classes=CLASSES).eval()
    assert (teacher.features.layer, teacher.output.in_features) == (layer, width)
    assert teacher(torch.randn(4, *shape)).shape == (4, CLASSES)


def test_features_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"should be a vector per sample.*Got \[2\] for 2 samples"):
        attach_head(nn.Sequential(nn.Flatten(0)), torch.randn(2, 1), classes=CLASSES)


def test_the_head_is_the_optimum_of_penalised_logistic_regression() -> None:
    """Compared with scikit-learn's solver at the same penalty, from which the probabilities differ by rounding."""
    training, validation = blobs(), blobs(seed=1)
    teacher = fitted(Identity(), training, validation)
    x, y = training.inputs.double().numpy(), training.labels.numpy()
    standardised = (x - x.mean(axis=0)) / x.std(axis=0)
    penalties = [10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4]
    held_back = (validation.inputs.double().numpy() - x.mean(axis=0)) / x.std(axis=0)
    probes = [LogisticRegression(C=1 / (p * len(y)), tol=1e-9, max_iter=5000).fit(standardised, y) for p in penalties]
    losses = [-np.log(p.predict_proba(held_back)[np.arange(len(held_back)), validation.labels]).mean() for p in probes]
    best = probes[int(np.argmin(losses))].predict_proba(held_back)
    with torch.no_grad():
        ours = teacher(validation.inputs).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, best, atol=2e-3)
    loss = float(F.cross_entropy(torch.from_numpy(ours).log(), validation.labels))
    assert loss <= min(losses) + 1e-4


def test_scale_shift_and_constant_features_change_no_prediction() -> None:
    training, validation = blobs(), blobs(seed=1)
    plain = fitted(Identity(), training, validation)

    def changed(data: ArrayDataset) -> ArrayDataset:
        inputs = torch.cat([data.inputs * 4 - 7, torch.full((len(data), 2), 5.0)], dim=1)
        return ArrayDataset(inputs, data.labels)

    other = fitted(Identity(), changed(training), changed(validation))
    with torch.no_grad():
        torch.testing.assert_close(
            other(changed(validation).inputs).softmax(1), plain(validation.inputs).softmax(1), atol=1e-3, rtol=1e-3
        )
    assert float(other.output.weight[:, 6:].detach().abs().max()) == 0


def test_only_the_head_changes_and_it_is_deterministic_and_part_of_the_weights(tmp_path: Path) -> None:
    network = TwoHeads()
    before = weights_bytes(network)
    training, validation = blobs(), blobs(seed=1)
    first, second = (fitted(network, training, validation) for _ in range(2))
    assert weights_bytes(network) == before
    assert weights_bytes(first) == weights_bytes(second)
    (tmp_path / "t.pth").write_bytes(weights_bytes(first))
    restored = attach_head(TwoHeads(), training[0][0][None], classes=CLASSES).eval()
    load_weights(restored, tmp_path / "t.pth")
    assert torch.equal(restored(validation.inputs), first(validation.inputs))


def test_features_and_head_are_steps_that_are_reused_until_an_input_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, validation, network = blobs(), blobs(seed=1), TwoHeads()
    weights = []
    for labels in (training.labels, training.labels, training.labels.flip(0)):
        with open_run(tmp_path, program="test"):
            teacher = fitted(network, ArrayDataset(training.inputs, labels), validation)
        weights.append(weights_bytes(teacher))
        capsys.readouterr()
    assert weights[0] == weights[1] != weights[2]
    with open_run(tmp_path, program="test"):
        fitted(network, training, validation)
    out = capsys.readouterr().out
    for step in ("teacher-features-training", "teacher-features-validation", "teacher-head"):
        assert f"{step}: up to date, reused" in out


def test_features_that_are_not_finite_are_refused() -> None:
    training = blobs()
    training.inputs[5, 2] = torch.nan
    with pytest.raises(ValueError, match=r"features of the teacher must be finite.*row 5"):
        fitted(Identity(), training, blobs(seed=1))


# --- embeddings


def test_embeddings_of_a_file_make_a_teacher(tmp_path: Path) -> None:
    training, validation = blobs(), blobs(seed=1)
    inputs = torch.cat([training.inputs, validation.inputs])
    embeddings = torch.cat([inputs, inputs**2], dim=1)
    np.save(tmp_path / "e.npy", embeddings.numpy())
    read = read_embeddings(tmp_path / "e.npy", samples=240)
    assert torch.equal(read, embeddings)
    lookup = build_lookup([(training, range(120)), (validation, range(120, 240))], read)
    teacher = fitted(lookup, training, validation)
    assert float((teacher(validation.inputs).argmax(dim=1) == validation.labels).float().mean()) > 0.6
    with pytest.raises(ValueError, match="no stored logits for 1 of 1 inputs"):
        teacher(torch.zeros(1, 6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 3)), r"t\.npy: it must have 4 rows, one per sample.*Got 5"),
        (np.ones((4, 3)), r"its rows should differ\. Got the same one for every sample"),
        (np.full((4, 3), np.nan), r"its embeddings must be finite"),
        (np.zeros((4, 2, 3)), r"must be \[samples, features\], one row per sample\. Got shape \[4, 2, 3\]"),
        (np.zeros(4), r"Got shape \[4\]"),
        (np.array([["a"]] * 4), r"invalid teacher embeddings in .*t\.npy"),
    ],
)
def test_wrong_files_of_embeddings_are_refused(values: np.ndarray, message: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    np.save(tmp_path / "t.npy", values)
    with pytest.raises(ValueError, match=message):
        read_embeddings(tmp_path / "t.npy", samples=4)


def test_embeddings_are_matched_by_name(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("file,u,v\nb,1,2\na,3,4\nz,9,9\n")
    read = read_embeddings(tmp_path / "e.csv", samples=2, ids=["a", "b"], id_column="file")
    assert read.tolist() == [[3, 4], [1, 2]]


def test_positions_are_averaged() -> None:
    maps, tokens = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3)
    features = PenultimateFeatures(Identity(), "")
    torch.testing.assert_close(features(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(features(tokens), tokens.mean(dim=1))
