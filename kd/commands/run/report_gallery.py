"""The images on which the two students disagree, with every model's probabilities.

There it can be seen what the teacher's softened answer, the "dark knowledge", adds to a label.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import torch
from matplotlib.image import imsave
from torch import Tensor

from kd.commands.run.plots import in_turns
from kd.commands.run.results import Run, is_image
from kd.report.html import fold, grid, inline, paragraph, table
from kd.report.style import short

PLACES = 12
CLASSES = 12  # drawn for one image; of more, those that a model finds likely
_LEFT, _WIDTH, _ROW, _BAR, _ANSWER = 78, 320, 34, 28, 62  # the drawing of one image, in units of its view box
_NAMED_ANSWER, _NAMES = 104, 36  # where classes have names: the room for an answer, and below the columns


class Case(NamedTuple):
    """The test item of this number.

    Attributes:
        rows: the probabilities [K] to show, by ``teacher``, ``softened``, …
        classes: their names, where they are more than numbers.
        noun: what the items are called.
    """

    number: int
    label: int
    kind: str
    rows: dict[str, Tensor]
    classes: Sequence[str] = ()
    noun: str = "images"

    @property
    def title(self) -> str:
        """Which item it is."""
        return f"test {self.noun[:-1]} {self.number:,}"

    def named(self, label: int) -> str:
        """The class of this label as a person knows it."""
        return self.classes[label] if self.classes else str(label)


def gallery(run: Run, temperature: float) -> str:
    """HTML of up to PLACES test images on which control and distilled student name different classes.

    Args:
        temperature: T > 0 of the distillation.
    """
    kinds = disagreements(run)
    total = int(sum(member.sum() for member in kinds.values()))
    if not total:
        return paragraph(
            f"The two students give the same answer to every test {run.noun[:-1]}: there is nothing to show."
        )
    counts = "; ".join(f"{kind}: {int(member.sum()):,}" for kind, member in kinds.items())
    control, distilled = (run.logits[name].softmax(dim=1) for name in ("regular", "distilled"))
    chosen = in_turns(kinds, (control - distilled).abs().sum(dim=1), places=PLACES)
    shown = is_image(run.test[0][0])
    cases = [_case(run, index, kind, temperature) for index, kind in chosen]
    names = ["teacher", f"… at T = {temperature:g}", "control", "distilled"]
    intro = (
        f"The students' answers differ on {total:,} of {len(run.labels):,} test {run.noun} ({counts}). Shown are "
        f"{len(cases)}: the kinds in turn, and of each those on which the students' probabilities are farthest apart."
    )
    lesson = (
        "The second row of each is the teacher's answer softened by the temperature: what else the "
        f"{run.noun[:-1]} looks like, which a label does not tell."
    )
    if run.plain:
        lesson += f" Of such answers, to training {run.noun}, the distilled student's lesson consists."
    numbers = table(
        (f"test {run.noun[:-1]}", "label", "who errs", *names),
        [
            (
                f"{case.number:,}",
                case.named(case.label),
                case.kind,
                *(said(row, case.classes) for row in case.rows.values()),
            )
            for case in cases
        ],
        caption="The two likeliest classes of each model",
    )
    drawn = (_shown(case, picture(run.test[case.number][0]) if shown else "", names) for case in cases)
    return (
        paragraph(intro)
        + paragraph(lesson)
        + grid(*drawn, of="cases")
        + fold("The same probabilities as a table", numbers)
    )


def disagreements(run: Run) -> dict[str, Tensor]:
    """[N] masks of the test images on which the students' answers differ, by who errs. No image is in two."""
    control, distilled = run.wrong("regular"), run.wrong("distilled")
    differ = run.logits["regular"].argmax(dim=1) != run.logits["distilled"].argmax(dim=1)
    return {
        "only the control errs": differ & control & ~distilled,
        "only the distilled student errs": differ & ~control & distilled,
        "both err, differently": differ & control & distilled,
    }


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


def said(probabilities: Tensor, names: Sequence[str] = ()) -> str:
    """The two likeliest classes of [K]: "9 (71 %), 4 (20 %)", by their names where they have some."""
    values, classes = probabilities.topk(2)
    pairs = zip(classes.tolist(), values.tolist(), strict=True)
    return ", ".join(f"{names[label] if names else label} ({100 * value:.0f} %)" for label, value in pairs)


