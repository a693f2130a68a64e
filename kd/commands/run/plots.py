"""The figures of a run: which ones there are, and which images are worth showing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd.commands.run.results import Run, is_image
from kd.evaluation.metrics import confusion_matrix
from kd.report import plots as draw
from kd.report.style import COLOURS, GREY, png

EXAMPLES = 6  # rows of prediction_examples


def teacher_figure(histories: Mapping[str, Mapping[str, list[float]]], toy: str | None) -> dict[str, bytes]:
    """``teacher_training`` as PNG: loss and accuracy of the teacher over the epochs, stamped if it is a toy run.

    Nothing where it was not trained here.
    """
    if "teacher" not in histories:
        return {}
    figure = draw.training_curves(
        {"teacher": histories["teacher"]}, {"loss": "Cross-entropy, nats", "acc": "Accuracy, %"}
    )
    return {"teacher_training": png(figure, toy=toy)}


def run_figures(run: Run, temperature: float) -> dict[str, bytes]:
    """Every figure of a run as PNG, by name.

    Args:
        temperature: that of the distillation, to show what the student saw of the teacher.
    """
    students = {name: history for name, history in run.histories.items() if name != "teacher"}
    errors = {name: int(run.wrong(name).sum()) for name in run.logits}
    matrices = {name: confusion_matrix(logits, run.labels) for name, logits in run.logits.items()}
    figures: dict[str, Callable[[], Figure]] = {
        "training_curves": lambda: draw.training_curves(students, run.panels),
        "accuracy_comparison": lambda: draw.accuracy_comparison(errors, len(run.labels), noun=run.noun),
        "confusion_matrices": lambda: draw.confusion_matrices(matrices, run.classes),
    }
    if is_image(run.test[0][0]):
        figures["prediction_examples"] = lambda: prediction_examples(run, temperature)
    # One after another: as figures they take megabytes each, as PNG next to nothing.
    drawn = {name: png(figure(), toy=run.toy) for name, figure in figures.items()}
    return teacher_figure(run.histories, run.toy) | drawn


def prediction_examples(run: Run, temperature: float) -> Figure:
    """The images of ``choose_examples`` with every model's probabilities, the teacher's also as they were softened."""
    chosen = choose_examples({name: run.wrong(name) for name in run.logits}, run.logits)
    rows = torch.tensor([index for index, _ in chosen], dtype=torch.long)
    probabilities = {
        "teacher": run.logits["teacher"][rows].softmax(dim=1),
        f"teacher, softened (T = {temperature:g})": ((run.logits["teacher"][rows] / temperature).softmax(dim=1)),
        "regular student": run.logits["regular"][rows].softmax(dim=1),
        "distilled student": run.logits["distilled"][rows].softmax(dim=1),
    }
    return draw.prediction_examples(
        [run.test[int(index)][0] for index in rows],
        run.labels[rows].tolist(),
        [caption for _, caption in chosen],
        probabilities,
        [COLOURS["teacher"], GREY, COLOURS["regular"], COLOURS["distilled"]],
        run.classes,
    )


def choose_examples(wrong: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> list[tuple[int, str]]:
    """Up to EXAMPLES test images that teach, as (index, what it shows): the kinds take turns, clearest cases first.

    A kind is who errs. Within it the images on which the two students' probabilities are farthest apart come first;
    among those where they agree, the ones on which the teacher is least sure.
    """
    teacher, regular, distilled = wrong["teacher"], wrong["regular"], wrong["distilled"]
    kinds = {
        "only the regular student errs": ~teacher & regular & ~distilled,
        "only the distilled student errs": ~teacher & ~regular & distilled,
        "both students err": ~teacher & regular & distilled,
        "the teacher errs": teacher,
    }
    probabilities = {name: values.softmax(dim=1) for name, values in logits.items()}
    distance = (probabilities["regular"] - probabilities["distilled"]).abs().sum(dim=1)
    clarity = distance - 0.01 * probabilities["teacher"].amax(dim=1)
    return in_turns(kinds, clarity, places=EXAMPLES)


def in_turns(kinds: Mapping[str, Tensor], clarity: Tensor, *, places: int) -> list[tuple[int, str]]:
    """(index, kind) of so many members at most: the kinds take turns, each with its clearest member left; by kind.

    Args:
        kinds: name → [N] bool, its members.
        clarity: [N], higher is clearer.
    """
    ranked = {
        kind: sorted(member.nonzero().flatten().tolist(), key=lambda i: -float(clarity[i]))
        for kind, member in kinds.items()
    }
    turns = [(rank, kind) for rank in range(places) for kind in kinds if rank < len(ranked[kind])]
    chosen = [(ranked[kind][rank], kind) for rank, kind in turns[:places]]
    order = list(kinds)
    return sorted(chosen, key=lambda example: order.index(example[1]))
