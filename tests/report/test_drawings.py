"""A figure is rendered again only if its inputs, its form or the sources changed, and never from a damaged file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd.report import drawings
from kd.report.drawings import render_once
from kd.report.style import png
from kd.report.svg import figure
from kd.storage.run_folder import open_run


def draw(counts: Tensor, title: str = "") -> Figure:
    return Figure()


@pytest.fixture
def rendered() -> list[Figure]:
    """The figures rendered so far."""
    return []


def render(rendered: list[Figure], counts: tuple[int, ...] = (1, 2), form: str = "png", title: str = "") -> bytes:
    def record(drawn: Figure) -> bytes:
        rendered.append(drawn)
        return f"content {len(rendered)}".encode()

    return render_once(partial(draw, torch.tensor(counts), title=title), form, record)


def test_without_an_open_run_every_figure_is_rendered(rendered: list[Figure]) -> None:
    assert [render(rendered), render(rendered)] == [b"content 1", b"content 2"]


def test_an_open_run_renders_an_equal_figure_once(tmp_path: Path, rendered: list[Figure]) -> None:
    with open_run(tmp_path):
        first = render(rendered)
        assert render(rendered) == first
    with open_run(tmp_path):
        assert render(rendered) == first
    assert len(rendered) == 1


def test_other_inputs_forms_and_sources_are_rendered(
    tmp_path: Path, rendered: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(tmp_path):
        contents = [
            render(rendered),
            render(rendered, (1, 3)),
            render(rendered, form="svg"),
            render(rendered, title="a"),
        ]
        monkeypatch.setattr(drawings, "source_digest", lambda: "edited")
        contents.append(render(rendered))
    assert len({*contents}) == len(rendered) == 5


def test_fresh_renders_again(tmp_path: Path, rendered: list[Figure]) -> None:
    for fresh in (False, True):
        with open_run(tmp_path, fresh=fresh):
            render(rendered)
    assert len(rendered) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"x", lambda _: b""])
def test_a_damaged_file_is_rendered_again(tmp_path: Path, rendered: list[Figure], damage: object) -> None:
    with open_run(tmp_path):
        render(rendered)
        (file,) = (tmp_path / "steps" / "figures").iterdir()
        file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
        assert render(rendered) == b"content 2"


@pytest.mark.pictures
def test_the_rendered_bytes_are_those_of_the_figure(tmp_path: Path) -> None:
    drawing = partial(draw, torch.tensor([1]))
    with open_run(tmp_path):
        for _ in range(2):
            assert png(drawing, toy="LIMIT=5") == png(drawing(), toy="LIMIT=5") != png(drawing)
            assert figure(drawing, alt="a") == figure(drawing(), alt="a")
