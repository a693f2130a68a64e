"""Where numbers came from: command, settings, digests, versions. What it takes to get them once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kd.report.blocks import Block, Code, Paragraph, table
from kd.storage.environment import environment, versions
from kd.storage.fingerprint import describe, digest


def provenance(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Any]], dataset: object, command: str
) -> tuple[Block, ...]:
    """The same for the same run on the same machine: no date, no times.

    Args:
        config: the settings by name.
        weights: file name → its entry in ``manifest.json``.
        dataset: what was tested on.
        command: as it was typed, "" if there was none.
    """
    settings = [(name, format_setting(value)) for name, value in config.items()]
    files = [(name, entry["sha256"], f"{entry['bytes']:,}") for name, entry in weights.items()]
    decisive = {**versions(), "processor": environment()["processor"], "kd, its code": environment()["kd"]}
    return (
        Code(command) if command else Paragraph("No command: its functions were called from Python."),
        table(("setting", "value"), settings, caption="Settings, seeds among them (RANDOM_STATE splits, SEED trains)"),
        table(("weights file", "SHA-256", "bytes"), files),
        table(("test data", "SHA-256"), _list_digests(dataset)),
        table(("version", "value"), [*decisive.items()], caption="Versions and machine"),
        Paragraph("The same settings, code and machine give the same digests; `timings.json` and the costs differ."),
    )


def format_setting(value: object) -> str:
    """A setting as text: 5.0 as 5, so that a number given as either counts as one; several with commas between."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _list_digests(dataset: object) -> list[tuple[str, str]]:
    """What the data set holds, by name and SHA-256. One that cannot be described is told as such: a run may have it."""
    try:
        found = list(_find_digests("", describe(dataset)))
    except TypeError:
        return [(type(dataset).__name__, "none: its content cannot be told")]
    return found or [(type(dataset).__name__, digest(describe(dataset)))]


def _find_digests(name: str, description: Any) -> Iterator[tuple[str, str]]:
    if isinstance(description, dict):
        if "sha256" in description:
            yield name, description["sha256"]
        for key, value in description.items():
            yield from _find_digests(name if key == "content" else f"{name} {key}".strip(), value)
