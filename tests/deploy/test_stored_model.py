"""Models as ONNX files: predicted from raw inputs by their own runtime, without the network's Python code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd.deploy.inputs import Item
from kd.deploy.manifest import Preprocessing
from kd.deploy.predict import Answer, predict_items
from kd.deploy.stored_model import find_model, load_classifier, normalise
from kd.evaluation.unlike import measure_moments, measure_unlike
from kd.storage.files import sha256

onnx = pytest.importorskip("onnx", reason="needs the export extra")
pytest.importorskip("onnxruntime", reason="needs the export extra")

SHAPE, CLASSES = (3, 4, 5), ["cat", "dog"]
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(60, 2)).astype(np.float32)
INPUTS = torch.from_numpy(RANDOM.integers(0, 256, (200, *SHAPE), dtype=np.uint8))
LOGITS = INPUTS.flatten(1).float() @ torch.from_numpy(WEIGHTS)


def make_onnx(outputs: tuple[str, ...] = ("probabilities", "logits")) -> bytes:
    """Return a linear classifier of raw pixels."""
    node, tensor, info = onnx.helper.make_node, onnx.numpy_helper.from_array, onnx.helper.make_tensor_value_info
    nodes = [
        node("Cast", ["inputs"], ["numbers"], to=onnx.TensorProto.FLOAT),
        node("Flatten", ["numbers"], ["flat"]),
        node("MatMul", ["flat", "weights"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "linear",
        [info("inputs", onnx.TensorProto.UINT8, ["batch", *SHAPE])],
        [info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in outputs],
        [tensor(WEIGHTS, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def write_folder(folder: Path, content: bytes, **entry: Any) -> Path:
    manifest = {
        "format": 1,
        "toy": None,
        "task": {"input_shape": list(SHAPE), "input_dtype": "uint8", "noun": "images", "classes": CLASSES},
        "preprocessing": {"scale": 255, "mean": [0.5] * 3, "std": [0.2] * 3, "mode": "RGB", "resize": None},
        "models": {"model.onnx": {"architecture": None, "sha256": sha256(content), **entry}},
    }
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def predict(path: Path, inputs: torch.Tensor = INPUTS) -> list[Answer]:
    classifier = load_classifier(find_model(path), device=torch.device("cpu"))
    return list(predict_items(classifier, [Item(str(n), row) for n, row in enumerate(inputs)], top=2))


def test_an_onnx_file_answers_like_its_formula_with_its_threshold(tmp_path: Path) -> None:
    moments = measure_moments(normalise(INPUTS, Preprocessing(255, (0.5,) * 3, (0.2,) * 3), SHAPE))
    assert moments is not None
    unlike = measure_unlike(LOGITS[:100], LOGITS[100:], moments[:100], moments[100:])
    write_folder(tmp_path, make_onnx(), unlike=unlike._asdict())
    for path in (tmp_path, tmp_path / "model.onnx", tmp_path / "manifest.json"):
        answers = predict(path)
        assert [answer.labels[0] for answer in answers] == LOGITS.argmax(dim=1).tolist()
        probabilities = torch.tensor([answer.probabilities[0] for answer in answers])
        torch.testing.assert_close(probabilities, LOGITS.softmax(dim=1).amax(dim=1))
        scores = torch.tensor([answer.score or 0 for answer in answers])
        torch.testing.assert_close(scores, LOGITS.amax(dim=1))
        assert sum(bool(answer.unlike) for answer in answers[100:]) == unlike.false_alarms


def test_without_logits_no_input_is_said_to_be_like_or_unlike(tmp_path: Path) -> None:
    unlike = measure_unlike(LOGITS, LOGITS)
    write_folder(tmp_path, make_onnx(("probabilities",)), unlike=unlike._asdict())
    assert {(answer.score, answer.unlike) for answer in predict(tmp_path)} == {(None, None)}


def test_a_changed_or_damaged_file_is_refused(tmp_path: Path) -> None:
    content = make_onnx()
    write_folder(tmp_path, content)
    (tmp_path / "model.onnx").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="expected SHA-256"):
        predict(tmp_path)
    write_folder(tmp_path, content[:-20])
    with pytest.raises(ValueError, match=r"the \.onnx file cannot be loaded"):
        predict(tmp_path)


def test_an_exported_folder_has_no_arms(tmp_path: Path) -> None:
    write_folder(tmp_path, make_onnx())
    with pytest.raises(ValueError, match="--arm must be omitted"):
        find_model(tmp_path, arm="teacher")
