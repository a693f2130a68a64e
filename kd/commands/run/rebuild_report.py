"""``kd report``: rebuild the report page from the sections saved by the commands."""

from __future__ import annotations

from kd.commands.messages import say_files
from kd.commands.run.settings import ReportSettings
from kd.commands.settings import RunSettings
from kd.report.page import load_parts, page
from kd.storage.files import publish


def run(settings: ReportSettings) -> None:
    """Write OUT/results/report.html.

    Raises:
        OSError: the folder holds no saved report sections, or is not writable.
    """
    folders = RunSettings(out=settings.out)
    parts, notes = load_parts(folders.state_dir / "report")
    if not parts:
        raise FileNotFoundError(
            f"no saved report sections in {folders.state_dir}. --out must be the folder of a finished kd run, "
            "kd compare or kd sweep."
        )
    files = {folders.results_dir / "report.html": page(parts, notes=notes)}
    publish(files)
    say_files(files, but=folders.state_dir)
