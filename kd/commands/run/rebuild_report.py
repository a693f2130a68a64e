"""``kd report``: rebuild the report page from the sections saved by the commands."""

from __future__ import annotations

from pathlib import Path

from kd.commands.messages import say_files
from kd.commands.publish import result_folders
from kd.commands.run.settings import ReportSettings
from kd.commands.settings import RunSettings
from kd.report.page import load_parts, page
from kd.storage.files import publish
from kd.storage.places import use_folders


def run(settings: ReportSettings) -> None:
    """Write OUT/results/report.html.

    Raises:
        OSError: the folder holds no saved report sections, or is not writable.
    """
    folders = RunSettings(out=settings.out)
    sections = folders.state_dir / "report"
    if not sections.is_dir():
        raise _no_sections(folders.state_dir)
    with use_folders([folders.results_dir, *result_folders(settings.out)]):
        parts, notes = load_parts(sections)
        if not parts:
            raise _no_sections(folders.state_dir)
        files = {folders.results_dir / "report.html": page(parts, notes=notes)}
        publish(files)
    say_files(files, but=folders.state_dir)


def _no_sections(state_dir: Path) -> OSError:
    return FileNotFoundError(
        f"no saved report sections in {state_dir}. --out must be the folder of a finished kd run, kd compare or kd "
        "sweep."
    )
