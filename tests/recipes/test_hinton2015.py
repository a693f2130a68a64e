"""Recipe of Hinton et al. 2015: its components match the paper; quick runs resume."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kd

FOLDER = Path(kd.__file__).parent.parent / "recipes"


class Recipe(NamedTuple):
    main: ModuleType
    networks: ModuleType
    bias: ModuleType
    table: ModuleType


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        names = ("hinton2015", "hinton2015_networks", "hinton2015_bias", "hinton2015_table")
        yield Recipe(*map(importlib.import_module, names))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000))
@settings(max_examples=30)
def test_jitter_shifts_the_image_and_fills_with_paper(recipe: Recipe, row: int, column: int, seed: int) -> None:
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) + 0.1
    moved = recipe.networks.jitter(image, torch.tensor([row]), torch.tensor([column]))
    down, right = 2 - row, 2 - column
    expected = image.roll((down, right), (2, 3))
    for axis, by in ((2, down), (3, right)):
        edge = range(by) if by > 0 else range(28 + by, 28)
        expected.index_fill_(axis, torch.tensor(list(edge), dtype=torch.int64), 0.0)
    assert torch.equal(moved, expected)


def test_images_are_shifted_independently_and_only_in_training(recipe: Recipe) -> None:
    inputs: list[Tensor] = []

    def objective(model: torch.nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        inputs.append(batch[0])
        return kd.supervised(model, batch)

    model, batch = recipe.networks.make_student(4), (torch.rand(64, 1, 28, 28), torch.zeros(64, dtype=torch.int64))
    jittered = recipe.networks.add_jitter(objective)
    with kd.seeded(0):
        jittered(model, batch)
    jittered(model.eval(), batch)
    shifted, unchanged = inputs
    assert unchanged is batch[0]
    changed = (shifted != batch[0]).flatten(1).any(dim=1)
    assert 50 <= int(changed.sum()) < 64  # 1 of 25 shifts is no shift
    assert shifted.shape == batch[0].shape


def test_max_norm_limits_every_unit_before_a_training_step(recipe: Recipe) -> None:
    layer = recipe.networks.MaxNormLinear(20, 30)
    with torch.no_grad():
        layer.weight.mul_(10)
        layer.weight[:5] *= 0.001
    short, inputs = layer.weight[:5].detach().clone(), torch.rand(4, 20)
    before = layer.eval()(inputs)
    assert float(layer.weight.detach().norm(dim=1).max()) > recipe.networks.LIMIT  # nothing changes in eval mode
    assert torch.equal(layer(inputs), before)
    layer.train()(inputs).sum().backward()
    assert float(layer.weight.detach().norm(dim=1).max()) <= recipe.networks.LIMIT * (1 + 1e-5)
    assert torch.equal(layer.weight[:5], short)


@given(st.integers(0, 1000), st.floats(0.01, 0.9), st.sets(st.integers(0, 4), min_size=1, max_size=3))
@settings(max_examples=40)
def test_the_matching_shift_gives_the_digits_their_frequency(
    recipe: Recipe, seed: int, share: float, digits: set[int]
) -> None:
    logits = 3 * torch.randn(200, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shift = recipe.bias.find_matching_shift(logits, sorted(digits), share)
    shares = recipe.bias.shift_logits(logits, sorted(digits), shift).softmax(dim=1)[:, sorted(digits)].sum(dim=1)
    assert float(shares.mean()) == pytest.approx(share, abs=1e-5)


def test_the_best_shift_undoes_a_known_shift(recipe: Recipe) -> None:
    logits = torch.eye(4).repeat(10, 1) * 8
    labels = torch.arange(4).repeat(10)
    biased = recipe.bias.shift_logits(logits, [3], -12.0)
    assert recipe.networks.count_errors(biased, labels)["errors on 3"] == 10
    shift = recipe.bias.find_best_shift(biased, labels, [3])
    errors = recipe.networks.count_errors(recipe.bias.shift_logits(biased, [3], shift), labels)
    assert errors == {"errors": 0, "errors on 3": 0}
    assert 4 < shift < 20


def test_a_transfer_set_without_a_digit_keeps_images_and_logits_paired(recipe: Recipe) -> None:
    settings = recipe.main.Settings(out=Path("nowhere"), quick=True).apply_quick()
    distill_data = recipe.main.load_images(settings)
    logits = torch.randn(600, 10, generator=torch.Generator().manual_seed(0))
    distill_data = distill_data._replace(logits=logits)
    network = recipe.main.Network("without 3", 8, 0, 20.0, labels=False, digits=(0, 1, 2, 4, 5, 6, 7, 8, 9))
    samples = recipe.main.make_transfer_set(distill_data, network)
    labels = torch.tensor([label for _, label, _ in samples])
    assert set(labels.tolist()) == set(range(10)) - {3}
    rows = (distill_data.training.labels != 3).nonzero().flatten()
    assert torch.equal(torch.stack([row for _, _, row in samples]), logits[rows])
    assert len(recipe.main.make_transfer_set(distill_data, network._replace(digits=None))) == 600


def test_held_back_images_are_tested_on_and_not_trained_on(recipe: Recipe) -> None:
    settings = recipe.main.Settings(out=Path("nowhere"), held_back=100, limit=600)
    training, test, *_ = recipe.main.load_images(settings)
    assert (len(training), len(test)) == (500, 100)
    together = torch.cat([training.images, test.images]).flatten(1)
    first = kd.load_mnist(train=True).images[:600].flatten(1)
    assert sorted(together.tolist()) == sorted(first.tolist())


def test_labels_are_not_used_if_digits_are_left_out(recipe: Recipe) -> None:
    settings = recipe.main.Settings(out=Path("nowhere"))
    without = recipe.main.Network("without 3", 8, 0, 20.0, labels=False)
    batch = (torch.rand(3, 784), torch.tensor([0, 1, 2]), torch.randn(3, 10))
    _, terms = recipe.main.make_objective(without, settings)(recipe.networks.make_student(8), batch)
    assert terms["hard"].item() == 0
    assert terms["soft"].item() > 0


@pytest.mark.slow  # two pools of processes
def test_a_quick_run_trains_every_kind_and_resumes(recipe: Recipe, tmp_path: Path) -> None:
    settings = recipe.main.Settings(out=tmp_path / "run", quick=True, processes=1).apply_quick()
    rows = recipe.main.run(settings)
    assert {row["kind"] for row in rows} == {"teacher", "alone", "distilled", "without 3", "7 and 8"}
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["rows"] == json.loads(json.dumps(rows))
    assert recipe.main.run(settings) == rows  # reused from the run folder, bit for bit
    page = "<!-- pair -->\n<!-- end -->\n<!-- left out -->\n<!-- end -->\n<!-- temperatures -->\n<!-- end -->\n"
    filled = recipe.table.fill_page(page, rows)
    assert recipe.table.fill_page(filled, rows) == filled
    (teacher,) = (row for row in rows if row["kind"] == "teacher")
    assert f"| 67 | {teacher['errors']:.4g} | 1 |" in filled


def test_the_page_matches_its_json_file(recipe: Recipe) -> None:
    page = FOLDER.parent / "docs" / "hinton2015.md"
    rows = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    text = page.read_text(encoding="utf-8")
    assert recipe.table.fill_page(text, rows) == text


def test_a_page_without_markers_is_rejected(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="<!-- pair -->"):
        recipe.table.fill_page("nothing", [])
