"""The tables and lists in docs/methods.md are complete and up to date; their script counts and judges correctly."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kd
from kd.methods import METHODS

ROOT = Path(kd.__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
ERRORS = {"control": [20, 22, 24], "kd": [18, 21, 21], "dkd": [10, 12, 13], "dist": [20, 21, 25]}


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        yield importlib.import_module("methods_page")


def test_the_tables_in_the_page_are_up_to_date(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.fill_page(text) == text


def test_every_method_has_a_row_and_a_paragraph(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for name in METHODS:
        assert f"| `{name}` |" in text
        assert f"**{name}**" in text


def test_the_stated_ranges_of_rows_have_the_stated_inputs() -> None:
    names = list(METHODS)
    teacher, controls = names.index("fitnet"), names.index("label-smoothing")
    assert names[teacher - 1 : teacher] == ["ofa"]
    assert names[controls - 1 :] == ["cat-kd", "label-smoothing", "teacher-free"]
    for place, name in enumerate(names):
        source = "labels" if place >= controls else "teacher" if place >= teacher else "logits"
        assert set(METHODS[name].needs) - {"ids"} == {"labels", source}
        assert ("ids" in METHODS[name].needs) == (name == "crd")


def find_recipes() -> list[str]:
    """Return the names of the recipes; NAME_*.py are helper modules of the recipe NAME.py."""
    names = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
    return [name for name in names if not any(name.startswith(f"{recipe}_") for recipe in names)]


def test_the_page_links_every_recipe_once(page: ModuleType) -> None:
    section = page.PAGE.read_text(encoding="utf-8").partition("\n## Recipes\n")[2].partition("\n### ")[0]
    assert sorted(re.findall(r"\]\(\.\./recipes/(\w+)\.py\)", section)) == find_recipes()


def test_the_pages_state_the_numbers_of_methods_and_recipes(page: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8")
    assert f" {len(METHODS)} methods and {len(find_recipes())} recipes" in readme
    assert f"[{len(METHODS)} methods](methods.md)" in guide
    assert f"\n{len(METHODS)} methods " in page.PAGE.read_text(encoding="utf-8")


def test_a_page_without_markers_is_an_error(page: ModuleType) -> None:
    with pytest.raises(ValueError, match="<!-- methods -->"):
        page.fill_page("nothing")


def test_methods_are_compared_with_the_control_and_with_plain_distillation(page: ModuleType) -> None:
    lines = page.format_comparison({"errors": ERRORS, "images": 1000, "teacher": 5}).splitlines()
    rows: dict[str, Any] = {
        cells[0]: cells[1:] for cells in ([c.strip() for c in line[1:-1].split("|")] for line in lines)
    }
    assert rows["control"] == ["22.0 ± 2.0", "", ""]
    assert rows["kd"][0].startswith("20.0")
    assert rows["kd"][1].startswith("-2.0")
    assert rows["kd"][2] == ""
    assert rows["dkd"][1].startswith("**-10.3 (-")
    assert rows["dkd"][1].endswith(")**")
    assert rows["dkd"][2].startswith("**-8.3")
    assert rows["dist"][2].startswith("+2.0 (-")
    assert rows["dist"][2].endswith(")")


def test_a_difference_within_the_margin_is_named(page: ModuleType) -> None:
    results = {"errors": {"control": [20, 22, 24], "kd": [21, 22, 24]}, "images": 10_000, "teacher": 5}
    assert page.format_comparison(results).endswith("): no difference larger than 10 errors |  |")


@pytest.mark.slow  # a teacher and a pool of processes
def test_a_quick_run_counts_every_student_once(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("methods_on_mnist")
    settings = module.Settings(out=tmp_path, limit=200, epochs=1, pairs=2, methods=("kd", "dkd"), processes=1)
    settings.check()
    results = module.run(settings)
    module.save(results, settings)
    assert {name: len(counts) for name, counts in results["errors"].items()} == {"control": 2, "kd": 2, "dkd": 2}
    assert results["images"] == 1_000
    assert (tmp_path / "methods-mlp.json").exists()
    assert len(page.format_comparison(results).splitlines()) == 2 + 3


def test_an_unknown_method_is_an_error_before_training(page: ModuleType, tmp_path: Path) -> None:
    module = importlib.import_module("methods_on_mnist")
    with pytest.raises(ValueError, match="no method 'dkdd'"):
        module.Settings(out=tmp_path, methods=("dkdd",)).check()


def test_costs_are_relative_to_plain_distillation(page: ModuleType) -> None:
    fitnet = {"seconds": 0.03, "peak_rss": 760e6, "trained": 1234, "remembered": 5}
    kd = {"seconds": 0.02, "peak_rss": 750e6, "trained": 0, "remembered": 0}
    *_, first, second = page.format_costs({"kd": kd, "fitnet": fitnet}).splitlines()
    assert first == "| `kd` | 1.00 | +0 |  |"
    assert second == "| `fitnet` | 1.50 | +10 | 1,234 + 5 |"


def test_every_method_has_its_costs(page: ModuleType) -> None:
    measured = json.loads((page.PAGE.parent / "method-costs.json").read_text(encoding="utf-8"))["costs"]
    other_teachers, not_measured = {"fsp", "sdd", "cat-kd"}, {"rld", "embedding"}
    assert set(measured) == {"control", *METHODS} - other_teachers - not_measured
