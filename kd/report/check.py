"""Whether a piece of HTML is only what the report's helpers make: an allow-list of elements, attributes and values.

The pieces of other commands are read back from files, and a page must not do what such a file says. Beside this stands
the page's own Content-Security-Policy, by which a browser runs no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser

_TEXT = """
p div span strong em small br code pre h3 h4 ul ol li dl dt dd details summary
figure figcaption img table caption thead tbody tr th td
"""
_DRAWING = "g path rect line circle polyline use defs clippath text tspan title desc image"
_ELEMENTS, _DRAWN = frozenset(_TEXT.split()), frozenset(_DRAWING.split())
_WITHOUT_END = frozenset({"br", "img"})
_WORDS = """
class id style role tabindex scope colspan rowspan alt width height x y x1 y1 x2 y2 cx cy r d points transform viewbox
clip-path fill fill-opacity stroke stroke-width opacity text-anchor preserveaspectratio
"""
_ATTRIBUTES = frozenset(_WORDS.split())
# Of an address only these: an element of the same page, or a picture that is written out in it.
_PICTURE = r"data:image/png;base64,[A-Za-z0-9+/=\s]*"
_ADDRESSES = {"href": re.compile(rf"#[\w-]+|{_PICTURE}"), "src": re.compile(_PICTURE)}
_UNWANTED_STYLE = re.compile(r"url\((?!#[\w-]+\))|image(-set)?\(|expression|[\\@<]|position", re.IGNORECASE)


def require_plain_html(html: str, where: str) -> None:
    """Refuse what no helper of the report makes: scripts, handlers, addresses, styles that load, unclosed elements.

    Args:
        where: what the HTML is, for the error message.

    Raises:
        ValueError: naming what should not be there.
    """
    checker = _Checker(where)
    checker.feed(html)
    if "<" in checker.rawdata:  # what waits for its end; closing would take it for text
        raise checker.refused(f"an unfinished tag: {checker.rawdata[:40]!r}")
    checker.close()
    if checker.open:
        raise checker.refused(f"<{checker.open[-1]}> is not closed")


class _Checker(HTMLParser):
    def __init__(self, where: str) -> None:
        super().__init__(convert_charrefs=True)
        self.where, self.open = where, list[str]()

    def refused(self, reason: str) -> ValueError:
        return ValueError(f"{self.where} is not HTML as the report's own helpers make it: {reason}.")

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self._check(tag, attributes)
        if tag not in _WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self._check(tag, attributes)
        if tag not in _DRAWN | _WITHOUT_END:  # a browser takes <div/> for an open <div>
            raise self.refused(f"<{tag}/> closes itself")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise self.refused(f"</{tag}> closes what is not open")

    def handle_comment(self, data: str) -> None:
        raise self.refused("a comment")

    def handle_decl(self, decl: str) -> None:
        raise self.refused(f"<!{decl[:20]}>")

    def handle_pi(self, data: str) -> None:
        raise self.refused(f"<?{data[:20]}>")

    def unknown_decl(self, data: str) -> None:
        raise self.refused(f"<![{data[:20]}]>")

    def _check(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        drawing = "svg" in self.open
        if tag not in (_DRAWN if drawing else _ELEMENTS | {"svg"}):
            raise self.refused(f"<{tag}>{' inside a drawing' if drawing else ''}")
        for name, value in attributes:
            allowed = name in _ATTRIBUTES or name in _ADDRESSES or re.fullmatch(r"aria-[a-z]+", name)
            if not allowed or not _harmless(name, value or ""):
                raise self.refused(f"{name}={(value or '')[:40]!r} in <{tag}>")


def _harmless(name: str, value: str) -> bool:
    if name in _ADDRESSES:
        return bool(_ADDRESSES[name].fullmatch(value))
    if name in ("alt", "id", "class", "role", "d") or name.startswith("aria-"):
        return True  # words; no browser loads or runs anything for them
    return not _UNWANTED_STYLE.search(value)
