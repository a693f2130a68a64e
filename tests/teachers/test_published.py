"""Published weights come from the local caches, and from the network only with ``download``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torchvision import models

import kd
from kd.storage.weights import state_bytes
from kd.teachers.load import load_teacher
from kd.teachers.published import load_published

INPUTS = torch.randn(2, 3, 64, 64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of torch's; a download writes what the test puts into ``offered``."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("used the network"))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def make_published(name: str) -> tuple[Any, str]:
    weights = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    with kd.seeded(0):
        return models.get_model(name, weights=None).eval(), weights.url.rpartition("/")[2]


def test_torchvision_takes_the_cached_file_and_nothing_else(cache: Path) -> None:
    with pytest.raises(OSError, match=r"no file .*squeezenet1_1-.*with the published weights.*--download allows it"):
        load_published("torchvision:squeezenet1_1", classes=1000, channels=3)
    original, file = make_published("squeezenet1_1")
    (cache / file).write_bytes(state_bytes(original.state_dict()))
    teacher = load_published("torchvision:squeezenet1_1", classes=1000, channels=3)
    assert torch.equal(teacher.eval()(INPUTS), original(INPUTS))
    with pytest.raises(
        ValueError, match=r"=pretrained has 1,000 classes, the data has 10.*--label-map.*--teacher-head"
    ):
        load_published("torchvision:squeezenet1_1", classes=10, channels=3)
    with pytest.raises(ValueError, match=r"takes images of 3 channels. Got 1"):
        load_published("torchvision:squeezenet1_1", classes=1000, channels=1)


def test_torchvision_downloads_only_if_allowed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, _ = make_published("squeezenet1_1")
    asked: list[tuple[str, str]] = []

    def download(url: str, file: str, *, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        Path(file).write_bytes(state_bytes(original.state_dict()))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):  # the second time from the cache
        load_published("torchvision:squeezenet1_1", classes=1000, channels=3, download=True)
    ((url, digest),) = asked
    assert url.startswith("https://download.pytorch.org/")
    assert f"-{digest}." in url


@pytest.mark.slow
def test_auxiliary_heads_of_published_weights_are_removed(cache: Path) -> None:
    with kd.seeded(0):
        original = models.googlenet(weights=None, transform_input=True, aux_logits=True, init_weights=False).eval()
    file = models.GoogLeNet_Weights.DEFAULT.url.rpartition("/")[2]
    (cache / file).write_bytes(state_bytes(original.state_dict()))
    teacher = load_published("torchvision:googlenet", classes=1000, channels=3)
    assert torch.equal(teacher.eval()(INPUTS), original(INPUTS))
    assert teacher.train()(INPUTS).shape == (2, 1000)
    assert not any("aux" in name for name in teacher.state_dict())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the hub's client by one whose cache holds the model's file once it was downloaded; returns the calls."""
    calls: list[Any] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        calls.append((name, allow_patterns, local_files_only))
        if local_files_only and not (tmp_path / "model.safetensors").is_file():
            raise FileNotFoundError("not cached")
        return str(tmp_path)

    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    pytest.importorskip("timm", reason="needs the timm extra")  # imports the client itself
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
def test_timm_takes_the_cached_file_and_nothing_else(hub: list[Any], tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the safetensors extra")
    with pytest.raises(OSError, match=r"no model timm/.* in Hugging Face's local cache.*--download allows it"):
        load_published(f"timm:{name}", classes=1000, channels=3)
    with kd.seeded(0):
        original = timm.create_model("test_resnet", pretrained=False).eval()
    safetensors.save_file(original.state_dict(), tmp_path / "model.safetensors")
    teacher = load_published(f"timm:{name}", classes=1000, channels=3)
    assert torch.equal(teacher.eval()(INPUTS), original(INPUTS))
    assert {call[2] for call in hub} == {True}
    assert hub[0][:2] == ("timm/test_resnet.r160_in1k", ["model.safetensors"])
    grey = load_published(f"timm:{name}", classes=1000, channels=1).eval()(INPUTS[:, :1])
    torch.testing.assert_close(grey, original(INPUTS[:, :1].expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    own = load_teacher("timm:test_resnet", tmp_path / "model.safetensors", input_shape=(3, 64, 64), classes=1000)
    assert torch.equal(own.eval()(INPUTS), original(INPUTS))
    load_published(f"timm:{name}", classes=1000, channels=3, download=True)
    assert hub[-1][2] is False
    with pytest.raises(ValueError, match=r"has 1,000 classes, the data has 4"):
        load_published(f"timm:{name}", classes=4, channels=3)


@pytest.mark.parametrize("name", ["hf-hub:someone/resnet", "local-dir:/tmp", "resnet81", "resnet18.none"])
def test_timm_gets_known_names_only(hub: list[Any], name: str) -> None:
    with pytest.raises(ValueError, match=r"timm has no (classifier|published weights)"):
        load_published(f"timm:{name}", classes=1000, channels=3)
    assert not hub
