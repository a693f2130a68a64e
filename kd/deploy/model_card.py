"""Model card of a deployable folder: README.md with the front matter that Hugging Face's Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd.console import printable_name
from kd.data.sources.table_encoding import Encoding
from kd.deploy.export import Candidate, Exported
from kd.deploy.manifest import Manifest
from kd.evaluation.two_models import Accuracy
from kd.formatting import equate_p

_SHOWN = 20  # class names, or columns, in the text


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        data: name of the dataset.
        arm: "distilled", "control", "teacher", or "model" if it was not trained here.
        training: settings of its training, by name.
        licence: identifier of the model's licence on the Hub.
    """

    data: str
    arm: str
    training: Mapping[str, str] = field(default_factory=dict)
    licence: str = "unknown"


def write_card(
    candidate: Candidate, exported: Sequence[Exported], origin: Origin, reference: Accuracy, *, onnx: str | None
) -> str:
    """Return the model card.

    Args:
        reference: accuracy of the network in PyTorch.
        onnx: name of the file that ``infer.py`` runs; None without one.
    """
    parts = [
        _front_matter(candidate, origin, reference, library="pytorch" if onnx is None else "onnx"),
        f"# {_escape(candidate.architecture)} ({origin.arm}) for {_escape(origin.data)}",
        *_warn(candidate),
        _describe_use(candidate, onnx),
        _describe_data(candidate, origin),
        _describe_training(origin),
        _describe_evaluation(candidate, exported, reference),
        _describe_limits(candidate, exported),
        f"## Licence\n\n`{origin.licence}`. {_LICENCE}",
    ]
    return "\n\n".join(parts) + "\n"


_LICENCE = "Check the licences of the data and of any pretrained weights: they may restrict the use of the model."


def _front_matter(candidate: Candidate, origin: Origin, reference: Accuracy, *, library: str) -> str:
    task, data = _name_task(candidate.manifest), printable_name(origin.data)
    result = {
        "task": {"type": task or "other"},
        "dataset": {"name": data, "type": re.sub(r"[^\w.]+", "-", data.lower())},
        "metrics": [{"type": "accuracy", "value": round(reference.accuracy, 6)}],
    }
    matter = {
        "license": origin.licence,
        "library_name": library,
        **({"pipeline_tag": task} if task else {}),
        "tags": ["knowledge-distillation", library],
        "model-index": [{"name": printable_name(candidate.architecture), "results": [result]}],
    }
    return "\n".join(["---", *(f"{name}: {_quote(value)}" for name, value in matter.items()), "---"])


def _name_task(manifest: Manifest) -> str | None:
    """Return the Hub's name of the task; None for sequences and tokens, which may be text, sound or anything else."""
    if manifest.noun == "images":
        return "image-classification"
    is_row = len(manifest.input_shape) == 1 and manifest.input_dtype != "int64"
    return "tabular-classification" if is_row else None


