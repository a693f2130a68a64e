"""The bars of a ``Case`` as SVG: a row for each model, a column for each class."""

from __future__ import annotations

from html import escape

from kd.report.blocks import Case

_LEFT, _WIDTH, _ROW, _BAR, _PREDICTION = 78, 320, 34, 28, 62  # in units of the view box
_NAMED_PREDICTION, _NAMES = 104, 36  # if classes have names: space for a prediction, and below the columns


def draw_case(case: Case) -> str:
    """Draw a case as SVG. A band marks the true class; each row's prediction is on the right."""
    bottom = _ROW * len(case.rows)
    height = bottom + (_NAMES if case.named else 16)
    step = (_WIDTH - _LEFT - (_NAMED_PREDICTION if case.named else _PREDICTION)) / len(case.classes)
    left = [_LEFT + step * column for column in range(len(case.classes))]
    parts = [f'<rect class="of-label" x="{left[case.true]:.1f}" y="0" width="{step:.1f}" height="{height}"/>']
    for number, row in enumerate(case.rows):
        base = _ROW * (number + 1) - 4
        colour = f"of-{escape(row.model)}"
        parts += [_draw_text(0, base - 4, row.title, "of-quiet" if row.model == "softened" else colour)]
        parts += [f'<rect class="of-line" x="{_LEFT}" y="{base}" width="{step * len(left):.1f}" height="0.6"/>']
        for x, value in zip(left, row.values, strict=True):
            length = _BAR * value
            if length >= 0.1:
                corner = f'x="{x + 0.12 * step:.1f}" y="{base - length:.1f}"'
                parts += [f'<rect class="{colour}" {corner} width="{0.76 * step:.1f}" height="{length:.1f}"/>']
        name, value = row.likeliest[0]
        prediction = f"{shorten(name, 9)} {'✓' if row.right else '✗'} {100 * value:.0f} %"
        parts += [_draw_text(_WIDTH, base - 4, prediction, "of-ink", anchor="end")]
    parts += [
        _draw_class_name(x + step / 2, bottom, name, case.named) for x, name in zip(left, case.classes, strict=True)
    ]
    description = "; ".join(f"{row.title}: {row.summary}" for row in case.rows)
    name = f"case-{case.item}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">Probabilities for {escape(case.title)}</title>'
        f'<desc id="{name}-d">{escape(f"Label {case.label}. {description}.")}</desc>{"".join(parts)}</svg>'
    )


def _draw_class_name(x: float, bottom: float, name: str, named: bool) -> str:
    """Draw a class's label below its column: a number upright, a name slanted."""
    if not named:
        return _draw_text(x, bottom + 12, name, "of-quiet", anchor="middle", size=9.5)
    transform = f"translate({x + 2:.1f} {bottom + 6:.1f}) rotate(-55)"
    return f'<g transform="{transform}">{_draw_text(0, 0, shorten(name, 9), "of-quiet", anchor="end", size=7)}</g>'


def _draw_text(x: float, y: float, text: str, kind: str, *, anchor: str = "start", size: float = 11) -> str:
    style = f"font-size: {size}px; text-anchor: {anchor}"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(text)}</text>'


def shorten(name: str, length: int = 14) -> str:
    """Cut a name to at most ``length`` characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"
