"""The report: a single page with the results of all commands so far, rebuilt by each command.

    files = report_files(Part("run", verdict, None, sections), results_dir=…, state_dir=…)
    kd.storage.files.publish(files)

The page is a self-contained file without scripts, to be opened from disk. Each command saves its part as JSON in the
state folder, so that later commands can include it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kd.console import say
from kd.evaluation.verdict import Verdict
from kd.report.blocks import Block
from kd.report.html import render
from kd.report.saved_parts import from_json, to_json
from kd.storage.resources import is_passing_fault
from kd.storage.untrusted import read_bytes

# Sign and heading of a verdict: readable without colour.
TONES = {
    "better": ("▲", "Better"),
    "partly": ("△", "Better than the labels alone"),
    "worse": ("▼", "Worse"),
    "equal": ("=", "No difference that matters"),
    "open": ("?", "Not decided"),
    "mixed": ("≠", "Different verdicts for different methods"),
}
Tone = Literal["better", "partly", "worse", "equal", "open", "mixed"]
# Tone of a verdict on paired seeds, the same for all commands.
TONE_OF: Mapping[Verdict, Tone] = {
    "helps": "better",
    "better than the labels alone": "partly",
    "hurts": "worse",
    "no difference larger than d": "equal",
    "inconclusive": "open",
    "not decided": "open",
}

# Chapters in the page's order, with the title used if several commands contribute to a chapter.
CHAPTERS = {
    "verdict": "Verdict",
    "table": "Results",
    "curves": "Training",
    "comparison": "Comparison",
    "slices": "Slices",
    "fidelity": "Fidelity",
    "reliability": "Calibration",
    "confusions": "Confusions",
    "gallery": "Disagreements",
    "map": "Search",
    "cost": "Cost",
    "provenance": "Provenance",
}
ORDER = tuple(CHAPTERS)
# Strongest evidence first: several seeds, one pair, a search. The first verdict in this order heads the page.
SOURCES = {"compare": "kd compare", "judge": "kd judge", "run": "the run", "sweep": "kd sweep"}
MAX_PART_BYTES = 20_000_000  # size limit of a saved part


@dataclass(frozen=True)
class Section:
    """One command's contribution to a chapter of the page.

    Attributes:
        name: lower-case name, unique within a part; sets position and anchor. Names in ``ORDER`` come in that order,
            other names just before ``provenance``.
        title: heading.
        blocks: content as plain data.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Part:
    """One command's contribution to the report.

    Attributes:
        source: lower-case name of the command: ``run``, ``compare``, ``sweep``.
        verdict: one paragraph for the top of the page; "" if there is none.
        toy: stamp of a quick run, which is too small to conclude anything from; else None.
        sections: in any order.
        tone: sets the verdict's colour, sign and heading.
        settings: settings that must be equal for two parts to describe the same models; the page reports differences.
            Omit settings that the command varies.
    """

    source: str
    verdict: str
    toy: str | None
    sections: tuple[Section, ...]
    tone: Tone = "open"
    settings: Mapping[str, str] = field(default_factory=dict)


def report_files(part: Part, *, results_dir: Path, state_dir: Path) -> dict[Path, bytes]:
    """Return the files to publish: the part as JSON, and ``report.html`` with the parts of all commands.

    A saved part that is damaged or not a report part is skipped, with a note on the page.
    """
    folder = state_dir / "report"
    other_parts, notes = load_parts(folder, exclude=part.source)
    path = folder / f"{part.source}.json"
    return {path: to_json(part), results_dir / "report.html": page([part, *other_parts], notes=notes)}


def page(parts: Sequence[Part], *, notes: Sequence[str] = ()) -> bytes:
    """Render the whole page.

    Args:
        notes: caveats about the page itself, as full sentences.

    Raises:
        ValueError: a name is invalid or not unique, or a tone is unknown.
    """
    for part in parts:
        _check_part(part)
    ordered = sorted(parts, key=lambda part: _sort_key(part.source, tuple(SOURCES)))
    verdicts = [_format_verdict(part) for part in ordered if part.verdict]
    text: str = _load_template().render(
        trained_here=[part.source for part in ordered] != ["judge"],
        toys=[f"{_source_label(part.source)}: {part.toy}" for part in ordered if part.toy],
        lead=verdicts[0] if verdicts else None,
        others=verdicts[1:],
        notes=[*notes, *_find_conflicts(ordered)],
        chapters=_collect_chapters(ordered),
    )
    return text.encode(errors="backslashreplace")  # for undecodable bytes in names of files


