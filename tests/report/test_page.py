"""The shared page of all commands: ordered, escaped, self-contained and reproducible to the byte."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import matplotlib.figure
import pytest

from kd.report.blocks import Bars, Block, Card, Case, Code, Fold, Grid, Note, Paragraph, table
from kd.report.html import render
from kd.report.page import ORDER, Part, Section, page
from kd.report.svg import figure

pytestmark = pytest.mark.pictures

EVIL = "<script>alert('x')</script><img src=x onerror=\"alert('y')\"> & `code`"


@dataclass
class Found(HTMLParser):
    """Elements of a page with their attributes, and its text, as a browser would parse them."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside.append(tag)

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(content: bytes | str) -> Found:
    result = Found()
    result.feed(content.decode() if isinstance(content, bytes) else content)
    return result


def sections(content: bytes) -> dict[str, str]:
    """Return the HTML of each section of a page."""
    return dict(re.findall(r'<section id="([\w-]+)".*?>\n(.*?)</section>', content.decode(), re.DOTALL))


def a_part(source: str = "run", *names: str, **changed: object) -> Part:
    sections_of_part = tuple(
        Section(name, f"About {name}", (Paragraph(f"{name} by {source}"),)) for name in names or ("table",)
    )
    return replace(Part(source, f"What {source} says.", None, sections_of_part), **changed)  # type: ignore[arg-type]


def a_case(text: str, png: str = "iVBORw0KGgo=") -> Case:
    bars = Bars(text, text, (0.25, 0.75), ((text, 0.75), (text, 0.25)), right=True)
    return Case(7, text, text, text, (text, text), 1, True, (bars, bars), png, ink=True)


def a_plot() -> matplotlib.figure.Figure:
    plot = matplotlib.figure.Figure(figsize=(4, 3))
    axes = plot.subplots()
    axes.plot([0, 1, 2], [1, 0, 1], marker="o", color="#0072B2", label=EVIL)
    axes.plot([0, 1], [0, 1], color="#000000")
    plot.legend()
    return plot


# --- blocks


EVERY_BLOCK: dict[str, Block] = {
    "paragraph": Paragraph(EVIL),
    "note": Note(EVIL),
    "code": Code(EVIL),
    "table": table([EVIL, EVIL], [[EVIL, EVIL]], caption=EVIL),
    "figure": figure(a_plot(), alt=EVIL, caption=EVIL),
    "card": Card(EVIL, EVIL, EVIL, ((EVIL, EVIL),), model=EVIL),
    "case": a_case(EVIL),
    "fold": Fold(EVIL, (Paragraph(EVIL),)),
    "grid": Grid((Paragraph(EVIL), Grid((Note(EVIL),), of=EVIL)), of=EVIL),
}


@pytest.mark.parametrize("block", EVERY_BLOCK.values(), ids=EVERY_BLOCK)
def test_every_text_is_escaped_and_unchanged(block: Block) -> None:
    result = parsed(render([block]))
    assert "script" not in {tag for tag, _ in result.elements}
    assert [image["src"] for image in result.all("img")] == ["data:image/png;base64,iVBORw0KGgo="] * isinstance(
        block, Case
    )
    assert not [attributes for _, attributes in result.elements if "onerror" in attributes]
    assert EVIL.replace("`", "") in result.text.replace("`", "")


def test_backticks_become_code() -> None:
    assert render([Paragraph("Try `kd <x>`.")]) == "<p>Try <code>kd &lt;x&gt;</code>.</p>"


def test_a_table_has_column_and_row_headers_and_right_aligned_numbers() -> None:
    rows = [("a", "1,234 %", "0a1b" * 16, None), ("b", "−0.5 ms (2)", "11bc" * 16, ""), ("c", "16.2 ± 7.5", "x", "")]
    result = parsed(render([table(("name", "number", "digest", "nothing"), rows)]))
    assert [a["scope"] for a in result.all("th")] == ["col"] * 4 + ["row"] * 3
    assert [a.get("class") for a in result.all("td")] == ["number", None, None] * 3
    assert result.text.count("–") == 3
    (region,) = result.all("div")
    assert (region["role"], region["tabindex"], region["aria-label"]) == (
        "region",
        "0",
        "Table: name, number, digest, nothing",
    )


def test_a_row_of_another_length_raises() -> None:
    with pytest.raises(ValueError, match=r"each row of a table needs 2 cells.* Got \['a'\]"):
        table(("x", "y"), [("a",)])


# --- figures


def test_a_figure_has_a_title_no_links_and_unique_ids() -> None:
    first, second = (render([figure(a_plot(), alt=alt, caption="A plot")]) for alt in ("one", "another"))
    for html, alt in ((first, "one"), (second, "another")):
        result = parsed(html)
        (svg,) = result.all("svg")
        title, description = svg["aria-labelledby"].split()
        assert (svg["role"], result.all("title"), result.all("desc")) == ("img", [{"id": title}], [{"id": description}])
        assert alt in result.text
        assert "http" not in html
    names = [[a["id"] for _, a in parsed(html).elements if "id" in a] for html in (first, second)]
    assert not set(names[0]) & set(names[1])
    assert all(len(set(ids)) == len(ids) for ids in names)
    for html, ids in zip((first, second), names, strict=True):
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)) <= {(n, "") for n in ids} | {
            ("", n) for n in ids
        }


