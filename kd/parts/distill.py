"""``kd distill``: teacher, logits, control and distilled student, without a look at the test items."""

from __future__ import annotations

from kd import outcome, pipeline
from kd.checkpoint import publish
from kd.console import say, say_files
from kd.figures import toy_stamp
from kd.parts.settings import DistillSettings
from kd.results import untested_weight_files
from kd.run_file import to_toml


def run(settings: DistillSettings) -> None:
    """Train what is not trained yet, and save the three models.

    Raises:
        ValueError, OSError, FloatingPointError: as ``kd.pipeline.run`` has it.
    """
    with pipeline.opened(settings, *outcome.folders(settings.models_dir, settings.results_dir)) as device:
        publish({settings.file: to_toml(settings, command="run")})
        trained = pipeline.train(settings, device)
        named = {outcome.FILE_NAMES[name]: model for name, model in trained.models.items()}
        example = trained.data.train_set[0][0][None]
        files = untested_weight_files(settings.models_dir, named, example, toy=toy_stamp(settings.limit))
        publish(files)
        say_files(files, but=settings.state_dir)
        say(f"no test item was asked. Next: kd evaluate --out {settings.out}, which writes {settings.results_dir}")
