"""Saved report parts are restored unchanged; damaged and hostile files are harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kd.report.blocks import Block, Figure
from kd.report.page import Part, Section, load_parts, page, report_files
from kd.report.saved_parts import FORMAT, to_json
from tests.report.test_page import EVERY_BLOCK, EVIL, a_case, a_part, parsed, sections

pytestmark = pytest.mark.pictures


def publish(part: Part, folder: Path) -> bytes:
    """Write a part like a command does, and return the page."""
    files = report_files(part, results_dir=folder / "results", state_dir=folder / ".kd")
    path = folder / ".kd" / "report" / f"{part.source}.json"
    assert set(files) == {path, folder / "results" / "report.html"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files[path])
    return files[folder / "results" / "report.html"]


def test_each_command_adds_or_replaces_its_part(tmp_path: Path) -> None:
    parts = [
        a_part("run", "table", toy="LIMIT=1", settings={"A": "1"}),
        a_part("compare", "comparison", tone="worse"),
        a_part("sweep", "map", "table"),
    ]
    for number, part in enumerate(parts):
        assert publish(part, tmp_path) == page(parts[: number + 1])
    newer = a_part("run", "curves")
    assert publish(newer, tmp_path) == page([newer, *parts[1:]])


DAMAGES = {
    "empty": b"",
    "cut off": json.dumps({"format": FORMAT, "source": "compare"}).encode()[:-5],
    "not JSON": b"\x80\x00\xff",
    "a list": b"[]",
    "nested too deep": b"[" * 100_000,
    "of an earlier format": json.dumps({"format": 1, "source": "compare"}).encode(),
    "of another format": json.dumps({"format": FORMAT + 1}).encode(),
    "without sections": json.dumps({"format": FORMAT, "source": "compare"}).encode(),
}


def part_json(*blocks: object, **changed: object) -> bytes:
    section = {"name": "map", "title": "A map", "blocks": blocks or [{"block": "paragraph", "text": "a map"}]}
    content = {"format": FORMAT, "source": "compare", "verdict": "x", "toy": None, "tone": "open", "settings": {}}
    return json.dumps({**content, "sections": [section], **changed}).encode()


def block(of: Block, /, **changed: object) -> dict[str, object]:
    """Return a block as saved in JSON, with some fields changed."""
    part = json.loads(to_json(a_part(sections=(Section("map", "A map", (of,)),))))
    fields: dict[str, object] = part["sections"][0]["blocks"][0]
    return fields | changed


DRAWING = '<svg viewBox="0 0 9 9">{}</svg>'
DRAWN = block(Figure(DRAWING.format(""), "a"))
CASE = block(a_case("a"))
DAMAGES |= {
    "of another command": part_json(source="sweep"),
    "with a wrong kind": part_json(verdict=3),
    "with a wrong tone": part_json(tone="good"),
    "with a wrong setting": part_json(settings={"A": 1}),
    "with a section of a wrong kind": part_json(sections=["map"]),
    "with a section without blocks": part_json(sections=[{"name": "map", "title": "A map"}]),
    "with HTML in place of blocks": part_json(sections=[{"name": "map", "title": "A map", "blocks": "<b>x</b>"}]),
    "with an unknown block": part_json({"block": "html", "text": "<b>x</b>"}),
    "with a block without a field": part_json({"block": "paragraph"}),
    "with a block with an extra field": part_json({"block": "paragraph", "text": "x", "html": "<b>x</b>"}),
    "with a block of a wrong kind": part_json({"block": "paragraph", "text": 3}),
    "with a text in place of a block": part_json({"block": "fold", "summary": "x", "blocks": ["x"]}),
    "with a row too short": part_json({"block": "table", "header": ["a", "b"], "rows": [["x"]], "caption": ""}),
    "with a number for a text": part_json({"block": "table", "header": ["a"], "rows": [[1]], "caption": ""}),
    "with a case without rows": part_json(CASE | {"rows": []}),
    "with a case of other classes": part_json(CASE | {"classes": ["a"]}),
    "with an invalid true class": part_json(CASE | {"true": 2}),
    "with a text for a number": part_json(CASE | {"item": "7"}),
    "with an invalid image": part_json(CASE | {"png": '" onerror="alert(1)'}),
    "with an invalid name": part_json(sections=[{"name": '"><b', "title": "A map", "blocks": []}]),
}
# Content that is not allowed in a drawing.
UNWANTED = {
    "a script": "<script>alert(1)</script>",
    "another page": '<foreignObject><iframe src="x"></iframe></foreignObject>',
    "a refresh": '<meta http-equiv="refresh" content="0; url=//example.org"/>',
    "a link": '<a href="http://example.org"><text>x</text></a>',
    "a style sheet": "<style>body { display: none }</style>",
    "a title": "<title><b>x</b></title>",
    "a handler": '<g onload="alert(1)"/>',
    "a handler in capitals": '<g ONLOAD="alert(1)"/>',
    "a drawing from another file": '<use href="other.svg#x"/>',
    "a script as address": '<use href="javascript:alert(1)"/>',
    "an external image": '<image href="https://example.org/x.png"/>',
    "an animation": '<animate attributeName="href"/>',
    "a comment": "<!-- x -->",
    "raw characters": "<![CDATA[<b>x</b>]]>",
    "an instruction": "<?php x ?>",
    "an entity": "&x;",
    "an end of the page": "</svg></section></main><svg>",
    "an unclosed element": "<g>",
    "an element of the page": "<p>x</p>",
}
DAMAGES |= {f"with {name} in a drawing": part_json(DRAWN | {"svg": DRAWING.format(x)}) for name, x in UNWANTED.items()}
DAMAGES |= {
    f"with {name}": part_json(DRAWN | {"svg": svg})
    for name, svg in {
        "a handler of a drawing": '<svg viewBox="0 0 9 9" onload="alert(1)"></svg>',
        "HTML in place of a drawing": "<p>x</p>",
        "a drawing behind a declaration": f'<!DOCTYPE svg [<!ENTITY x "y">]>{DRAWING.format("&x;")}',
        "two drawings": 2 * DRAWING.format(""),
    }.items()
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_part_is_skipped_with_a_note(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ".kd" / "report"
    folder.mkdir(parents=True)
    (folder / "compare.json").write_bytes(content)
    html = publish(a_part(), tmp_path)
    assert "compare.json, saved by another command, was skipped: " in parsed(html).text
    assert "compare.json, saved by another command" in capsys.readouterr().out
    assert list(sections(html)) == ["verdict", "table"]
    assert not parsed(html).all("script")
    assert str(tmp_path) not in html.decode()
    assert (folder / "compare.json").read_bytes() == content


def test_a_saved_part_is_restored_unchanged(tmp_path: Path) -> None:
    part = a_part("compare", sections=(Section("map", EVIL, tuple(EVERY_BLOCK.values())),), toy=EVIL, tone="worse")
    publish(part, tmp_path)
    parts, notes = load_parts(tmp_path / ".kd" / "report")
    assert (parts, notes) == ([part], [])


EVIL_FIELDS = [
    (name, field)
    for name, whole in EVERY_BLOCK.items()
    for field, value in block(whole).items()
    if isinstance(value, str) and field not in ("block", "svg", "png")
]


@pytest.mark.parametrize(("name", "field"), EVIL_FIELDS)
def test_hostile_text_in_a_saved_part_stays_text(name: str, field: str, tmp_path: Path) -> None:
    """The text cannot break out of its field, element or section, and the page's policy forbids scripts."""
    breakout = f'"></title></desc></svg></p></div></section></main>{EVIL}<script>alert(2)</script>'
    (tmp_path / ".kd" / "report").mkdir(parents=True)
    content = part_json(block(EVERY_BLOCK[name], **{field: breakout}))
    (tmp_path / ".kd" / "report" / "compare.json").write_bytes(content)
    content = publish(a_part(), tmp_path)
    assert list(sections(content)) == ["verdict", "table", "map"]
    result = parsed(content)
    assert not result.all("script")
    assert {image["src"] for image in result.all("img")} <= {"data:image/png;base64,iVBORw0KGgo="}
    assert not [attributes for _, attributes in result.elements if "onerror" in attributes]
    assert len(result.all("main")) == len(result.all("section")) - 2 == 1
    (policy,) = (a["content"] for a in result.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_a_valid_part_of_an_unknown_command_is_shown(tmp_path: Path) -> None:
    (tmp_path / ".kd" / "report").mkdir(parents=True)
    (tmp_path / ".kd" / "report" / "export.json").write_bytes(part_json(source="export"))
    assert list(sections(publish(a_part(), tmp_path))) == ["verdict", "table", "map"]


def test_a_symbolic_link_as_part_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / ".kd" / "report"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere.json").write_bytes(part_json())
    (folder / "compare.json").symlink_to(tmp_path / "elsewhere.json")
    assert "compare.json is not a regular file" in parsed(publish(a_part(), tmp_path)).text
