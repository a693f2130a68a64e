"""The data and models of a run folder: a command with other ones would mix two experiments in one folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kd.commands.settings import RunSettings, flag
from kd.commands.settings_paths import map_paths
from kd.commands.teacher_flags import AUTO
from kd.storage.files import publish
from kd.storage.run_folder import STEPS

Subject = dict[str, list[str]]  # setting → its value, with paths absolute and with paths relative to OUT


def require_same_subject(settings: RunSettings) -> None:
    """Raise ``ValueError`` if OUT holds steps of a run on other data or models, or the record of these is damaged; else
    record those of the settings.

    Other settings may change, because a step is repeated if one of its inputs changes. ``--fresh`` moves the record
    aside together with the steps.
    """
    folder = settings.state_dir / STEPS
    record, subject = folder / "subject.json", _describe(settings)
    holds_steps = folder.is_dir() and any(path != record for path in folder.iterdir())
    changes = _list_changes(_read(record), subject) if holds_steps and record.is_file() else []
    if changes:
        raise ValueError(
            f"{settings.out} holds a run on other data or models: {'; '.join(changes)}. Choose another folder with "
            "--out, or start over in this one with --fresh, which moves the old state aside."
        )
    publish({record: json.dumps(subject, indent=1).encode()})


def _read(record: Path) -> Subject:
    try:
        before: Any = json.loads(record.read_bytes())
        if not (isinstance(before, dict) and all(_is_texts(forms) for forms in before.values())):
            raise ValueError("it should hold a list of texts for each setting")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{record} is damaged: {error}. Delete it if the data and models are those of the earlier runs, or start "
            "over with --fresh."
        ) from error
    return dict(before)


def _is_texts(forms: object) -> bool:
    return isinstance(forms, list) and len(forms) > 0 and all(isinstance(form, str) for form in forms)


def _describe(settings: RunSettings) -> Subject:
    columns, size = settings.columns, settings.image_size
    values = {
        "data": settings.data,
        "columns": " ".join(columns) if columns else "none",
        "target": settings.target or "none",
        "image_size": "none" if size is None else str(size),
        # Records of earlier versions name the default, and auto chooses it for the same data.
        "teacher": ["convnet" if choice.spec == AUTO else str(choice) for choice in settings.teachers_chosen],
        "student": str(settings.student_choice),
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