def _check_part(part: Part) -> None:
    names = [section.name for section in part.sections]
    for name in (part.source, *names):
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name) or names.count(name) > 1:
            raise ValueError(f"names of parts and sections must be lower-case and unique. Got {name!r}.")
    if part.tone not in TONES:
        raise ValueError(f"a verdict's tone must be one of {', '.join(TONES)}. Got {part.tone!r}.")


def _format_verdict(part: Part) -> dict[str, str]:
    sign, heading = TONES[part.tone]
    if part.source == "run":  # the verdict is about two networks only
        heading += ", in this one pair"
    return {
        "tone": part.tone,
        "sign": sign,
        "heading": heading,
        "text": part.verdict,
        "from": _source_label(part.source),
    }


def _collect_chapters(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Group the sections of all parts by name, in the page's order."""
    chapters: dict[str, dict[str, Any]] = {"verdict": {"name": "verdict", "title": "Verdict", "pieces": []}}
    for part in parts:
        for section in part.sections:
            chapter = chapters.setdefault(
                section.name, {"name": section.name, "title": section.title, "pieces": list[dict[str, str]]()}
            )
            chapter["pieces"].append(
                {"from": _source_label(part.source), "title": section.title, "html": _mark_safe(render(section.blocks))}
            )
    for name, chapter in chapters.items():
        if len(chapter["pieces"]) > 1:
            chapter["title"] = CHAPTERS.get(name, chapter["title"])
    return sorted(chapters.values(), key=lambda chapter: _sort_key(chapter["name"], ORDER))


def _sort_key(name: str, order: Sequence[str]) -> tuple[float, str]:
    """Sort known names in their order, and unknown ones alphabetically before the last known name."""
    return (order.index(name), "") if name in order else (len(order) - 1.5, name)


def _source_label(source: str) -> str:
    return SOURCES.get(source, f"kd {source}")


def _find_conflicts(parts: Sequence[Part]) -> list[str]:
    """Return a list with a warning if parts have different settings: readers would take them for one result."""
    settings: dict[str, dict[str, str]] = {}
    for part in parts:
        for name, value in part.settings.items():
            settings.setdefault(name, {})[_source_label(part.source)] = value
    conflicts = [
        f"{name} is {' and '.join(f'{value} in {source}' for source, value in values.items())}"
        for name, values in settings.items()
        if len(set(values.values())) > 1
    ]
    if not conflicts:
        return []
    details = "; ".join(conflicts)
    return [f"The sections of this page describe different models: {details}. Run the commands with the same settings."]


def _mark_safe(html: str) -> Any:
    from markupsafe import Markup  # imported late, like jinja2: only needed at the end of a command

    return Markup(html)


def _load_template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = Path(__file__).parent
    environment.globals["style"] = _mark_safe((folder / "page.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))


def load_parts(folder: Path, *, exclude: str = "") -> tuple[list[Part], list[str]]:
    """Load all saved parts of a folder. Returns the parts and a note for each skipped file.

    Args:
        exclude: command whose part is not loaded.
    """
    parts, notes = [], []
    for path in sorted(folder.glob("*.json")):
        if path.stem == exclude:
            continue
        try:
            part: Part = from_json(read_bytes(path, limit=MAX_PART_BYTES), Part)
            if part.source != path.stem:
                raise ValueError(f"it contains the part of {part.source!r}")
            _check_part(part)
            parts.append(part)
        except (OSError, ValueError, RecursionError) as error:
            if is_passing_fault(error):  # the page would lack the section
                raise
            reason = str(error).replace(f"{path}", path.name).removesuffix(".")
            notes.append(f"{path.name}, saved by another command, was skipped: {reason}.")
            say(f"report: {notes[-1]}")
    return parts, notes