def classes_shown(case: Case) -> list[int]:
    """All classes where there are few; else the true one and those to which a model gives most, CLASSES together."""
    highest = torch.stack([*case.rows.values()]).amax(dim=0)
    if len(highest) <= CLASSES:
        return list(range(len(highest)))
    highest[case.label] = 2.0  # above any probability
    return sorted(highest.topk(CLASSES).indices.tolist())


def _case(run: Run, index: int, kind: str, temperature: float) -> Case:
    logits = {name: values[index].double() for name, values in run.logits.items()}
    rows = {
        "teacher": logits["teacher"].softmax(dim=0),
        "softened": (logits["teacher"] / temperature).softmax(dim=0),
        "regular": logits["regular"].softmax(dim=0),
        "distilled": logits["distilled"].softmax(dim=0),
    }
    return Case(index, int(run.labels[index]), kind, rows, run.classes, run.noun)


def _shown(case: Case, image: str, names: Sequence[str]) -> str:
    head = f"<strong>Label {escape(case.named(case.label))}</strong><br>{inline(case.kind)}<br>{case.title}"
    return f'<figure class="case"><div class="head">{image}<p>{head}</p></div>{_drawing(case, names)}</figure>\n'


def _drawing(case: Case, names: Sequence[str]) -> str:
    """A row of bars per model, a column per class, the true one on a band; on the right each row's answer."""
    classes, bottom = classes_shown(case), _ROW * len(case.rows)
    height = bottom + (_NAMES if case.classes else 16)
    step = (_WIDTH - _LEFT - (_NAMED_ANSWER if case.classes else _ANSWER)) / len(classes)
    left = {label: _LEFT + step * place for place, label in enumerate(classes)}
    parts = [f'<rect class="of-label" x="{left[case.label]:.1f}" y="0" width="{step:.1f}" height="{height}"/>']
    for row, (model, values) in enumerate(case.rows.items()):
        base = _ROW * (row + 1) - 4
        parts += [_text(0, base - 4, names[row], "of-quiet" if model == "softened" else f"of-{model}")]
        parts += [f'<rect class="of-line" x="{_LEFT}" y="{base}" width="{step * len(classes):.1f}" height="0.6"/>']
        for label in classes:
            tall = _BAR * float(values[label])
            if tall >= 0.1:
                corner = f'x="{left[label] + 0.12 * step:.1f}" y="{base - tall:.1f}"'
                parts += [f'<rect class="of-{model}" {corner} width="{0.76 * step:.1f}" height="{tall:.1f}"/>']
        top = int(values.argmax())
        answer = f"{short(case.named(top), 9)} {'✓' if top == case.label else '✗'} {100 * float(values[top]):.0f} %"
        parts += [_text(_WIDTH, base - 4, answer, "of-ink", anchor="end")]
    for label in classes:
        parts += [_class_name(left[label] + step / 2, bottom, case, label)]
    rows = zip(names, case.rows.values(), strict=True)
    told = "; ".join(f"{name}: {said(values, case.classes)}" for name, values in rows)
    name = f"case-{case.number}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">Probabilities for {case.title}</title>'
        f'<desc id="{name}-d">{escape(f"Label {case.named(case.label)}. {told}.")}</desc>{"".join(parts)}</svg>'
    )


def _class_name(x: float, bottom: float, case: Case, label: int) -> str:
    """Below its column: a number as it is, a name upwards to it."""
    if not case.classes:
        return _text(x, bottom + 12, label, "of-quiet", anchor="middle", size=9.5)
    place = f"translate({x + 2:.1f} {bottom + 6:.1f}) rotate(-55)"
    return f'<g transform="{place}">{_text(0, 0, short(case.named(label), 9), "of-quiet", anchor="end", size=7)}</g>'


def _text(x: float, y: float, text: object, kind: str, *, anchor: str = "start", size: float = 11) -> str:
    style = f"font-size: {size}px; text-anchor: {anchor}"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(str(text))}</text>'
