"""``kd report``: the page once more, from what the commands have left for it."""

from __future__ import annotations

from kd.commands.messages import say_files
from kd.commands.run.settings import ReportSettings
from kd.commands.settings import RunSettings
from kd.report.page import kept_parts, page
from kd.storage.files import publish


def run(settings: ReportSettings) -> None:
    """Write OUT/results/report.html.

    Raises:
        OSError: no command has left its part in this folder, or it cannot be written to.
    """
    folders = RunSettings(out=settings.out)
    parts, notes = kept_parts(folders.state_dir / "report")
    if not parts:
        raise FileNotFoundError(
            f"no part of a report is kept in {folders.state_dir}. Name the folder of a finished kd run, kd compare or "
            "kd sweep as --out."
        )
    files = {folders.results_dir / "report.html": page(parts, notes=notes)}
    publish(files)
    say_files(files, but=folders.state_dir)
