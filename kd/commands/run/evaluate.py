"""``kd evaluate``: evaluate the trained models of a run on the test split."""

from __future__ import annotations

from kd.commands.run import command
from kd.commands.run.files import folders
from kd.commands.run.settings import EvaluateSettings
from kd.commands.settings_file import saved_settings
from kd.commands.steps import open_command


def run(settings: EvaluateSettings) -> None:
    """Evaluate the models and write all files of ``kd run``, without training.

    Raises:
        ValueError: a model has not been trained with the settings in the run's file.
        OSError: the run does not exist; a folder is not writable or is in use by another run.
    """
    saved = saved_settings(settings.out, trust=settings.trust)
    written = folders(saved.models_dir, saved.results_dir)
    made = ("evaluation", "evaluation-teacher", "validation", "latency")
    with open_command(saved, *written, made=made, program="evaluate") as device:
        command.finish(saved, device, command.train(saved, device))
