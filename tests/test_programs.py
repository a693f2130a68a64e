"""``python main.py`` as a separate process with output in a pipe, and ``kd run`` with the same settings."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import config
import main
from kd import cli
from kd.commands.settings import FLAGS_ALONE
from tests.digests import folder_digest
from tests.report.test_page import sections
from tests.test_cli import QUICK, ROOT, SETTINGS, run
from tests.test_pipeline import FILES


def written(folder: Path) -> list[Path]:
    """Return the files of a run by path, without the resume state."""
    return [path for path in folder.rglob("*") if path.is_file() and ".kd" not in path.parts]


class Finished(NamedTuple):
    folder: Path
    outcome: subprocess.CompletedProcess[str]


def run_main(folder: Path, *python: str) -> Finished:
    """Run ``python main.py`` quickly in an empty folder, without colour settings in the environment."""
    environment = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "TTY_COMPATIBLE"}}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-W", "error", *python, main.__file__, *QUICK]
    outcome = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=200, check=False
    )
    return Finished(folder, outcome)


@pytest.fixture(scope="module")
def main_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_main(tmp_path_factory.mktemp("main"), "-m", "tests.cheap")


@pytest.mark.slow
def test_the_program_succeeds_and_writes_into_the_folder_it_is_called_from(tmp_path: Path) -> None:
    """With the full MNIST and real figures."""
    _, outcome = run_main(tmp_path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    names = [path.relative_to(tmp_path) for path in written(tmp_path)]
    counted = {
        str(parent.as_posix()): sum(path.parent == parent for path in names) for parent in {p.parent for p in names}
    }
    assert counted == {"models": 4, "results/metrics": 6, "results/plots": 5, "results/predictions": 1, "results": 1}
    assert not [path for path in names if path.name.startswith(".")]


def test_without_a_terminal_there_is_one_plain_line_per_epoch(main_run: Finished) -> None:
    lines = main_run.outcome.stdout.splitlines()
    pattern = r"(\w+) +epoch 1/1  train loss [\d.]+ accuracy [\d.]+%  val loss [\d.]+ accuracy [\d.]+%  \d+ s"
    epochs = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
    assert epochs == ["teacher", "control", "distilled"]
    assert not set("\x1b\r\b") & set(main_run.outcome.stdout)


def test_the_program_prints_the_path_of_each_file(main_run: Finished) -> None:
    for path in written(main_run.folder):
        place = path.parent.relative_to(main_run.folder)
        (line,) = [
            line for line in main_run.outcome.stdout.splitlines() if re.match(rf"{place.as_posix()}[/\\]  ", line)
        ]
        assert path.name in line


# --- kd run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a quick ``kd run``."""
    folder = tmp_path_factory.mktemp("kd")
    with contextlib.chdir(folder):
        assert cli.main(["run", *QUICK, "--out", "somewhere/else"]) == 0
    assert [path.name for path in folder.iterdir()] == ["somewhere"]
    return folder / "somewhere" / "else"


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in written(folder)}


def test_a_run_writes_exactly_the_documented_layout_and_its_state(finished: Path) -> None:
    assert sorted(outputs(finished)) == sorted([*FILES, "run.toml"])
    assert (finished / ".kd" / "steps").is_dir()


def test_a_run_is_bit_for_bit_the_run_of_main(finished: Path, main_run: Finished) -> None:
    kd_files, main_files = outputs(finished), outputs(main_run.folder)
    assert set(kd_files) - set(main_files) == {"run.toml"}
    del kd_files["run.toml"]
    timed = {"results/metrics/timings.json", REPORT}
    assert {name for name in kd_files if kd_files[name] != main_files[name]} <= {*RECORDS, *timed}
    for name in RECORDS:
        assert comparable(kd_files[name]) == comparable(main_files[name]), name
    kd_page, main_page = sections(kd_files[REPORT]), sections(main_files[REPORT])
    assert list(kd_page) == list(main_page)
    assert {name for name in kd_page if kd_page[name] != main_page[name]} <= {
        "cost",
        "provenance",
    }  # times; command and folders
    assert f"kd run {' '.join(QUICK)} --out somewhere/else" in kd_page["provenance"]
    assert f"python main.py {' '.join(QUICK)}<" in main_page["provenance"]


REPORT = "results/report.html"
RECORDS = ("models/manifest.json", "results/metrics/metrics.json")


def comparable(record: bytes) -> dict[str, Any]:
    """Return a JSON record without entries that may differ: the models' classes, and the folders of ``main.py``."""
    content: dict[str, Any] = json.loads(record)
    for entry in content.get("models", {}).values():
        entry.pop("class", None)  # in the manifest only
    for folder in ("MODELS_DIR", "RESULTS_DIR", "STATE_DIR"):
        content.get("config", {}).pop(folder, None)
    return content


@pytest.mark.slow
def test_the_same_command_again_reuses_every_step_and_changes_no_file(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = outputs(finished)
    assert cli.main(["run", *QUICK, "--out", str(finished)]) == 0
    reused = re.findall(r"^(\S+): up to date, reused", capsys.readouterr().out, flags=re.MULTILINE)
    steps = ["teacher", "logits-training", "logits-validation", "control", "distilled"]
    steps += ["evaluation", "validation", "latency"]
    assert reused == steps
    after = outputs(finished)
    assert before.pop("run.toml") == after.pop("run.toml")  # its paths count from its folder
    reports = [sections(files.pop(REPORT)) for files in (before, after)]
    assert after == before
    for report in reports:
        report.pop("provenance")  # another path to the same folder
    assert reports[0] == reports[1]


def test_the_settings_are_recorded_under_the_names_of_config(finished: Path) -> None:
    recorded = json.loads((finished / "results" / "metrics" / "metrics.json").read_text(encoding="utf-8"))["config"]
    assert set(recorded) - {"BFLOAT16"} == {name.upper() for name in SETTINGS} - {
        "OUT",
        "FRESH",
        "SNAPSHOT_SECONDS",
    } - {name.upper() for name in FLAGS_ALONE}
    assert (recorded["LIMIT"], recorded["EPOCHS"], recorded["TEMPERATURE"]) == (200, 1, 5)
    assert recorded["BFLOAT16"] is False
    assert recorded["DEVICE"] == str(config.DEVICE)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a Windows process at once")
def test_an_interrupted_run_prints_a_hint_and_resumes_to_the_same_results(tmp_path: Path) -> None:
    command = ["-m", "tests.cheap", str(ROOT / "kd" / "__main__.py"), "run", *QUICK, "--out"]
    with subprocess.Popen(
        [sys.executable, "-u", *command, "stopped"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("teacher  ") for line in process.stdout)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "(without --fresh) to resume" in err
    ended = {folder: run(*command, folder, cwd=tmp_path) for folder in ("stopped", "untouched")}
    assert all(process.returncode == 0 for process in ended.values()), ended
    assert "teacher: up to date, reused" in ended["stopped"].stdout
    first, second = (folder_digest(tmp_path / folder / "models", tmp_path / folder / "results") for folder in ended)
    assert first == second
