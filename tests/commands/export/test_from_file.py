"""``kd export --model NAME=FILE``: weights from elsewhere keep the normalisation, and test set, of their training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.commands.data import load_data
from kd.commands.export.settings import ExportSettings
from kd.commands.export.subject import load_candidate
from kd.commands.run.files import untested_weight_files
from kd.deploy.deployed import deploy
from kd.deploy.manifest import describe_manifest
from kd.models.build import build
from kd.storage.files import sha256
from kd.storage.weights import weights_bytes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright images; the brightness of a pixel alone does not tell the class."""
    rng, labels = np.random.default_rng(0), np.arange(200) % 2
    images = rng.integers(60, 140, (200, 4, 4)) + 20 * labels[:, None, None]
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=images.astype(np.uint8), y=labels)
    return path


def a_network(*, unit: float) -> torch.nn.Module:
    """A network for images from 0 to ``unit`` that compares their mean with 110 of 255."""
    network = build("mlp:1", input_shape=(1, 4, 4), classes=2, seed=0)
    values = (torch.full((1, 16), 1 / 16), torch.zeros(1), torch.tensor([[0.0], [20 / unit]]))
    threshold = torch.tensor([20 * 110 / 255, 0.0])
    parameters = dict(network.named_parameters())
    names = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
    with torch.no_grad():
        for name, value in zip(names, (*values, threshold), strict=True):
            parameters[name].copy_(value)
    return network


@pytest.mark.parametrize(("unit", "std"), [(1.0, 1.0), (255.0, 1 / 255)])
def test_weights_from_elsewhere_keep_their_normalisation(
    unit: float, std: float, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.pth"
    file.write_bytes(weights_bytes(a_network(unit=unit)))
    candidate, _ = load_candidate(ExportSettings(model=f"mlp:1={file}", data=str(data)))
    assert "model: normalised as numbers in [0, " in capsys.readouterr().out
    assert candidate.manifest.preprocessing.std == pytest.approx((std,))
    assert int(candidate.reference.wrong.sum()) <= 2
    raw = torch.from_numpy(np.load(data)["x"])[:, None]
    _, logits = deploy(candidate.network, candidate.manifest)(raw)
    pixels = (raw.double().flatten(1).mean(1) / 255 - 110 / 255) * 20
    torch.testing.assert_close((logits[:, 1] - logits[:, 0]).double(), pixels, rtol=0, atol=1e-4)


def test_a_network_that_returns_probabilities_is_refused(data: Path, tmp_path: Path) -> None:
    code = (
        "from torch import nn\n\n\ndef net(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes), nn.Softmax(dim=1))\n"
    )
    (tmp_path / "net.py").write_text(code)
    weights = {"1.weight": torch.randn(2, 16), "1.bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "net.pth")
    settings = ExportSettings(model=f"{tmp_path / 'net.py'}:net={tmp_path / 'net.pth'}", data=str(data))
    with pytest.raises(ValueError, match="probabilities"):
        load_candidate(settings)


@pytest.mark.filterwarnings("ignore:model. accuracy")  # of a network for another normalisation
def test_data_that_differ_from_those_of_the_run_beside_the_file_are_refused(data: Path, tmp_path: Path) -> None:
    settings = ExportSettings(model=f"mlp:1={tmp_path / 'student.pth'}", data=str(data), random_state=1)
    opened = load_data(settings.data_settings)
    model = {"student": a_network(unit=1.0)}
    for path, content in untested_weight_files(tmp_path, model, opened.test_set, classes=["0", "1"], toy=None).items():
        path.write_bytes(content)
    load_candidate(settings)
    with pytest.raises(ValueError, match=r"preprocessing was .*Give --data, --random-state"):  # it holds training rows
        load_candidate(ExportSettings(model=settings.model, data=settings.data, random_state=2))


def test_an_exported_file_can_be_exported_again(data: Path, tmp_path: Path) -> None:
    settings = ExportSettings(model=f"mlp:1={tmp_path / 'net.pth'}", data=str(data))
    content = weights_bytes(a_network(unit=255.0))
    (tmp_path / "net.pth").write_bytes(content)
    candidate, _ = load_candidate(settings)
    entry = {"net.pth": {"architecture": "mlp:1", "sha256": sha256(content)}}
    (tmp_path / "manifest.json").write_text(json.dumps(describe_manifest(candidate.manifest, entry)))
    assert load_candidate(settings)[0].manifest.preprocessing == candidate.manifest.preprocessing