def _quote(value: Any) -> str:
    """Return a value as JSON, which is YAML too, except that YAML has no pairs of escapes for one character."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _warn(candidate: Candidate) -> list[str]:
    toy = candidate.manifest.toy
    return [f"**Quick run ({toy}): trained on a fraction of the data, for a trial only.**"] if toy else []


def _describe_use(candidate: Candidate, onnx: str | None) -> str:
    manifest = candidate.manifest
    shape = ", ".join(map(str, manifest.raw_shape))
    inputs = f"Inputs are {manifest.raw_dtype} [N, {shape}], raw: the ONNX and `.pt2` files normalise them themselves."
    if manifest.table is not None:
        inputs += _describe_columns(manifest.table)
    if size := manifest.preprocessing.resize:
        mode = "grayscale" if manifest.preprocessing.mode == "L" else "RGB"
        inputs += f" Image files must be {mode}, {size[0]} × {size[1]} pixels (`manifest.json`)."
    if onnx is None:
        return f"## Use\n\n{inputs} Class names in label order are in `labels.json`."
    code = (
        "from infer import predict  # needs numpy and onnxruntime\n"
        f"probabilities = predict(inputs)  # [N, {len(manifest.classes)}], columns as in labels.json"
    )
    return f"## Use\n\n{inputs}\n\n```python\n{code}\n```\n\nOr `python infer.py INPUTS.npy`. It runs `{onnx}`."


def _describe_columns(table: Encoding) -> str:
    """Return sentences on the columns that are inputs."""
    names = [f"{_escape(column.name)}{' (text)' * (column.kind == 'category')}" for column in table.used]
    lines = f" They are columns of the table, in this order: {_shorten(names)}. A missing value is NaN."
    if any(column.kind == "category" for column in table.used):
        lines += (
            " A text column is a number: the position of the text in its `levels` in `manifest.json`, `inputs`, from "
            "0, or −1 for any other text; `kd predict` reads the text itself."
        )
    return lines


def _shorten(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{rest}"


def _describe_data(candidate: Candidate, origin: Origin) -> str:
    names = [_escape(name) for name in candidate.manifest.classes]
    return f"## Data\n\n{_escape(origin.data)}; {len(names)} classes: {_shorten(names)}."


def _describe_training(origin: Origin) -> str:
    if not origin.training:
        return "## Training\n\nTrained elsewhere; the settings are unknown."
    rows = "\n".join(f"| {name} | {_escape(value)} |" for name, value in origin.training.items())
    return f"## Training\n\n| setting | value |\n|---|---|\n{rows}"


def _describe_evaluation(candidate: Candidate, exported: Sequence[Exported], reference: Accuracy) -> str:
    head = (
        f"Each file was run by its own runtime, in a new process, on all {reference.images:,} test "
        f"{candidate.manifest.noun}. Intervals are Wilson's, at 95 %."
    )
    rows = [f"| PyTorch | {_format_accuracy(reference)} | | | | |"]
    for result in exported:
        if result.problem or result.check is None:
            continue
        check = result.check
        times = " | ".join(f"{1000 * timing.median:.3g} ms" for timing in check.timings)
        accuracy = _format_accuracy(check.accuracy)
        rows.append(f"| `{result.file}` | {accuracy} | {check.agreement:.2%} | {check.size:,} | {times} |")
    threads = next((r.check.timings[0].threads for r in exported if r.check and r.check.timings), 1)
    columns = (
        "| file | accuracy | agreement with PyTorch | bytes | batch of 1 | batch of 128 |\n|---|---|---|---|---|---|"
    )
    foot = f"Times are medians on {threads} thread{'s' * (threads > 1)} of the exporting machine."
    return "\n\n".join(["## Evaluation", head, "\n".join([columns, *rows]), foot, *_describe_losses(exported)])


def _describe_losses(exported: Sequence[Exported]) -> list[str]:
    sentences = []
    for result in exported:
        check = result.check
        if result.problem or check is None or check.margin is None:
            continue
        shown = "which shows" if check.is_equivalence_shown else "so the test set is too small to show"
        change = f"gains {-check.loss:.2f}" if check.loss < 0 else f"loses {check.loss:.2f}"
        sentences.append(
            f"`{result.file}` {change} percentage points of accuracy against PyTorch, and at most "
            f"{check.loss_bound:.3f} for other test items (one-sided 95 % bound), {shown} a loss below the margin of "
            f"{check.margin:g}; exact McNemar {equate_p(check.test.p_value)}."
        )
    return sentences


def _describe_limits(candidate: Candidate, exported: Sequence[Exported]) -> str:
    order = "colours" if candidate.manifest.noun == "images" else "columns"
    limits = [
        "The model returns one of its classes for any input, even if the input belongs to no class.",
        "The accuracy holds for data like the test set; probabilities are not calibrated.",
        f"Inputs of another shape than {list(candidate.manifest.raw_shape)} are refused, but a wrong scale or order "
        f"of {order} is not detected.",
    ]
    if any(result.kind == "int8" and not result.problem for result in exported):
        limits.append("Results of the int8 file may differ slightly between processors.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _format_accuracy(accuracy: Accuracy) -> str:
    return f"{accuracy.accuracy:.2%} ({accuracy.accuracy_low_95:.2%} to {accuracy.accuracy_high_95:.2%})"


def _escape(text: str) -> str:
    """Return a name from data as one line without markup."""
    plain = printable_name(" ".join(text.split()))
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in plain)
