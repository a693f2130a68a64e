"""Commands for single steps of a run: together they equal ``kd run``, and each does only its step."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kd import cli
from kd.storage.run_folder import open_run
from tests.digests import folder_digest

QUICK = ("--limit", "200", "--epochs", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The folders of a run by one command, and of the same run by single steps."""
    whole, stepwise = (tmp_path_factory.mktemp(name) for name in ("whole", "stepwise"))
    assert cli.main(["run", *QUICK, f"--out={whole}"]) == 0
    assert cli.main(["distill", *QUICK, f"--out={stepwise}"]) == 0
    assert not list(stepwise.glob("results/predictions/*"))  # nothing is predicted on the test split
    assert cli.main(["evaluate", f"--out={stepwise}"]) == 0
    return whole, stepwise


@pytest.fixture
def copy(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run's folder that a test may damage; saved state stays valid in a moved folder."""
    return Path(shutil.copytree(folders[0], tmp_path / "copy"))


@pytest.mark.slow
def test_distill_and_evaluate_write_the_files_of_run(folders: tuple[Path, Path]) -> None:
    whole, stepwise = (folder_digest(folder / "models", folder / "results") for folder in folders)
    assert whole == stepwise


def test_a_settings_file_repeats_the_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    whole, _ = folders
    assert cli.main(["run", f"--config={whole / 'run.toml'}", f"--out={tmp_path}"]) == 0
    assert folder_digest(tmp_path / "models", tmp_path / "results") == folder_digest(
        whole / "models", whole / "results"
    )


def test_distill_starts_from_the_settings_in_its_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / "results" / "metrics" / "metrics.json").read_bytes()
    assert cli.main(["distill", f"--out={copy}", "--alpha", "0.25"]) == 0
    out = capsys.readouterr().out
    kept = re.findall(r"^(\S+): up to date", out, flags=re.MULTILINE)
    assert kept == ["teacher", "logits-training", "logits-validation", "control"]
    assert "distilled: inputs changed (objective" in out.replace("\n", " ")
    assert "test" not in json.loads((copy / "models" / "manifest.json").read_bytes())["models"]["teacher_model.pth"]
    assert (copy / "results" / "metrics" / "metrics.json").read_bytes() == before
    assert cli.main(["evaluate", f"--out={copy}"]) == 0
    recorded = json.loads((copy / "results" / "metrics" / "metrics.json").read_bytes())["config"]
    assert (recorded["ALPHA"], recorded["LIMIT"]) == (0.25, 200)


def test_evaluate_trains_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = copy.glob(".kd/steps/distilled-*")
    shutil.rmtree(step)
    assert cli.main(["evaluate", f"--out={copy}"]) == 1
    assert "error: distilled: no saved result with these settings" in capsys.readouterr().err


def test_the_report_is_built_again(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copy / "results" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert cli.main(["report", f"--out={copy}"]) == 0
    assert page.read_bytes() == before
    shutil.rmtree(copy / ".kd" / "report")
    assert cli.main(["report", f"--out={copy}"]) == 1
    assert "no saved report sections" in capsys.readouterr().err
    assert page.read_bytes() == before


def test_the_cache_is_listed_and_verified(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "info", f"--out={folders[0]}"]) == 0
    assert re.search(r"training-\w{16}\W+180\W+10\W+0.0[1-9]", capsys.readouterr().out)
    assert cli.main(["cache", "verify", f"--out={folders[0]}", "--rows", "50"]) == 0
    out = capsys.readouterr().out
    assert "50 of 180 rows match the saved teacher" in out
    assert "20 of 20 rows match the saved teacher" in out


def test_logits_of_another_teacher_are_not_verified(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy / "models" / "teacher_model.pth"
    state = torch.load(file, weights_only=True)
    next(iter(state.values())).add_(0.1)
    torch.save(state, file)
    assert cli.main(["cache", "verify", f"--out={copy}"]) == 1
    out, err = capsys.readouterr()
    assert out.count("not checked: collected from a different teacher or dataset") == 2
    assert "no cached logits match" in err


def test_logits_of_other_samples_are_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kd.storage.fingerprint import digest
    from kd.storage.snapshots import Snapshots

    (folder,) = copy.glob(".kd/steps/logits-training-*")
    snapshots = Snapshots(folder, key=digest(json.loads((folder / "description.json").read_bytes())))
    assert snapshots.state is not None
    snapshots.write(snapshots.state | {"logits": snapshots.state["logits"].roll(1, dims=0)}, done=True)
    assert cli.main(["cache", "verify", f"--out={copy}"]) == 1
    assert "teacher logits do not match their samples" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("evaluate",), ("cache", "info")])
def test_a_folder_without_a_run_is_refused(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, f"--out={tmp_path / 'none'}"]) == 1
    assert "run.toml does not exist. --out must be the folder of a finished kd run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_cached_logits_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in copy.glob(".kd/steps/logits-*"):
        shutil.rmtree(folder)
    assert cli.main(["cache", "info", f"--out={copy}"]) == 1
    assert "no cached logits in" in capsys.readouterr().err


def test_the_cache_of_a_run_in_progress_is_not_read(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = copy.glob(".kd/steps/logits-training-*")
    half_written = folder / ".000002-x.pt.tmp"
    half_written.touch()
    with open_run(copy / ".kd"):
        assert cli.main(["cache", "info", f"--out={copy}"]) == 1
    assert "is using" in capsys.readouterr().err
    assert half_written.exists()


def test_a_damaged_description_of_a_cache_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(copy.glob(".kd/steps/logits-*/description.json")).write_text("{}")
    assert cli.main(["cache", "info", f"--out={copy}"]) == 1
    assert "is damaged: 'inputs'. Delete its folder" in capsys.readouterr().err
