"""``kd export`` of a network from timm: depthwise convolutions, squeeze-and-excitation, batch norm, global pooling."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kd import cli
from kd.models.build import build
from kd.storage.weights import weights_bytes

FORMATS = ("onnx", "int8", "safetensors", "pt2")
SPEC = "timm:test_efficientnet"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:model. accuracy")  # of untrained weights
@pytest.mark.filterwarnings("ignore:timm.* is designed for images of about")
def test_a_network_from_timm_is_exported_to_all_formats(tmp_path: Path) -> None:
    for name in ("timm", "onnx", "onnxscript", "onnxruntime", "safetensors"):
        pytest.importorskip(name, reason="needs the extras export and timm")
    x = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32)).astype(np.uint8)
    y = np.arange(80) % 2
    np.savez(tmp_path / "data.npz", x_train=x[40:], y_train=y[40:], x_test=x[:40], y_test=y[:40])
    (tmp_path / "m.pth").write_bytes(weights_bytes(build(SPEC, input_shape=(3, 32, 32), classes=2, seed=0)))
    model = ("--model", f"{SPEC}={tmp_path / 'm.pth'}", "--data", str(tmp_path / "data.npz"))
    # Untrained, it may lose all of its accuracy by rounding.
    assert cli.main(["export", *model, "--to", str(tmp_path / "to"), "--formats", *FORMATS, "--margin", "100"]) == 0
    manifest = json.loads((tmp_path / "to" / "manifest.json").read_bytes())
    assert manifest["failed"] == {}
    assert [entry["kind"] for entry in manifest["models"].values()] == list(FORMATS)
