"""``kd distill``: train teacher, control and distilled student, without predictions on the test split."""

from __future__ import annotations

from kd.arms import ARMS, TEACHER
from kd.commands.messages import say_files
from kd.commands.publish import quick_run_stamp
from kd.commands.run import command
from kd.commands.run.files import folders, untested_weight_files
from kd.commands.run.settings import DistillSettings
from kd.commands.settings_file import to_toml
from kd.commands.steps import open_command
from kd.console import say
from kd.storage.files import publish


def run(settings: DistillSettings) -> None:
    """Train the models that are not trained yet, and save all three.

    Raises:
        ValueError, OSError, FloatingPointError: see ``kd.commands.run.command.run``.
    """
    with open_command(settings, *folders(settings.models_dir, settings.results_dir), program="distill") as device:
        publish({settings.file: to_toml(settings, command="run")})
        trained = command.train(settings, device)
        model_of_file = {ARMS[name].file: model for name, model in trained.models.items()}
        files = untested_weight_files(
            settings.models_dir,
            model_of_file,
            trained.data.train_set,
            classes=trained.data.task.classes,
            toy=quick_run_stamp(settings.limit),
            architectures=command.name_architectures(settings, teacher=trained.models[TEACHER], task=trained.data.task),
        )
        publish(files)
        say_files(files, but=settings.state_dir)
        say(f"test split not evaluated. Next: kd evaluate --out {settings.out}, which writes {settings.results_dir}")
