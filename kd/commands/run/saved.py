"""The settings with which a folder was made."""

from __future__ import annotations

from pathlib import Path

import tyro

from kd.commands.settings import RunSettings
from kd.commands.settings_file import with_file


def saved_settings(out: Path) -> RunSettings:
    """Those in OUT/run.toml, for that folder, wherever it is now.

    Raises:
        OSError: there is no such file.
        ValueError: it does not hold settings of a run.
    """
    file = out / "run.toml"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there. Name the folder of a finished kd run or kd distill as --out.")
    words = with_file(["run", f"--config={file}", f"--out={out}"], {"run": RunSettings})
    settings = tyro.cli(RunSettings, args=words[1:], prog=f"the settings in {file}")
    settings.check()
    return settings
