"""The network to export, its test set and its training data, from a run folder or from a file of weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd.arms import ARMS
from kd.checks import naming_flag, similar_paths
from kd.commands.auto_network import choose_network
from kd.commands.data import Data, Task, load_data
from kd.commands.export.settings import ExportSettings
from kd.commands.method_flags import format_method_settings
from kd.commands.publish import quick_run_stamp
from kd.commands.recipe_settings import teacher_settings
from kd.commands.settings import RunSettings
from kd.commands.settings_file import saved_settings
from kd.commands.steps import UNRECORDED
from kd.commands.teacher_flags import AUTO, ModelChoice
from kd.commands.teacher_inputs import list_further
from kd.commands.trust import remember, require_trusted
from kd.console import say
from kd.data.datasets import unwrap_subsets
from kd.data.sources.table_encoding import RawTable
from kd.deploy.description import describe_task
from kd.deploy.export import Candidate
from kd.deploy.load import load_network
from kd.deploy.manifest import FORMAT, Manifest, ModelEntry, channel_axis, parse_manifest, read_manifest
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.model_card import Origin
from kd.imports import find_local_modules, is_plugin, list_files
from kd.models.inference import predict
from kd.storage.files import sha256
from kd.teachers.contract import OwnInputs, find_scale
from kd.teachers.input_scale import choose_scale
from kd.teachers.load import load_teacher, teacher_accuracy

# Another machine may decide a few close calls differently; other data or weights differ by far more.
_ALLOWED_DIFFERENCE = 0.005  # of the test items
_NAMES = ("method", "optimizer", "schedule", "precision", "keep")  # settings that are texts, but no paths


def load_candidate(settings: ExportSettings) -> tuple[Candidate, Origin]:
    """Return the network with everything that its exports are checked with, and where it comes from.

    Raises:
        ValueError: the files do not fit each other, or name a Python file that is not trusted.
        OSError: a file cannot be read.
    """
    return _from_file(settings) if settings.model else _from_run(settings)


def _from_file(settings: ExportSettings) -> tuple[Candidate, Origin]:
    choice = settings.choice
    assert choice.file is not None
    if not choice.file.is_file():
        hint = similar_paths(choice.file) or "Check its path."
        raise FileNotFoundError(f"--model {settings.model}: there is no file {choice.file}. {hint}")
    remember(_plugin_files(choice.spec))
    data = load_data(settings.data_settings)
    with naming_flag(f"--model {settings.model}"):
        network = load_teacher(
            choice.spec,
            choice.file,
            input_shape=data.task.input_shape,
            classes=len(data.task.classes),
            example=data.task.example,
            entry=choice.entry,
        )
    manifest = _manifest_of(data, settings.data_settings, choice.file.parent)
    with naming_flag(f"--model {settings.model}"):
        model, manifest = _find_inputs(network, manifest, data, choice)
        teacher_accuracy(model, data.val_set, name="model")
    reference = predict(model, data.test_loader)
    columns = _columns_of(data)
    candidate = Candidate(network, manifest, choice.spec, reference, data.test_set, data.train_set, columns=columns)
    return candidate, Origin(data.name, "model", licence=settings.licence)


def _find_inputs(network: nn.Module, now: Manifest, data: Data, choice: ModelChoice) -> tuple[nn.Module, Manifest]:
    """Return the network on the inputs of its training, and the manifest with their normalisation.

    Raises:
        ValueError: the manifest beside the file states other data, whose test set may hold training samples.
    """
    assert choice.file is not None
    before = _find_manifest(choice.file)
    if before is None or before.preprocessing != now.preprocessing:
        network, now = _find_normalisation(network, now, data, choice)
    if before is not None:
        flags = "--data, --random-state, --test-share, --test-size and --limit"
        _require_same_task(before, now, f"Give {flags} of the run that trained it, or export its folder with --out.")
    return network, now


def _find_manifest(file: Path) -> Manifest | None:
    """Return the manifest beside a file, if it describes it; None for a file from elsewhere."""
    try:
        manifest = read_manifest(file.parent / MANIFEST)
        entry = manifest.model(file.name)
    except (OSError, ValueError):
        return None
    return manifest if sha256(file.read_bytes()) == entry.sha256 else None


def _find_normalisation(
    network: nn.Module, manifest: Manifest, data: Data, choice: ModelChoice
) -> tuple[nn.Module, Manifest]:
    """Return the result of ``_find_inputs`` for weights from elsewhere: accuracy on training samples decides."""
    scale = find_scale(data.train_set)
    if scale is None or data.encoding is not None:
        return network, manifest
    chosen = choose_scale(network, data.train_set, further=list_further(choice, data.task))
    if (contract := chosen.contract) is None:
        return network, manifest
    words = chosen.describe(f"training {manifest.noun}")
    if contract.bgr:
        raise ValueError(
            f"its inputs are normalised as {words}, in the order BGR, and exported files take RGB. Give FILE.py:NAME, "
            "a model that reverses the channels itself."
        )
    say(f"model: normalised as {words}")
    channels = manifest.input_shape[channel_axis(manifest.input_shape)]
    mean, std = (values * (channels // len(values)) for values in (contract.mean, contract.std))
    rules = dataclasses.replace(manifest.preprocessing, mean=mean, std=std)
    return OwnInputs(network, contract, scale), dataclasses.replace(manifest, preprocessing=rules)


def _from_run(settings: ExportSettings) -> tuple[Candidate, Origin]:
    with naming_flag(f"--out {settings.out}"):
        manifest = read_manifest(settings.out)
        entry = manifest.model(ARMS[settings.arm].file)
        if has_settings := (settings.out / "run.toml").is_file():
            settings.refuse_data()
        saved = saved_settings(settings.out, trust=settings.trust) if has_settings else settings.data_settings
        spec = entry.architecture
        if spec and is_plugin(spec):
            spec = _find_plugin(settings, saved, spec) if has_settings else spec
            require_trusted(_plugin_files(spec), manifest.folder / "manifest.json", trust=settings.trust)
        network = load_network(manifest, entry.file, spec=spec)
        if has_settings and entry.test:
            _require_settings_of_models(saved)
    assert spec is not None  # load_network requires it
    data = load_data(dataclasses.replace(saved, augment=(), views=None, unlabelled=None))
    _require_same_task(manifest, _manifest_of(data, saved, manifest.folder))
    reference = predict(network, data.test_loader)
    _require_same_result(entry, int(reference.wrong.sum()), len(reference.labels))
    training = _describe_training(saved, settings.arm, data.task) if has_settings else {}
    columns = _columns_of(data)
    candidate = Candidate(network, manifest, spec, reference, data.test_set, data.train_set, entry.unlike, columns)
    return candidate, Origin(data.name, settings.arm, training, settings.licence)


def _find_plugin(settings: ExportSettings, saved: RunSettings, spec: str) -> str:
    """Return a FILE.py:NAME of the manifest with its path from run.toml, which stays valid if the folder moves."""
    choice = saved.teachers_chosen[0] if settings.arm == "teacher" else saved.student_choice
    return choice.spec if is_plugin(choice.spec) else spec


def _plugin_files(spec: str) -> set[Path]:
    path = Path(spec.rpartition(":")[0])
    return {path, *list_files(find_local_modules(path))} if is_plugin(spec) and path.is_file() else set()


def _manifest_of(data: Data, settings: RunSettings, folder: Path) -> Manifest:
    content: dict[str, Any] = {"format": FORMAT, "toy": quick_run_stamp(settings.limit), "models": {}}
    content |= {} if data.encoding is None else {"table": data.encoding.to_json()}
    return parse_manifest(folder, content | describe_task(data.test_set, data.task.classes))


def _columns_of(data: Data) -> Tensor | None:
    """Return the raw columns [R, C] of a table, whose rows are those of the encoded one; None for other data."""
    table, _ = unwrap_subsets(data.source.train)
    if data.encoding is None or not isinstance(table, RawTable):
        return None
    return torch.from_numpy(table.to_numbers(data.encoding))


_RESTORE = (
    "Restore the data, or give those of the run with --data (and --limit, if it was a quick run), if it has no "
    "run.toml."
)


def _require_same_task(manifest: Manifest, found: Manifest, advice: str = _RESTORE) -> None:
    for name in ("toy", "input_shape", "input_dtype", "classes", "preprocessing", "table"):
        before, now = getattr(manifest, name), getattr(found, name)
        if before != now:
            was, is_now = _shorten(str(before), str(now)), _shorten(str(now), str(before))
            raise ValueError(
                f"the data differ from the run's data: {name.replace('_', ' ')} was {was}, now {is_now}. {advice}"
            )


def _shorten(text: str, other: str) -> str:
    """Return a long text from shortly before its first difference from another."""
    same = next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    start = max(0, same - 60) if len(text) > 120 else 0
    part = text[start : start + 120]
    return f"{'…' * (start > 0)}{part}{'…' * (start + len(part) < len(text))}"


def _require_same_result(entry: ModelEntry, errors: int, items: int) -> None:
    if not entry.test:
        return
    before, total = int(entry.test["errors"]), int(entry.test["images"])
    if total != items or abs(errors - before) > _ALLOWED_DIFFERENCE * items:
        raise ValueError(
            f"the test set differs from the run's: {entry.file} had {before:,} errors on {total:,} test items, now "
            f"{errors:,} on {items:,}. Restore the data, or name the run's data with --data and --test-share if it has "
            "no run.toml."
        )


def _require_settings_of_models(saved: RunSettings) -> None:
    """Raise ``ValueError`` if run.toml is from a later command than the models, which did not finish."""
    try:
        before = json.loads((saved.results_dir / "metrics" / "metrics.json").read_bytes())["config"]
        values = {field: before.get(field.name.upper(), field.default) for field in dataclasses.fields(saved)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # without results, there is nothing to compare with
    for field, value in values.items():
        now = getattr(saved, field.name)
        # Numbers and plain names only: the same path may be written in another way.
        numbers = all(isinstance(setting, int | float | None) for setting in (now, value))
        is_plain = numbers or (field.name in _NAMES and not is_plugin(str(now)))
        if is_plain and field.name not in UNRECORDED and value != now:
            raise ValueError(
                f"run.toml has {field.name} {now}, and the saved models were trained with {value}: a later command was "
                "interrupted, or is still running. Repeat that command to finish it, or the earlier one."
            )


def _describe_training(settings: RunSettings, arm: str, task: Task) -> dict[str, str]:
    """Return the settings that trained a model of the run, by name; none for a teacher that was loaded."""
    teachers = [choose_network(task) if choice.spec == AUTO else str(choice) for choice in settings.teachers_chosen]
    values = {"teacher": ", ".join(teachers)}
    if arm == "teacher":
        if any(choice.file for choice in settings.teachers_chosen):
            return {}
        if any(choice.may_be_loaded for choice in settings.teachers_chosen) and not settings.train_teacher:
            return values  # its own code may have loaded its weights
        # Its seed may be another one than the students'.
        return values | {"method": "labels only", "epochs": str(teacher_settings(settings).epochs)}
    values |= {"student": str(settings.student_choice), "method": settings.method}
    trained = {"epochs": str(settings.epochs), "seed": str(settings.seed)}
    if arm == "control":
        return {"student": values["student"], "method": "labels only", **trained}
    set_ = (text.partition("=") for text in format_method_settings(settings.method_settings))
    return values | trained | {name: value for name, _, value in set_}
