"""The model card as Hugging Face's own library reads it, without a network; names are data and may be anything."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kd.deploy.export import Candidate
from kd.deploy.model_card import Origin, write_card
from tests.deploy.test_export import a_candidate, accuracy, an_export

NAMES = [
    "MNIST",
    "rows: [1]\n---\n# x",
    "\U0001f4f7 photos",
    'a"b\\n',
    "\u2028line\x85\x7f",
    "caf\udce9",
    "#!&*",
    "ünï",
]


def read_card(candidate: Candidate, origin: Origin, onnx: str | None = "model.onnx") -> Any:
    hub = pytest.importorskip("huggingface_hub", reason="needs the hf extra")
    text = write_card(candidate, [an_export(candidate)], origin, accuracy(candidate), onnx=onnx)
    return hub.ModelCard(text.encode().decode())


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_reads_every_name(name: str) -> None:
    candidate = a_candidate("cnn:4")
    card = read_card(candidate, Origin(name, "distilled", licence="cc-by-sa-4.0"))
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-sa-4.0", "onnx", "image-classification")
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type) == ("image-classification", "accuracy")
    assert result.metric_value == pytest.approx(accuracy(candidate).accuracy, abs=1e-6)
    assert result.dataset_name == name or not name.isprintable()
    assert "\n" not in result.dataset_name
    assert [line for line in card.text.splitlines() if line.startswith("# ")] == [card.text.splitlines()[1]]


@pytest.mark.parametrize(
    ("shape", "dtype", "noun", "task"),
    [
        ((3, 8, 8), "uint8", "images", "image-classification"),
        ((5,), "float32", "items", "tabular-classification"),
        ((5,), "uint8", "items", "tabular-classification"),
        ((24,), "int64", "items", None),
        ((24, 3), "float32", "items", None),
    ],
)
def test_the_task_is_named_only_if_it_is_known(shape: tuple[int, ...], dtype: str, noun: str, task: str | None) -> None:
    candidate = a_candidate("mlp:6")
    manifest = dataclasses.replace(candidate.manifest, input_shape=shape, input_dtype=dtype, noun=noun)
    card = read_card(dataclasses.replace(candidate, manifest=manifest), Origin("data", "model"), onnx=None)
    assert card.data.pipeline_tag == task
    assert card.data.eval_results[0].task_type == (task or "other")
    assert (card.data.license, card.data.library_name) == ("unknown", "pytorch")