def test_a_figure_uses_the_pages_colours() -> None:
    html = render([figure(a_plot(), alt="x")])
    assert "var(--distilled)" in html
    assert "currentColor" in html
    assert not re.search(r"#0{6}|#f{6}|#0072b2|DejaVu", html, re.IGNORECASE)
    assert "<style" not in html


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert figure(a_plot(), alt="x") == figure(a_plot(), alt="x")


# --- the page


def test_the_page_is_complete_in_itself_and_forbids_what_it_does_not_need() -> None:
    content = page([a_part()])
    result = parsed(content)
    assert not {tag for tag, _ in result.elements} & {"script", "link", "iframe", "object"}
    assert b"http://" not in content
    assert b"https://" not in content
    (policy,) = (a["content"] for a in result.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.split("; ")[0] == "default-src 'none'"
    assert "script-src" not in policy
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in result.all("meta")


def test_sections_follow_the_pages_order_and_the_contents_link_to_each() -> None:
    names = [*reversed(ORDER), "zebra", "apples"]
    content = page([a_part("run", *names)])
    expected = [*ORDER[:-1], "apples", "zebra", ORDER[-1]]
    assert list(sections(content)) == expected
    links = [a["href"] for a in parsed(content).all("a")]
    assert links == ["#top", *(f"#{name}" for name in expected)]


def test_sections_with_the_same_name_share_a_chapter_and_name_their_command() -> None:
    content = page([a_part("run", "table", "cost"), a_part("sweep", "map", "cost"), a_part("compare", "table")])
    result = sections(content)
    assert list(result) == ["verdict", "table", "map", "cost"]
    assert parsed(result["table"]).text.split() == [
        *("Results", "About", "table", "by", "kd", "compare", "table", "by", "compare"),
        *("About", "table", "by", "the", "run", "table", "by", "run"),
    ]
    assert "by the run" not in result["map"]


@pytest.mark.parametrize("order", [("run", "compare", "sweep"), ("sweep", "compare", "run")])
def test_the_verdict_of_several_seeds_comes_first(order: tuple[str, ...]) -> None:
    parts = [a_part(source, tone="better" if source == "compare" else "open") for source in order]
    verdict = sections(page(parts))["verdict"]
    assert verdict.index("What compare says.") < verdict.index("What run says.") < verdict.index("What sweep says.")
    (box,) = [a for a in parsed(verdict).all("div") if "verdict" in a["class"].split()]
    assert box["class"] == "verdict better"
    assert "Better" in verdict


def test_a_part_without_a_verdict_adds_none() -> None:
    assert "No command has reached a verdict yet." in sections(page([a_part(verdict="")]))["verdict"]
    verdict = sections(page([a_part("compare", verdict=""), a_part("run")]))["verdict"]
    assert "What run says." in verdict


def test_a_toy_run_is_stamped_and_a_full_one_is_not() -> None:
    assert 'class="toy"' not in page([a_part()]).decode()
    content = page([a_part(toy="LIMIT=300"), a_part("compare")]).decode()
    assert '<p class="toy"' in content
    assert "(the run: LIMIT=300): too small to conclude anything from" in parsed(content).text
    assert "<title>Quick run" in content


def test_parts_with_different_settings_give_a_warning() -> None:
    same = {"EPOCHS": "10", "ALPHA": "0.5"}
    one, other = a_part("run", settings=same), a_part("compare", settings={"EPOCHS": "10", "SEEDS": "5"})
    assert "different models" not in page([one, other]).decode()
    other = replace(other, settings={"EPOCHS": "3", "ALPHA": "0.5"})
    assert "describe different models: EPOCHS is 3 in kd compare and 10 in the run." in parsed(page([one, other])).text


def test_all_text_of_a_part_is_escaped() -> None:
    part = a_part(verdict=EVIL, toy=EVIL, sections=(Section("table", EVIL, (Paragraph(EVIL),)),), settings={EVIL: "a"})
    content = page([part, a_part("compare", settings={EVIL: "b"})], notes=[EVIL])
    assert not parsed(content).all("script")
    assert not parsed(content).all("img")
    assert parsed(content).text.count(EVIL) == 5  # stamp, note, conflict, verdict, title


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (a_part("../run"), "Got '../run'"),
        (a_part("run", "A table"), "Got 'A table'"),
        (a_part("run", "table", "table"), "unique. Got 'table'"),
        (a_part(tone="good"), "tone must be one of better, partly, worse, equal, open, mixed. Got 'good'"),
    ],
)
def test_an_invalid_part_raises(part: Part, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        page([part])
