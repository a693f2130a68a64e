"""--teacher auto trains a network that fits the data, and says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kd import cli
from kd.commands.auto_network import choose_network
from kd.commands.data import Task, load_data
from kd.commands.models import new_teachers
from kd.commands.settings import RunSettings


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 28, 28), "convnet"),
        ((3, 23, 40), "convnet"),
        ((3, 22, 40), "cnn:32"),
        ((1, 8, 8), "cnn:32"),
        ((13,), "mlp:512,512"),
        ((20, 6), "mlp:512,512"),
    ],
)
def test_the_network_fits_the_inputs(shape: tuple[int, ...], name: str) -> None:
    assert choose_network(Task(shape, ("a", "b"), torch.zeros(shape))) == name


def test_tokens_need_an_embedding() -> None:
    with pytest.raises(ValueError, match=r"no network for tokens, integers of shape \[7\]. Name a model"):
        choose_network(Task((7,), ("a", "b"), torch.zeros(7, dtype=torch.int64)))


def test_the_default_on_mnist_is_convnet_from_the_same_seed() -> None:
    settings = RunSettings(seed=3, limit=200)
    data = load_data(settings)
    named = RunSettings(seed=3, limit=200, teacher=("convnet",))
    (chosen,), (same,) = new_teachers(settings, data), new_teachers(named, data)
    assert (chosen.trained, chosen.seed) == (same.trained, same.seed)
    states = chosen.model.state_dict(), same.model.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


def test_small_images_need_no_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (80 * labels[:, None, None] + generator.integers(0, 40, (60, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "small.npz", x=images, y=labels)
    flags = ("--data", str(tmp_path / "small.npz"), "--epochs", "1", "--student", "mlp:4")
    assert cli.main(["run", *flags, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.count("teacher: cnn:32, which suits images of 8 × 8 pixels") == 1
    assert "TEACHER_NETWORK" in (tmp_path / "run/results/metrics/metrics.json").read_text()
    # A folder of the default holds the same run as one of its name.
    assert cli.main(["run", *flags, "--teacher", "auto", "--out", str(tmp_path / "run")]) == 0
    assert "teacher: up to date, reused" in capsys.readouterr().out
