"""The images on which the two students disagree, with every model's probabilities.

There it can be seen what the teacher's softened answer, the "dark knowledge", adds to a label.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from matplotlib.image import imsave
from torch import Tensor

from kd.arms import ARMS, STUDENTS, TEACHER
from kd.commands.run.disagreements import Example
from kd.commands.run.results import Run, is_image
from kd.report.blocks import Bars, Block, Case, Fold, Grid, Paragraph, table


def gallery(run: Run) -> tuple[Block, ...]:
    """Some test images on which control and distilled student name different classes."""
    found, one = run.disagreements, run.noun[:-1]
    if not found.items:
        return (Paragraph(f"The two students give the same answer to every test {one}: there is nothing to show."),)
    counts = "; ".join(f"{kind}: {count:,}" for kind, count in found.kinds.items())
    names = [ARMS[TEACHER].short, f"… at T = {run.temperature:g}", *(ARMS[name].short for name in STUDENTS)]
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
    cases = tuple(_case(run, example, names) for example in found.examples)
    numbers = table(
        (f"test {one}", "label", "who errs", *names),
        [(f"{case.item:,}", case.label, case.kind, *(row.told for row in case.rows)) for case in cases],
        caption="The two likeliest classes of each model",
    )
    return (
        Paragraph(intro),
        Paragraph(lesson),
        Grid(cases, of="cases"),
        Fold("The same probabilities as a table", (numbers,)),
    )


def _case(run: Run, example: Example, names: Sequence[str]) -> Case:
    """The item with its picture, if it is one, and a row of bars for each of the names."""
    rows = (
        Bars(
            model,
            title,
            tuple(values),
            tuple((run.named(label), value) for label, value in example.likeliest[model]),
            right=example.likeliest[model][0][0] == example.label,
        )
        for title, (model, values) in zip(names, example.probabilities.items(), strict=True)
    )
    item = run.test[example.item][0]
    png, ink = picture(item) if is_image(item) else ("", False)
    return Case(
        example.item,
        f"test {run.noun[:-1]} {example.item:,}",
        run.named(example.label),
        example.kind,
        tuple(map(run.named, example.classes)),
        example.classes.index(example.label),
        bool(run.classes),
        tuple(rows),
        png,
        ink,
    )


def picture(image: Tensor) -> tuple[str, bool]:
    """The image as PNG in base64, and whether it is ink.

    One channel becomes dark ink on nothing, which the page turns into light ink where it is dark; three are colours.

    Args:
        image: [C, H, W] of any scale. With other than three channels their mean is shown.
    """
    image = image.detach().cpu().double()
    image = (image - image.min()) / max(float(image.max() - image.min()), 1e-12)
    channels, ink = image, len(image) != 3
    if ink:
        channels = torch.zeros(4, *image.shape[1:], dtype=torch.double)
        channels[3] = image.mean(dim=0)
    buffer = io.BytesIO()
    pixels = channels.mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    # Without the version of the software, so that equal images are equal bytes; the stubs know of texts only.
    imsave(buffer, pixels, format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return base64.b64encode(buffer.getvalue()).decode(), ink
