"""Consent to run the Python files that a settings file names: a run folder from somebody else must not be a program.

A file named on a command line is trusted from then on, by the SHA-256 of its content. The digests are kept in the
user's configuration folder, or in ``KD_CONFIG_DIR``, never in a run folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from kd.commands.settings import RunSettings
from kd.imports import find_local_modules, is_plugin, list_files
from kd.storage.files import publish, sha256
from kd.storage.user_folders import configuration_folder


def named_files(settings: RunSettings) -> set[Path]:
    """Return the existing Python files that the settings name, and those beside them that these import."""
    teachers = (choice.spec for choice in settings.teachers_chosen)
    methods = {settings.method, *settings.method_names}
    specs = [settings.data, settings.student_choice.spec, *methods, *teachers, *settings.augment]
    paths = [Path(spec if spec.endswith(".py") else spec.rpartition(":")[0]) for spec in specs if is_plugin(spec)]
    files = [path for path in paths if path.is_file()]
    return {file for path in files for file in (path, *list_files(find_local_modules(path)))}


def remember(files: Collection[Path]) -> None:
    """Trust these files, as they are now, in later commands. A configuration folder that is not writable is ignored."""
    if not files:
        return
    digests = {sha256(path.read_bytes()) for path in files}
    with suppress(OSError):  # also of reading: a record that was not read must not be replaced
        known = _trusted()
        if not digests <= known:
            publish({_find_record(): json.dumps(sorted(known | digests), indent=1).encode()})


def require_trusted(files: Collection[Path], source: Path, *, trust: bool) -> None:
    """Raise ``ValueError`` unless every file is trusted, or the user consents now.

    Args:
        source: the settings file that names them.
        trust: the user's consent (``--trust``).
    """
    if trust or not files:
        remember(files)
        return
    try:
        known = _trusted()
    except OSError:  # not readable: the user is asked again
        known = set()
    unknown = [path for path in sorted(files) if sha256(path.read_bytes()) not in known]
    if unknown:
        raise ValueError(
            f"{source} names the Python file {unknown[0]}, whose code would be run. It was not named on a command line "
            "before, or has changed since. If you trust it, repeat the command with --trust."
        )


def _find_record() -> Path:
    return configuration_folder() / "trusted_files.json"


def _trusted() -> set[str]:
    try:
        return set(map(str, json.loads(_find_record().read_bytes())))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):  # none yet, or damaged: the user is asked again
        return set()
