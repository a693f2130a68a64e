"""The ``kd predict`` command: load a model, read the inputs, print or write the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd.commands.predict import text
from kd.commands.predict.settings import STANDARD_OUTPUT, PredictSettings
from kd.commands.predict.tables import csv_of_answers, json_of_answers
from kd.commands.trust import require_trusted
from kd.console import say
from kd.deploy.inputs import InputReader
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.predict import Answer, predict_items
from kd.deploy.stored_model import StoredModel, find_model, load_classifier
from kd.devices import device_named
from kd.imports import find_local_modules, is_plugin, list_files
from kd.storage.files import publish, require_writable


def run(settings: PredictSettings) -> None:
    """Predict all inputs that can be read; print the predictions and write the files.

    Raises:
        ValueError: the model cannot be used, or an input could not be predicted; the others were, and are written.
        OSError: a file cannot be read or written.
    """
    settings.check()
    stored = find_model(settings.model, arm=settings.arm)
    _require_trusted_code(stored, trust=settings.trust)
    classifier = load_classifier(stored, device=device_named(settings.device))
    files = [path for path in (settings.csv, settings.json) if path not in (None, STANDARD_OUTPUT)]
    to_stdout = STANDARD_OUTPUT in (settings.csv, settings.json)
    _require_writable(files)
    reader = InputReader(classifier.form, ids=settings.ids)
    answers = list(predict_items(classifier, reader.read(settings.inputs), top=settings.top))
    for line in text.describe_model(stored):
        say(line, to_stderr=to_stdout)
    if not to_stdout:
        text.print_answers(answers, stored.manifest.classes, limited=bool(files))
    for sentence in (*reader.describe_changes(), *text.describe_unlike(answers, stored)):
        say(sentence, to_stderr=to_stdout)
    _write(settings, answers, stored)
    text.require_answers(answers)


def _write(settings: PredictSettings, answers: Sequence[Answer], stored: StoredModel) -> None:
    contents: dict[Path, bytes] = {}
    if settings.csv is not None:
        contents[settings.csv] = csv_of_answers(answers, stored.manifest.classes, top=settings.top)
    if settings.json is not None:
        contents[settings.json] = json_of_answers(answers, stored)
    printed = contents.pop(STANDARD_OUTPUT, None)
    if contents:
        publish(contents)
        say(f"written: {', '.join(map(str, contents))}", to_stderr=printed is not None)
    if printed is not None:
        say(printed.decode().removesuffix("\n"))


def _require_writable(files: Sequence[Path]) -> None:
    """Raise ``OSError`` if a file cannot be written, before any input is read."""
    for path in files:
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder. Name a file in it.")
        require_writable(path.parent)


def _require_trusted_code(stored: StoredModel, *, trust: bool) -> None:
    """Raise ``ValueError`` if the architecture is a Python file that the user has not named or trusted before."""
    spec = stored.entry.architecture
    if stored.path.suffix == ".onnx" or spec is None or not is_plugin(spec):
        return
    path = Path(spec if spec.endswith(".py") else spec.rpartition(":")[0])
    if path.is_file():  # otherwise, loading raises the error
        require_trusted({path, *list_files(find_local_modules(path))}, stored.manifest.folder / MANIFEST, trust=trust)
