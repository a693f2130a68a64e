"""Report section on test images for which the two students disagree, with the probabilities of all models.

The softened teacher probabilities show the "dark knowledge" that a label lacks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from kd.arms import ARMS, STUDENTS, TEACHER
from kd.commands.run.disagreements import Example
from kd.commands.run.results import Run, is_image
from kd.report.blocks import Bars, Block, Case, Fold, Grid, Paragraph, table
from kd.report.pictures import holds_drawings, stored_image, to_pixels


def show_disagreements(run: Run) -> tuple[Block, ...]:
    """Show some test images on which control and distilled student predict different classes."""
    disagreements, image = run.disagreements, run.noun[:-1]
    if not disagreements.items:
        return (Paragraph(f"The two students predict the same class for every test {image}."),)
    counts = "; ".join(f"{kind}: {count:,}" for kind, count in disagreements.kinds.items())
    names = [ARMS[TEACHER].short, f"… at T = {run.temperature:g}", *(ARMS[name].short for name in STUDENTS)]
    intro = (
        f"The students' predictions differ on {disagreements.items:,} of {len(run.labels):,} test {run.noun} "
        f"({counts}). Of these, {len(disagreements.examples)} are shown: for each kind of error, the {run.noun} on "
        "which the students' probabilities differ most."
    )
    explanation = (
        "The second row of each example has the teacher's probabilities softened by the temperature. They show which "
        f"other classes the {image} resembles; a label does not."
    )
    if run.is_plain_kd:
        explanation += f" Such probabilities, on training {run.noun}, are the soft targets of the distilled student."
    ink = is_image(run.test[0][0]) and holds_drawings(run.test)
    cases = tuple(_make_case(run, example, names, ink=ink) for example in disagreements.examples)
    numbers = table(
        (f"test {image}", "label", "who errs", *names),
        [(f"{case.item:,}", case.label, case.kind, *(row.summary for row in case.rows)) for case in cases],
        caption="The two likeliest classes of each model",
    )
    return (
        Paragraph(intro),
        Paragraph(explanation),
        Grid(cases, of="cases"),
        Fold("The same probabilities as a table", (numbers,)),
    )


def _make_case(run: Run, example: Example, names: Sequence[str], *, ink: bool) -> Case:
    """Return an example as a case: its image, if the sample is one, and a row of bars per model."""
    rows = (
        Bars(
            model,
            title,
            tuple(values),
            tuple((run.class_name(label), value) for label, value in example.likeliest[model]),
            right=example.likeliest[model][0][0] == example.label,
        )
        for title, (model, values) in zip(names, example.probabilities.items(), strict=True)
    )
    has_image = is_image(run.test[example.item][0])
    png = encode_image(stored_image(run.test, example.item), ink=ink) if has_image else ""
    return Case(
        example.item,
        f"test {run.noun[:-1]} {example.item:,}",
        run.class_name(example.label),
        example.kind,
        tuple(map(run.class_name, example.classes)),
        example.classes.index(example.label),
        bool(run.classes),
        tuple(rows),
        png,
        ink,
    )


def encode_image(image: Tensor, *, ink: bool) -> str:
    """Return the image as base64 PNG.

    Args:
        image: [C, H, W] in [0, 1]. Three or four channels are colours; otherwise the mean of the channels is shown.
        ink: make the image black on transparent, which a page in dark mode inverts.
    """
    channels = to_pixels(image)
    if ink:
        channels = torch.cat([torch.zeros(3, *image.shape[1:], dtype=channels.dtype), channels])
    buffer = io.BytesIO()
    pixels = channels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(pixels.squeeze(2).contiguous().numpy()).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
