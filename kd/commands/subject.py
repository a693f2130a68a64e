"""The data and models of a run folder: a command with other ones would mix two experiments in one folder."""

from __future__ import annotations

import json
import os

from kd.commands.settings import RunSettings, flag
from kd.commands.settings_paths import map_paths
from kd.storage.files import publish
from kd.storage.run_folder import STEPS

Subject = dict[str, list[str]]  # setting → its value, with paths absolute and with paths relative to OUT


def require_same_subject(settings: RunSettings) -> None:
    """Raise ``ValueError`` if OUT holds steps of a run on other data or models; else record those of the settings.

    Other settings may change, because a step is repeated if one of its inputs changes. ``--fresh`` moves the record
    aside together with the steps.
    """
    folder = settings.state_dir / STEPS
    record, subject = folder / "subject.json", _describe(settings)
    holds_steps = folder.is_dir() and any(path != record for path in folder.iterdir())
    changes = _list_changes(json.loads(record.read_bytes()), subject) if holds_steps and record.is_file() else []
    if changes:
        raise ValueError(
            f"{settings.out} holds a run on other data or models: {'; '.join(changes)}. Choose another folder with "
            "--out, or start over in this one with --fresh, which moves the old state aside."
        )
    publish({record: json.dumps(subject, indent=1).encode()})


def _describe(settings: RunSettings) -> Subject:
    columns, size = settings.columns, settings.image_size
    values = {
        "data": settings.data,
        "columns": " ".join(columns) if columns else "none",
        "image_size": "none" if size is None else str(size),
        "teacher": [str(choice) for choice in settings.teachers_chosen],
        "student": settings.student_spec,
    }
    forms = [map_paths(values, move) for move in (os.path.abspath, lambda path: os.path.relpath(path, settings.out))]
    return {name: [" ".join(v) if isinstance(v := form[name], list) else v for form in forms] for name in values}


def _list_changes(before: Subject, subject: Subject) -> list[str]:
    """List the settings whose values differ in both forms: a folder may have been moved, with its data or alone."""
    return [
        f"{flag(name)} was {before[name][0]}, now {values[0]}"
        for name, values in subject.items()
        if name in before and not set(before[name]) & set(values)
    ]
