"""``kd evaluate``: the end of a run, with the models that are trained."""

from __future__ import annotations

from kd.commands.run import command
from kd.commands.run.files import folders
from kd.commands.run.settings import EvaluateSettings
from kd.commands.settings_file import saved_settings
from kd.commands.steps import open_command


def run(settings: EvaluateSettings) -> None:
    """Ask the models for the test items and write everything that ``kd run`` writes; what it would train is refused.

    Raises:
        ValueError: something of the run is not trained with the settings in its file.
        OSError: no such run; a folder cannot be written to or is in use by another run.
    """
    saved = saved_settings(settings.out)
    with open_command(saved, *folders(saved.models_dir, saved.results_dir), made=("evaluation",)) as device:
        command.finish(saved, device, command.train(saved, device))
