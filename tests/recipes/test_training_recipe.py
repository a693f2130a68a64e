"""Recipe on training recipes: adjusted p-values, and a quick run from end to end on a small IDX folder."""

from __future__ import annotations

import os
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from statsmodels.stats.multitest import multipletests

import kd

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "training_recipe.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_folder(folder: Path) -> None:
    """Write ten classes of images with one bright row each, and noise."""
    rng = np.random.default_rng(0)
    for prefix, size in {"train": 700, "t10k": 100}.items():
        labels = np.arange(size) % 10
        images = rng.integers(0, 120, (size, 28, 28))
        images[np.arange(size), 2 * labels + 4] += 100
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)


def test_the_five_p_values_are_adjusted_and_the_margin_is_named(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    arms = {arm for pair in recipe["CONTRASTS"] for arm in pair}
    rates = {arm: 0.1 + 0.02 * number for number, arm in enumerate(sorted(arms))}
    wrong = {arm: [torch.rand(500, generator=generator) < rate for _ in range(6)] for arm, rate in rates.items()}
    contrasts = recipe["compare_arms"](wrong, margin=200.0)
    printed = capsys.readouterr().out
    assert "p (Holm)" in printed
    assert "no difference larger than 200 errors" in printed
    adjusted = multipletests([contrast.p for contrast in contrasts.values()], method="holm")[1]
    for name, p in zip(contrasts, adjusted, strict=True):
        (line,) = (line for line in printed.splitlines() if name in line)
        assert kd.formatting.format_p(p) in line


@pytest.mark.slow  # starts a process with all imports
def test_a_quick_run_prints_all_differences(tmp_path: Path, recipe: dict[str, Any]) -> None:
    write_folder(tmp_path)
    result = subprocess.run(
        [sys.executable, "-W", "error", str(RECIPE), "--data", str(tmp_path), "--quick"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    for first, second in recipe["CONTRASTS"]:
        assert f"{' '.join(first)} − {' '.join(second)}" in result.stdout
