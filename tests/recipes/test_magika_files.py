"""Recipe on files: tokens as magika reads them, no directory in both parts, and a quick run with a stand-in."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd
from tests.onnx_files import linear, write_onnx

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "magika_files.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def write_files(root: Path) -> None:
    """Write Python and JSON files into many folders, some of them equal."""
    random = np.random.default_rng(0)
    for folder in range(30):
        (root / f"d{folder}").mkdir()
        for number in range(4):
            text = f"import os{random.integers(10**9)}\n" * 30
            (root / f"d{folder}" / f"m{number}.py").write_text(text)
            (root / f"d{folder}" / f"m{number}.json").write_text(f'{{"a": {random.integers(10**9)}}}' * 9)
        (root / f"d{folder}" / "same.py").write_text("print('the same everywhere')\n")
        (root / f"d{folder}" / "tiny.py").write_text("x")
        (root / f"d{folder}" / "link.py").symlink_to("m0.py")


@pytest.mark.parametrize("size", [0, 10, 1024, 1500, 4096, 5000, 8192, 20_000])
def test_tokens_are_the_beginning_and_the_end_without_white_space(
    recipe: dict[str, Any], size: int, tmp_path: Path
) -> None:
    content = b" \n" + np.random.default_rng(size).integers(65, 90, size).astype(np.uint8).tobytes() + b"\n\t "
    tokens = recipe["make_tokens"](content)
    first, last = content.lstrip()[:1024], content.rstrip()[-1024:]
    assert len(tokens) == 2048
    assert bytes(t for t in tokens[:1024] if t != 256) == first
    assert bytes(t for t in tokens[1024:] if t != 256) == last
    (tmp_path / "f").write_bytes(content)
    read = recipe["_read"](tmp_path / "f")
    assert read is None if len(content) < 16 else recipe["make_tokens"](read) == tokens


def test_no_directory_and_no_content_is_in_both_parts(recipe: dict[str, Any], tmp_path: Path) -> None:
    write_files(tmp_path)
    files = recipe["read_files"](tmp_path, 40)
    assert files.classes == ("json", "python")
    assert torch.bincount(files.training.labels).tolist() == [40, 40]
    assert torch.bincount(files.test.labels).tolist() == [20, 20]
    both = torch.cat([files.training.inputs, files.test.inputs])
    assert len(torch.unique(both, dim=0)) == len(both)
    parts = {recipe["is_for_testing"](str(tmp_path / f"d{number}")) for number in range(30)}
    assert parts == {False, True}


def test_a_quick_run_with_a_stand_in(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    (tmp_path / "files").mkdir()
    write_files(tmp_path / "files")
    write_onnx(tmp_path / "model.onnx", linear(2048, 3), shape=("n", 2048), kind="INT32", after="Softmax")
    names = {"target_labels_space": ["zip", "python", "json"]}
    (tmp_path / "config.min.json").write_text(json.dumps(names))
    main = recipe["main"]
    settings = recipe["Settings"](root=tmp_path / "files", per_class=40, pairs=2, epochs=1)
    main.__globals__["find_magika"] = lambda: tmp_path
    errors = main(settings)
    assert {name: len(counts) for name, counts in errors.items()} == {"endings alone": 2, "distilled": 2}
    out = capsys.readouterr().out
    assert "the teacher agrees with" in out
    assert "of its probability went to classes that the data lacks" in out
    main.__globals__["find_magika"] = lambda: None
    assert main(settings) == {}
    assert "skipped: the package magika" in " ".join(capsys.readouterr().out.split())
