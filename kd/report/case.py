"""The bars of a ``Case`` as SVG: a row for each model, a column for each class."""

from __future__ import annotations

from html import escape

from kd.report.blocks import Case

_LEFT, _WIDTH, _ROW, _BAR, _ANSWER = 78, 320, 34, 28, 62  # in units of the view box
_NAMED_ANSWER, _NAMES = 104, 36  # where classes have names: the room for an answer, and below the columns


def draw_case(case: Case) -> str:
    """The true class's column is on a band; on the right each row's answer."""
    bottom = _ROW * len(case.rows)
    height = bottom + (_NAMES if case.named else 16)
    step = (_WIDTH - _LEFT - (_NAMED_ANSWER if case.named else _ANSWER)) / len(case.classes)
    left = [_LEFT + step * place for place in range(len(case.classes))]
    parts = [f'<rect class="of-label" x="{left[case.true]:.1f}" y="0" width="{step:.1f}" height="{height}"/>']
    for number, row in enumerate(case.rows):
        base = _ROW * (number + 1) - 4
        colour = f"of-{escape(row.model)}"
        parts += [_draw_text(0, base - 4, row.title, "of-quiet" if row.model == "softened" else colour)]
        parts += [f'<rect class="of-line" x="{_LEFT}" y="{base}" width="{step * len(left):.1f}" height="0.6"/>']
        for x, value in zip(left, row.values, strict=True):
            tall = _BAR * value
            if tall >= 0.1:
                corner = f'x="{x + 0.12 * step:.1f}" y="{base - tall:.1f}"'
                parts += [f'<rect class="{colour}" {corner} width="{0.76 * step:.1f}" height="{tall:.1f}"/>']
        name, value = row.likeliest[0]
        answer = f"{shorten(name, 9)} {'✓' if row.right else '✗'} {100 * value:.0f} %"
        parts += [_draw_text(_WIDTH, base - 4, answer, "of-ink", anchor="end")]
    parts += [
        _draw_class_name(x + step / 2, bottom, name, case.named) for x, name in zip(left, case.classes, strict=True)
    ]
    told = "; ".join(f"{row.title}: {row.told}" for row in case.rows)
    name = f"case-{case.item}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">Probabilities for {escape(case.title)}</title>'
        f'<desc id="{name}-d">{escape(f"Label {case.label}. {told}.")}</desc>{"".join(parts)}</svg>'
    )


def _draw_class_name(x: float, bottom: float, name: str, named: bool) -> str:
    """Below its column: a number as it is, a name upwards to it."""
    if not named:
        return _draw_text(x, bottom + 12, name, "of-quiet", anchor="middle", size=9.5)
    place = f"translate({x + 2:.1f} {bottom + 6:.1f}) rotate(-55)"
    return f'<g transform="{place}">{_draw_text(0, 0, shorten(name, 9), "of-quiet", anchor="end", size=7)}</g>'


def _draw_text(x: float, y: float, text: str, kind: str, *, anchor: str = "start", size: float = 11) -> str:
    style = f"font-size: {size}px; text-anchor: {anchor}"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(text)}</text>'


def shorten(name: str, most: int = 14) -> str:
    """A name with so many characters at most."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
