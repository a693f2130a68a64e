"""The recipes for other runtimes in docs/export.md agree with the exported ONNX file."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd
from kd import cli
from kd.models.build import build
from kd.storage.weights import weights_bytes
from tests.deploy.test_export import a_candidate

PAGE = Path(kd.__file__).parent.parent / "docs" / "export.md"
pytestmark = pytest.mark.slow


def block(needle: str) -> str:
    """Return the Python block of the page that contains this text."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if needle in text]
    return str(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which run/export/model.onnx is a small convolutional network for MNIST."""
    for name in ("onnx", "onnxscript", "onnxruntime", "safetensors"):
        pytest.importorskip(name, reason="needs the export extra")
    path = tmp_path_factory.mktemp("docs")
    network = build("cnn:4", input_shape=(1, 28, 28), classes=10, seed=0)
    with torch.no_grad():
        list(network.parameters())[-2].mul_(100)  # of the last layer: clear answers instead of a tenth per class
    (path / "cnn.pth").write_bytes(weights_bytes(network))
    model = ["--model", f"cnn:4={path / 'cnn.pth'}", "--data", "mnist"]
    assert cli.main(["export", *model, "--formats", "onnx", "safetensors", "--to", str(path / "run" / "export")]) == 0
    return path


def test_the_example_in_python_returns_a_result_for_each_format() -> None:
    pytest.importorskip("onnxscript", reason="needs the export extra")
    names: dict[str, Any] = {"candidate": a_candidate("mlp:6")}
    exec(compile(block("results = export"), "docs/export.md", "exec"), names)
    assert [result.kind for result in names["results"]] == ["onnx", "int8"]
    assert names["results"][0].check.passed


# The others, with their many requirements, are in no extra.
INSTALLED = [name for name in ("executorch", "litert_torch") if importlib.util.find_spec(name)]


@pytest.mark.filterwarnings("ignore")  # of the converters
@pytest.mark.parametrize("library", ["openvino", *INSTALLED])
def test_other_runtimes_agree(library: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="needs the test extra")
    import onnxruntime

    monkeypatch.chdir(folder)
    inputs = kd.load_mnist(train=False).inputs[:200].numpy()
    session = onnxruntime.InferenceSession("run/export/model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(["probabilities"], {"inputs": inputs})
    names: dict[str, Any] = {"inputs": inputs}
    needles = {"executorch": "from executorch", "litert_torch": "import litert_torch"}
    for needle in ["import openvino"] if library == "openvino" else ["read_manifest(", needles[library]]:
        exec(compile(block(needle), "docs/export.md", "exec"), names)
    probabilities = np.asarray(names["probabilities"])
    np.testing.assert_allclose(probabilities, expected[: len(probabilities)], atol=1e-5)
    assert expected.std(axis=0).max() > 0.01  # not the same answer for every image
