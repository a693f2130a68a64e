"""The report: one page on all that the commands have found so far, each with its part, put together anew by each.

    files = report_files(Part("run", verdict, None, sections), results_dir=…, state_dir=…)
    kd.storage.files.publish(files)

The page is one file that loads nothing: it opens from a disk, and a browser runs no script in it. A part is kept as
JSON in the state folder, so that a later command can put its own beside it.
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
from kd.report.kept import from_json, to_json
from kd.storage.untrusted import read_bytes

# A name can be told without colour, and so can a sign.
TONES = {
    "better": ("▲", "Better"),
    "worse": ("▼", "Worse"),
    "equal": ("=", "No difference that matters"),
    "open": ("?", "Not decided"),
}
Tone = Literal["better", "worse", "equal", "open"]
# Of the verdicts on paired seeds, whichever command has them.
TONE_OF: Mapping[Verdict, Tone] = {
    "helps": "better",
    "hurts": "worse",
    "no difference larger than d": "equal",
    "inconclusive": "open",
}

# In their order, with the title that a chapter has where several commands have a section in it.
CHAPTERS = {
    "verdict": "Verdict",
    "table": "Results",
    "curves": "Training",
    "comparison": "Control against distilled",
    "fidelity": "Students against teacher",
    "reliability": "Reliability",
    "confusions": "Confusions",
    "gallery": "Where the students disagree",
    "map": "Settings that were tried",
    "cost": "Cost",
    "provenance": "Provenance",
}
ORDER = tuple(CHAPTERS)
# Several seeds say more than one, and a search says least: the first that has a verdict gives the page's.
SOURCES = {"compare": "kd compare", "run": "the run", "sweep": "kd sweep"}
MAX_PART_BYTES = 20_000_000  # bytes of a kept part


@dataclass(frozen=True)
class Section:
    """A chapter of the page, or what one command has to say in it.

    Attributes:
        name: its place and its address in the page, small letters; unique within a part. Those of ``ORDER`` come in
            that order, others before ``provenance``.
        title: as a heading.
        blocks: what is in it, as plain data.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Part:
    """What one command has found.

    Attributes:
        source: the command's name, small letters: ``run``, ``compare``, ``sweep``.
        verdict: one paragraph for the top of the page; "" if it has none.
        toy: the stamp of a run too small to conclude from, else None.
        sections: in whatever order.
        tone: of the verdict, for its colour, sign and heading.
        settings: those that must be equal for two parts to speak of the same models. Where they are not, the page says
            so. What a command varies itself does not belong here.
    """

    source: str
    verdict: str
    toy: str | None
    sections: tuple[Section, ...]
    tone: Tone = "open"
    settings: Mapping[str, str] = field(default_factory=dict)


def report_files(part: Part, *, results_dir: Path, state_dir: Path) -> dict[Path, bytes]:
    """The part as it is kept, and ``report.html`` from it and the kept parts of other commands: to be published.

    A kept part that is damaged or none of ours is left out, and the page says so.
    """
    folder = state_dir / "report"
    others, notes = load_parts(folder, without=part.source)
    kept = folder / f"{part.source}.json"
    return {kept: to_json(part), results_dir / "report.html": page([part, *others], notes=notes)}


def page(parts: Sequence[Part], *, notes: Sequence[str] = ()) -> bytes:
    """The whole page.

    Args:
        notes: what its reader must know about the page itself, in plain sentences.

    Raises:
        ValueError: a name is not in small letters or comes twice.
    """
    for part in parts:
        _check_part(part)
    ordered = sorted(parts, key=lambda part: _sort_key(part.source, tuple(SOURCES)))
    verdicts = [_format_verdict(part) for part in ordered if part.verdict]
    text: str = _load_template().render(
        toys=[f"{_source_label(part.source)}: {part.toy}" for part in ordered if part.toy],
        lead=verdicts[0] if verdicts else None,
        others=verdicts[1:],
        notes=[*notes, *_find_conflicts(ordered)],
        chapters=_collect_chapters(ordered),
    )
    return text.encode()


def _check_part(part: Part) -> None:
    names = [section.name for section in part.sections]
    for name in (part.source, *names):
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name) or names.count(name) > 1:
            raise ValueError(f"a part's and a section's name must be in small letters and unique. Got {name!r}.")
    if part.tone not in TONES:
        raise ValueError(f"a verdict's tone must be one of {', '.join(TONES)}. Got {part.tone!r}.")


def _format_verdict(part: Part) -> dict[str, str]:
    sign, heading = TONES[part.tone]
    if part.source == "run":  # whatever it is, it is said of two networks
        heading += ", in this one pair"
    return {
        "tone": part.tone,
        "sign": sign,
        "heading": heading,
        "text": part.verdict,
        "from": _source_label(part.source),
    }


def _collect_chapters(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The sections of all parts by name, in the page's order."""
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
    """For sorting: known names in their order, unknown ones by the alphabet before the last known one."""
    return (order.index(name), "") if name in order else (len(order) - 1.5, name)


def _source_label(source: str) -> str:
    return SOURCES.get(source, f"kd {source}")


def _find_conflicts(parts: Sequence[Part]) -> list[str]:
    """One sentence if parts were made with different settings: side by side they would be read as one result."""
    told: dict[str, dict[str, str]] = {}
    for part in parts:
        for name, value in part.settings.items():
            told.setdefault(name, {})[_source_label(part.source)] = value
    different = [
        f"{name} is {' and '.join(f'{value} in {source}' for source, value in values.items())}"
        for name, values in told.items()
        if len(set(values.values())) > 1
    ]
    if not different:
        return []
    found = "; ".join(different)
    return [f"The parts of this page speak of different models: {found}. Run the commands with equal settings."]


def _mark_safe(html: str) -> Any:
    from markupsafe import Markup  # with the template engine, at the end of a command only

    return Markup(html)


def _load_template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = Path(__file__).parent
    environment.globals["style"] = _mark_safe((folder / "page.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))


def load_parts(folder: Path, *, without: str = "") -> tuple[list[Part], list[str]]:
    """The parts that commands have left in this folder, and a sentence on each file that is none.

    Args:
        without: the command whose own is not wanted.
    """
    parts, notes = [], []
    for path in sorted(folder.glob("*.json")):
        if path.stem == without:
            continue
        try:
            part: Part = from_json(read_bytes(path, limit=MAX_PART_BYTES), Part)
            if part.source != path.stem:
                raise ValueError(f"it is the part of {part.source!r}")
            _check_part(part)
            parts.append(part)
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error).replace(f"{path}", path.name).removesuffix(".")
            notes.append(f"{path.name}, kept for this page by another command, was left out: {reason}.")
            say(f"report: {notes[-1]}")
    return parts, notes
