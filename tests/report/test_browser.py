"""The report in a real browser: it opens from disk, loads nothing, and is readable in light and dark, at all widths."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kd.report.blocks import Card, Figure, Paragraph
from kd.report.page import Section, page
from tests.conftest import ToyRun
from tests.report.test_page import EVERY_BLOCK, a_part, sections

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.pictures]

WIDTHS = {"phone": 390, "small phone": 320, "tablet": 820, "laptop": 1200, "desktop": 1280}
INSTALLED = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
    with playwright.sync_playwright() as started:
        # The system's browser if there is one, else the browser of `playwright install chromium`.
        executable = next(filter(None, map(shutil.which, INSTALLED)), None)
        if executable is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("needs Chromium (Debian package chromium, or: playwright install chromium)")
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        launched = started.chromium.launch(executable_path=executable, args=flags)
        yield launched
        launched.close()


class Opened:
    """An open page, its requests and its console messages."""

    def __init__(self, browser: Any, path: Path, *, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(path.as_uri())

    def __call__(self, script: str) -> Any:
        return self.page.evaluate(script)


Open = Callable[..., Opened]


@pytest.fixture
def report(toy_run: ToyRun) -> Path:
    return toy_run.folder / "results" / "report.html"


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Open]:
    pages: list[Opened] = []

    def open_page(width: int = 1280, scheme: str = "light") -> Opened:
        pages.append(Opened(browser, report, width=width, scheme=scheme))
        return pages[-1]

    yield open_page
    for opened_page in pages:
        opened_page.page.close()


def luminance(colour: str) -> float:
    """Return the luminance of ``rgb(r, g, b)``, in [0, 1]."""
    red, green, blue = (int(number) / 255 for number in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_page_opens_from_disk_without_requests_or_errors(opened: Open, report: Path) -> None:
    page = opened()
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.messages == []
    assert page("document.images.length") > 3
    assert page("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_every_section_is_visible_and_linked_from_the_contents(opened: Open, report: Path) -> None:
    page = opened()
    names = list(sections(report.read_bytes()))
    assert len(names) == 10
    for name in names:
        box = page.page.locator(f"#{name}").bounding_box()
        assert box["height"] > 100, name
        page.page.locator(f'nav a[href="#{name}"]').click()
        page.page.wait_for_timeout(700)  # it scrolls smoothly
        top = page(f"document.getElementById('{name}').getBoundingClientRect().top")
        assert -5 <= top < 844, name


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_whole_contents_are_visible(browser: Any, tmp_path: Path, width: int) -> None:
    """Also those of a page with the sections of several commands, whose names are longer and more."""
    path = tmp_path / "report.html"
    titles = [f"A section with quite a long title {number}" for number in range(14)]
    path.write_bytes(page([a_part(sections=tuple(Section(f"s{n}", title, ()) for n, title in enumerate(titles)))]))
    opened_page = Opened(browser, path, width=width, scheme="light")
    nav = opened_page.page.locator("nav").bounding_box()
    for link in opened_page.page.locator("nav a").all():
        box = link.bounding_box()
        assert box["x"] >= nav["x"]
        assert box["x"] + box["width"] <= min(width, nav["x"] + nav["width"]) + 1
    opened_page.page.close()


def test_no_script_of_a_part_runs(browser: Any, tmp_path: Path) -> None:
    """Scripts do not even run in an unchecked drawing, because of the page's Content-Security-Policy."""
    evil = '<script>window.ran = 1</script><img src="x" onerror="window.ran = 2">'
    drawing = Figure('<svg viewBox="0 0 9 9"></svg>', evil, evil)
    hostile = f'<svg viewBox="0 0 9 9"><script>window.ran = 3</script><svg onload="window.ran = 4"></svg>{evil}</svg>'
    object.__setattr__(drawing, "svg", hostile)
    blocks = (*EVERY_BLOCK.values(), Paragraph(evil), Card(evil, evil, evil, ((evil, evil),), evil), drawing)
    part = a_part(verdict=evil, toy=evil, sections=(Section("map", evil, blocks),), settings={evil: evil})
    path = tmp_path / "report.html"
    path.write_bytes(page([part], notes=[evil]))
    opened_page = Opened(browser, path, width=1280, scheme="light")
    assert opened_page("document.querySelector('main').innerText").count("window.ran") > 8
    assert opened_page("window.ran === undefined")
    assert any("Content Security Policy" in complaint for complaint in opened_page.messages)
    opened_page.page.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_never_scrolls_sideways(opened: Open, width: int) -> None:
    page = opened(width)
    assert page("document.documentElement.scrollWidth") <= width
    # Only content in scrolling boxes may extend beyond the page.
    outside = page(
        f"""[...document.querySelectorAll('main *')].filter(element =>
        !element.closest('.scroll, pre, svg') && element.getBoundingClientRect().right > {width} + 1).length"""
    )
    assert outside == 0


def test_wide_content_scrolls_inside_its_box_on_a_phone(opened: Open) -> None:
    page = opened(390)
    wide = page("[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length")
    assert 0 < wide < 8
    page("document.querySelectorAll('details').forEach(element => { element.open = true })")
    assert page("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_page_and_drawings_follow_the_colour_scheme(opened: Open, scheme: str, dark: bool) -> None:
    page = opened(scheme=scheme)
    paper = luminance(page("getComputedStyle(document.body).backgroundColor"))
    fills = page("[...document.querySelectorAll('main p, svg text')].map(e => getComputedStyle(e).color)")
    plot_fills = page("[...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill)")
    lines = page("[...document.querySelectorAll('.chart svg path')].map(e => getComputedStyle(e).stroke)")
    assert (paper < 0.1) if dark else (paper > 0.95)
    for colour in [*fills, *plot_fills]:
        assert abs(luminance(colour) - paper) > 0.3, colour
    for colour in {line for line in lines if line.startswith("rgb")}:
        assert abs(luminance(colour) - paper) > 0.08, colour


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened: Open, scheme: str) -> None:
    """Text on a plain background has WCAG's contrast of 4.5 to 1."""
    page = opened(scheme=scheme)
    pairs = page(
        """[...document.querySelectorAll('main p, main dt, main dd, main td, main th, h2, h3, nav a')].map(element => {
        let behind = element;
        while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)' && behind.parentElement)
            behind = behind.parentElement;
        return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]})"""
    )

    def linear(colour: str) -> float:
        parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linearised = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linearised[0] + 0.7152 * linearised[1] + 0.0722 * linearised[2]

    for text, ground in {tuple(pair) for pair in pairs}:
        high, low = sorted((linear(text), linear(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_in_a_drawing_is_inside_it(opened: Open, width: int) -> None:
    page = opened(width)
    outside = page(
        """[...document.querySelectorAll('svg')].flatMap(svg => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(text => {
            const own = text.getBoundingClientRect();
            return own.left < box.left - 2 || own.right > box.right + 2 || own.top < box.top - 2 ||
                own.bottom > box.bottom + 2;
        }).map(text => text.textContent)})"""
    )
    assert outside == []


def test_the_stamp_of_a_toy_run_stays_visible(opened: Open) -> None:
    page = opened()
    for position in (0, 3000):
        page(f"window.scrollTo({{top: {position}, behavior: 'instant'}})")
        box = page.page.locator(".toy").bounding_box()
        assert box["y"] == pytest.approx(0, abs=1)
        assert "QUICK RUN" in page.page.locator(".toy").inner_text()


def test_the_page_can_be_printed(opened: Open) -> None:
    printed = opened().page.pdf()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
