"""The images on which the two students disagree, with every model's probabilities.

There it can be seen what the teacher's softened answer, the "dark knowledge", adds to a label.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import torch
from matplotlib.image import imsave
from torch import Tensor

from kd.commands.run.disagreements import Example
from kd.commands.run.results import Run, is_image
from kd.report.html import fold, grid, inline, paragraph, table
from kd.report.style import short

_LEFT, _WIDTH, _ROW, _BAR, _ANSWER = 78, 320, 34, 28, 62  # the drawing of one image, in units of its view box
_NAMED_ANSWER, _NAMES = 104, 36  # where classes have names: the room for an answer, and below the columns


def gallery(run: Run) -> str:
    """HTML of some test images on which control and distilled student name different classes."""
    found, one = run.disagreements, run.noun[:-1]
    if not found.items:
        return paragraph(f"The two students give the same answer to every test {one}: there is nothing to show.")
    counts = "; ".join(f"{kind}: {count:,}" for kind, count in found.kinds.items())
    names = ["teacher", f"… at T = {run.temperature:g}", "control", "distilled"]
    intro = (
        f"The students' answers differ on {found.items:,} of {len(run.labels):,} test {run.noun} ({counts}). Shown "
        f"are {len(found.examples)}: the kinds in turn, and of each those on which the students' probabilities are "
        "farthest apart."
    )
    lesson = (
        "The second row of each is the teacher's answer softened by the temperature: what else the "
        f"{one} looks like, which a label does not tell."
    )
    if run.plain:
        lesson += f" Of such answers, to training {run.noun}, the distilled student's lesson consists."
    numbers = table(
        (f"test {one}", "label", "who errs", *names),
        [
            (
                f"{example.item:,}",
                run.named(example.label),
                example.kind,
                *(said(own, run.classes) for own in example.likeliest.values()),
            )
            for example in found.examples
        ],
        caption="The two likeliest classes of each model",
    )
    shown = is_image(run.test[0][0])
    drawn = (
        _shown(run, example, picture(run.test[example.item][0]) if shown else "", names) for example in found.examples
    )
    return (
        paragraph(intro)
        + paragraph(lesson)
        + grid(*drawn, of="cases")
        + fold("The same probabilities as a table", numbers)
    )


def picture(image: Tensor) -> str:
    """The image as an ``img`` element that has its PNG inside.

    One channel becomes dark ink on nothing, which the page turns into light ink where it is dark; three are colours.

    Args:
        image: [C, H, W] of any scale. With other than three channels their mean is shown.
    """
    image = image.detach().cpu().double()
    image = (image - image.min()) / max(float(image.max() - image.min()), 1e-12)
    channels, kind = image, "colours"
    if len(image) != 3:
        channels, kind = torch.zeros(4, *image.shape[1:], dtype=torch.double), "ink"
        channels[3] = image.mean(dim=0)
    buffer = io.BytesIO()
    pixels = channels.mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    # Without the version of the software, so that equal images are equal bytes; the stubs know of texts only.
    imsave(buffer, pixels, format="png", metadata={"Software": None})  # type: ignore[dict-item]
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="{kind}" alt="the test image" src="data:image/png;base64,{content}">'


def said(likeliest: Sequence[tuple[int, float]], names: Sequence[str] = ()) -> str:
    """Classes and their probabilities: "9 (71 %), 4 (20 %)", by their names where they have some."""
    return ", ".join(f"{names[label] if names else label} ({100 * value:.0f} %)" for label, value in likeliest)


def _shown(run: Run, example: Example, image: str, names: Sequence[str]) -> str:
    title = f"test {run.noun[:-1]} {example.item:,}"
    head = f"<strong>Label {escape(run.named(example.label))}</strong><br>{inline(example.kind)}<br>{title}"
    drawing = _drawing(run, example, title, names)
    return f'<figure class="case"><div class="head">{image}<p>{head}</p></div>{drawing}</figure>\n'


def _drawing(run: Run, example: Example, title: str, names: Sequence[str]) -> str:
    """A row of bars per model, a column per class, the true one on a band; on the right each row's answer."""
    classes, bottom = example.classes, _ROW * len(example.probabilities)
    height = bottom + (_NAMES if run.classes else 16)
    step = (_WIDTH - _LEFT - (_NAMED_ANSWER if run.classes else _ANSWER)) / len(classes)
    left = {label: _LEFT + step * place for place, label in enumerate(classes)}
    parts = [f'<rect class="of-label" x="{left[example.label]:.1f}" y="0" width="{step:.1f}" height="{height}"/>']
    for row, (model, values) in enumerate(example.probabilities.items()):
        base = _ROW * (row + 1) - 4
        parts += [_text(0, base - 4, names[row], "of-quiet" if model == "softened" else f"of-{model}")]
        parts += [f'<rect class="of-line" x="{_LEFT}" y="{base}" width="{step * len(classes):.1f}" height="0.6"/>']
        for label, value in zip(classes, values, strict=True):
            tall = _BAR * value
            if tall >= 0.1:
                corner = f'x="{left[label] + 0.12 * step:.1f}" y="{base - tall:.1f}"'
                parts += [f'<rect class="of-{model}" {corner} width="{0.76 * step:.1f}" height="{tall:.1f}"/>']
        top, value = example.likeliest[model][0]
        answer = f"{short(run.named(top), 9)} {'✓' if top == example.label else '✗'} {100 * value:.0f} %"
        parts += [_text(_WIDTH, base - 4, answer, "of-ink", anchor="end")]
    for label in classes:
        parts += [_class_name(left[label] + step / 2, bottom, run, label)]
    rows = zip(names, example.likeliest.values(), strict=True)
    told = "; ".join(f"{name}: {said(own, run.classes)}" for name, own in rows)
    name = f"case-{example.item}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">Probabilities for {title}</title>'
        f'<desc id="{name}-d">{escape(f"Label {run.named(example.label)}. {told}.")}</desc>{"".join(parts)}</svg>'
    )


def _class_name(x: float, bottom: float, run: Run, label: int) -> str:
    """Below its column: a number as it is, a name upwards to it."""
    if not run.classes:
        return _text(x, bottom + 12, label, "of-quiet", anchor="middle", size=9.5)
    place = f"translate({x + 2:.1f} {bottom + 6:.1f}) rotate(-55)"
    return f'<g transform="{place}">{_text(0, 0, short(run.named(label), 9), "of-quiet", anchor="end", size=7)}</g>'


def _text(x: float, y: float, text: object, kind: str, *, anchor: str = "start", size: float = 11) -> str:
    style = f"font-size: {size}px; text-anchor: {anchor}"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(str(text))}</text>'
