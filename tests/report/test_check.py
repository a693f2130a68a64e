"""HTML that no helper of the report makes is refused, and named; all that the helpers make is let through."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from kd.report.check import require_plain_html
from kd.report.html import card, code, fold, grid, paragraph, table, warning
from kd.report.svg import figure

UNWANTED = {
    "a script": "<script>alert(1)</script>",
    "a script in a drawing": "<svg><script>alert(1)</script></svg>",
    "another page": '<iframe src="data:text/html,x"></iframe>',
    "a link": '<a href="http://example.org">x</a>',
    "a style sheet": "<style>body { display: none }</style>",
    "a form": "<form><input></form>",
    "a section of its own": '<section id="cost"></section>',
    "a base": '<base href="//example.org">',
    "a refresh": '<meta http-equiv="refresh" content="0; url=//example.org">',
    "a handler": '<p onclick="alert(1)">x</p>',
    "a handler in capitals": '<p ONCLICK="alert(1)">x</p>',
    "a handler in a drawing": '<svg onload="alert(1)"></svg>',
    "a picture from elsewhere": '<img alt="" src="https://example.org/x.png">',
    "a picture that is a drawing": '<img alt="" src="data:image/svg+xml;base64,AAAA">',
    "a set of pictures": '<img alt="" srcset="x.png 2x">',
    "a drawing of elsewhere": '<svg><use href="other.svg#x"/></svg>',
    "an address of a script": '<svg><use href="javascript:alert(1)"/></svg>',
    "a foreign object": "<svg><foreignobject><p>x</p></foreignobject></svg>",
    "an animation": '<svg><animate attributeName="href"/></svg>',
    "a style that loads": '<p style="background: url(https://example.org/x)">x</p>',
    "a style that loads, escaped": '<p style="background: \\75rl(x)">x</p>',
    "a style that loads a set": '<p style="background: image-set(x)">x</p>',
    "a style that covers the page": '<p style="position: fixed">x</p>',
    "a comment": "<!-- x -->",
    "a declaration": "<!doctype html>",
    "an instruction": "<?php x ?>",
    "raw characters": "<![CDATA[x]]>",
    "an unclosed element": "<div><p>x</p>",
    "an end without a start": "</main>",
    "an end of another": "<p>x</div>",
    "an end in disorder": "<p><b>x</p></b>",
    "an element that closes itself": "<div/>",
    "an unfinished tag": "<p>x</p><div",
    "an unfinished comment": "<p>x</p><!-- x",
}


@pytest.mark.parametrize("html", UNWANTED.values(), ids=UNWANTED)
def test_what_the_helpers_do_not_make_is_refused(html: str) -> None:
    with pytest.raises(ValueError, match=r"the section x is not HTML as the report's own helpers make it: "):
        require_plain_html(html, "the section x")


def test_the_message_says_what_should_not_be_there() -> None:
    with pytest.raises(ValueError, match=r"own helpers make it: onclick='alert\(1\)' in <p>\."):
        require_plain_html('<p onclick="alert(1)">x</p>', "x")
    with pytest.raises(ValueError, match=r"own helpers make it: <div> is not closed\."):
        require_plain_html("<div>", "x")


def drawn() -> Figure:
    made = Figure()
    axes = made.subplots()
    axes.plot([0, 1], [1, 0], marker="o", label="<b> & more")
    axes.imshow([[0, 1], [1, 0]])
    axes.errorbar([0], [1], yerr=[1], capsize=3)
    axes.text(0, 0, "x", alpha=0.5)
    made.legend()
    return made


def test_what_the_helpers_make_is_let_through() -> None:
    text = "<script>alert('`x`')</script> & \"more\""
    pieces = (
        paragraph(text),
        warning(text),
        code(text),
        table([text, "n"], [[text, 1.5], [text, None]], caption=text),
        card(text, text, text, {text: text}, colour=text),
        figure(drawn(), alt=text, caption=text),
    )
    require_plain_html(fold(text, grid(*pieces, of=text)), "x")
