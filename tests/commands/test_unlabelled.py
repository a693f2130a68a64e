"""``--unlabelled``: more training data for the distilled student; the control takes the same number of steps."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import kd
from kd import cli
from kd.commands.data import load_data
from kd.commands.models import combine_teachers, new_teachers
from kd.commands.settings import RunSettings
from kd.commands.steps import UNLABELLED_TOO, make_control_loader, make_distill_loaders

QUICK = ("--limit", "200", "--epochs", "1", "--teacher", "mlp:16", "--student", "mlp:8")


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """300 images that are in no split of a quick run."""
    used = {*load_data(RunSettings(limit=200)).rows["train"], *load_data(RunSettings(limit=200)).rows["val"]}
    rows = torch.tensor([row for row in range(6_000) if row not in used][:300])
    np.savez(tmp_path / "more.npz", x=kd.load_mnist(train=True).images[rows].numpy())
    return tmp_path / "more.npz"


def test_only_the_distilled_student_sees_them_and_steps_are_equal(more: Path) -> None:
    settings = RunSettings(limit=200, unlabelled=more, teacher=("mlp:16",))
    data = load_data(settings)
    teacher = combine_teachers([teacher.model for teacher in new_teachers(settings, data)], settings)
    distill_data, validation = make_distill_loaders(settings, teacher, data)
    control = make_control_loader(data, distill_data)
    assert len(distill_data.dataset) == len(control.dataset) == 180 + 300  # type: ignore[arg-type]
    assert len(distill_data) == len(control)
    labels = torch.cat([batch[1] for batch in distill_data])
    assert int((labels == kd.types.UNLABELLED).sum()) == 300
    assert all(bool((batch[1] >= 0).all()) for loader in (control, validation) for batch in loader)


def test_a_run_notes_the_repeated_samples_without_a_warning(
    more: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["run", *QUICK, "--unlabelled", str(more), f"--out={tmp_path / 'run'}"]) == 0
    assert "300 unlabelled samples for the distilled student" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "run/results/metrics/metrics.json").read_text())
    (note,) = recorded["notes"]
    assert UNLABELLED_TOO in note
    assert recorded["config"]["UNLABELLED"] == str(more)
    assert UNLABELLED_TOO in (tmp_path / "run/results/report.html").read_text()


@pytest.mark.usefixtures("no_pool")
@pytest.mark.slow
def test_the_control_of_a_comparison_is_trained_on_labels_alone(more: Path, tmp_path: Path) -> None:
    few = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--processes", "1")
    assert cli.main(["compare", *QUICK, *few, "--unlabelled", str(more), f"--out={tmp_path / 'a'}"]) == 0
    assert cli.main(["run", *QUICK, "--unlabelled", str(more), f"--out={tmp_path / 'b'}"]) == 0
    students = (tmp_path / "a/results/metrics/comparison_students.csv").read_text()
    assert students.count("control,") == students.count("distilled,") == 2
    # Same start, batches and logits as in a run: with one thread, the trained networks are identical.
    if torch.get_num_threads() == 1:
        manifest = json.loads((tmp_path / "b/models/manifest.json").read_text())["models"]
        for name in ("student_regular.pth", "student_distilled.pth"):
            assert manifest[name]["sha256"] in students


@pytest.mark.parametrize(
    ("command", "flags", "expected"),
    [
        ("run", ("--method", "dkd"), "dkd needs a label for every sample"),
        ("sweep", (), "--unlabelled must be omitted"),
    ],
)
def test_unsupported_combinations_are_refused(
    command: str, flags: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--unlabelled", "more.npz", *flags])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err
