"""Provenance of results: the command, settings, digests and versions needed to reproduce them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kd.report.blocks import Block, Code, Paragraph, table
from kd.storage.environment import environment, versions
from kd.storage.fingerprint import describe, digest


def provenance(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Any]], dataset: object, command: str
) -> tuple[Block, ...]:
    """Return the blocks of the provenance section, without dates or times, so that the same run gives the same bytes.

    Args:
        config: settings by name.
        weights: file name → its entry in ``manifest.json``.
        dataset: the test set.
        command: command line; "" if there was none.
    """
    settings = [(name, format_setting(value)) for name, value in config.items()]
    files = [(name, entry["sha256"], f"{entry['bytes']:,}") for name, entry in weights.items()]
    rows = {**versions(), "processor": environment()["processor"], "kd source code": environment()["kd"]}
    return (
        Code(command) if command else Paragraph("No command line: the functions were called from Python."),
        table(
            ("setting", "value"),
            settings,
            caption="Settings and seeds (RANDOM_STATE: data split, SEED: training)",
        ),
        table(("weights file", "SHA-256", "bytes"), files),
        table(("test data", "SHA-256"), _list_digests(dataset)),
        table(("version", "value"), [*rows.items()], caption="Versions and machine"),
        Paragraph("The same settings, code and machine give the same digests; only `timings.json` and costs differ."),
    )


def format_setting(value: object) -> str:
    """Format a setting as text: 5.0 as 5, so that both count as equal; sequences separated by commas."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _list_digests(dataset: object) -> list[tuple[str, str]]:
    """Return the dataset's contents by name and SHA-256, or a remark if the dataset cannot be inspected."""
    try:
        digests = list(_find_digests("", describe(dataset)))
    except TypeError:
        return [(type(dataset).__name__, "none: the content cannot be inspected")]
    return digests or [(type(dataset).__name__, digest(describe(dataset)))]


def _find_digests(name: str, description: Any) -> Iterator[tuple[str, str]]:
    if isinstance(description, dict):
        if "sha256" in description:
            yield name, description["sha256"]
        for key, value in description.items():
            yield from _find_digests(name if key == "content" else f"{name} {key}".strip(), value)
