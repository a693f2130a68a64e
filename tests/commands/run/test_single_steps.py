"""The commands for a part of a run: together they are the run, and alone they do no more than their part."""

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

TOY = ("--limit", "200", "--epochs", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Of a whole run, and of one in parts."""
    whole, parts = (tmp_path_factory.mktemp(name) for name in ("whole", "parts"))
    assert cli.main(["run", *TOY, f"--out={whole}"]) == 0
    assert cli.main(["distill", *TOY, f"--out={parts}"]) == 0
    assert not list(parts.glob("results/predictions/*"))  # no test item was asked
    assert cli.main(["evaluate", f"--out={parts}"]) == 0
    return whole, parts


@pytest.fixture
def copy(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """The folder of the whole run, to be damaged: what is kept in it holds wherever it is."""
    return Path(shutil.copytree(folders[0], tmp_path / "copy"))


def test_distill_and_evaluate_leave_what_run_leaves(folders: tuple[Path, Path]) -> None:
    one, other = (folder_digest(folder / "models", folder / "results") for folder in folders)
    assert one == other


def test_a_file_of_settings_repeats_the_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    whole, _ = folders
    assert cli.main(["run", f"--config={whole / 'run.toml'}", f"--out={tmp_path}"]) == 0
    assert folder_digest(tmp_path / "models", tmp_path / "results") == folder_digest(
        whole / "models", whole / "results"
    )


def test_distill_goes_on_from_the_settings_of_its_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / "results" / "metrics" / "metrics.json").read_bytes()
    assert cli.main(["distill", f"--out={copy}", "--alpha", "0.25"]) == 0
    out = capsys.readouterr().out
    kept = re.findall(r"^(\S+): kept from", out, flags=re.MULTILINE)
    assert kept == ["teacher", "logits-training", "logits-validation", "control"]
    assert "changed since the last run: inputs.objective" in out.replace("\n", " ")
    assert "test" not in json.loads((copy / "models" / "manifest.json").read_bytes())["models"]["teacher_model.pth"]
    assert (copy / "results" / "metrics" / "metrics.json").read_bytes() == before
    assert cli.main(["evaluate", f"--out={copy}"]) == 0
    recorded = json.loads((copy / "results" / "metrics" / "metrics.json").read_bytes())["config"]
    assert (recorded["ALPHA"], recorded["LIMIT"]) == (0.25, 200)


def test_evaluate_trains_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = copy.glob(".kd/steps/distilled-*")
    shutil.rmtree(step)
    assert cli.main(["evaluate", f"--out={copy}"]) == 1
    assert "error: distilled: there is none with these settings" in capsys.readouterr().err


def test_the_report_is_put_together_anew(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copy / "results" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert cli.main(["report", f"--out={copy}"]) == 0
    assert page.read_bytes() == before
    shutil.rmtree(copy / ".kd" / "report")
    assert cli.main(["report", f"--out={copy}"]) == 1
    assert "no part of a report is kept" in capsys.readouterr().err
    assert page.read_bytes() == before


def test_the_cache_is_listed_and_verified(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "info", f"--out={folders[0]}"]) == 0
    assert re.search(r"training-\w{16}\W+180\W+10\W+0.0[1-9]", capsys.readouterr().out)
    assert cli.main(["cache", "verify", f"--out={folders[0]}", "--rows", "50"]) == 0
    out = capsys.readouterr().out
    assert "50 of 180 rows are what the saved teacher answers" in out
    assert "20 of 20 rows are what the saved teacher answers" in out


def test_another_teacher_is_told_from_the_one_that_was_asked(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy / "models" / "teacher_model.pth"
    state = torch.load(file, weights_only=True)
    next(iter(state.values())).add_(0.1)
    torch.save(state, file)
    assert cli.main(["cache", "verify", f"--out={copy}"]) == 1
    out, err = capsys.readouterr()
    assert out.count("not checked; it is of another teacher or other data") == 2
    assert "none of the kept logits are those of" in err


def test_logits_that_are_not_the_teachers_are_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kd.storage.fingerprint import digest
    from kd.storage.snapshots import Snapshots

    (folder,) = copy.glob(".kd/steps/logits-training-*")
    kept = Snapshots(folder, key=digest(json.loads((folder / "description.json").read_bytes())))
    assert kept.state is not None
    kept.write(kept.state | {"logits": kept.state["logits"].roll(1, dims=0)}, done=True)
    assert cli.main(["cache", "verify", f"--out={copy}"]) == 1
    assert "teacher logits do not match their samples" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("evaluate",), ("cache", "info")])
def test_a_folder_without_a_run_is_told(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, f"--out={tmp_path / 'none'}"]) == 1
    assert "run.toml is not there. Name the folder of a finished kd run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_kept_logits_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in copy.glob(".kd/steps/logits-*"):
        shutil.rmtree(folder)
    assert cli.main(["cache", "info", f"--out={copy}"]) == 1
    assert "no logits are kept" in capsys.readouterr().err


def test_a_run_in_progress_is_left_alone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = copy.glob(".kd/steps/logits-training-*")
    half_written = folder / ".000002-x.pt.tmp"
    half_written.touch()
    with open_run(copy / ".kd"):
        assert cli.main(["cache", "info", f"--out={copy}"]) == 1
    assert "is using" in capsys.readouterr().err
    assert half_written.exists()


def test_a_damaged_note_of_a_cache_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(copy.glob(".kd/steps/logits-*/description.json")).write_text("{}")
    assert cli.main(["cache", "info", f"--out={copy}"]) == 1
    assert "is damaged: 'inputs'. Delete its folder" in capsys.readouterr().err
