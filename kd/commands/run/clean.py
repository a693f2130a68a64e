"""``kd clean``: show the sizes of a run's saved state and of the cache of decoded images; prune unneeded files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kd.commands.run.settings import CleanSettings
from kd.commands.settings import RunSettings
from kd.console import print_table, say
from kd.data.sources.image_cache import remove_images
from kd.storage.cleaning import Entry, Size, list_entries, measure, prune
from kd.storage.run_folder import lock_folder
from kd.storage.user_folders import cache_folder


def run(settings: CleanSettings) -> None:
    """Print the sizes; with ``--prune``, delete the files that no command needs.

    Raises:
        OSError: OUT holds no saved state, another run is using it, or a file cannot be deleted.
    """
    folder, images = RunSettings(out=settings.out).state_dir, cache_folder() / "images"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no saved state in {folder}. --out must be the folder of a kd run, kd compare or kd sweep."
        )
    if not settings.prune:
        entries = list_entries(folder)
        _print_sizes(folder, entries, images)
        freed = _sum(measure(entry.path) for entry in entries if not entry.needed)
        say(f"--prune deletes {_format(freed)}; --prune --images also deletes the decoded images")
        return
    with lock_folder(folder):
        entries = list_entries(folder)
        freed = _sum(measure(entry.path) for entry in entries if not entry.needed)
        prune(entries)
    say(f"{folder}: deleted {_format(freed)}")
    if settings.images:
        before = measure(images)
        kept = remove_images(images)
        after = measure(images)
        say(f"{images}: deleted {_format(Size(before.files - after.files, before.bytes - after.bytes))}")
        if kept:
            say(f"{images}: kept {len(kept)} folders that other commands are using")


def _print_sizes(folder: Path, entries: list[Entry], images: Path) -> None:
    rows = {}
    for kind in dict.fromkeys(entry.kind for entry in sorted(entries, key=lambda entry: not entry.needed)):
        chosen = [entry for entry in entries if entry.kind == kind]
        rows[kind] = (*_cells(_sum(measure(entry.path) for entry in chosen)), "kept" if chosen[0].needed else "deleted")
    rows[f"decoded images of all data, in {images}"] = (*_cells(measure(images)), "deleted with --images")
    print_table(f"Saved state in {folder}", ("content", "files", "MB", "with --prune"), rows)


def _sum(sizes: Iterable[Size]) -> Size:
    counted = list(sizes)
    return Size(sum(size.files for size in counted), sum(size.bytes for size in counted))


def _cells(size: Size) -> tuple[str, str]:
    return f"{size.files:,}", f"{size.bytes / 1e6:,.1f}"


def _format(size: Size) -> str:
    return f"{size.files:,} files, {size.bytes / 1e6:,.1f} MB"
