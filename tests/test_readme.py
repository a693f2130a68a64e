"""Commands and imports in the documents work in a fresh clone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.test_packaging import ROOT, clean_copy, repository_files, require_index

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md") for path in ROOT.glob(pattern))
QUICK = ("--limit", "200", "--epochs", "1")


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Return the commands in the bash blocks, as words, without comments."""
    lines = "".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def without_code(path: Path) -> str:
    """Return the text of a document without code blocks and inline code."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def pipeline_arguments() -> list[list[str]]:
    """Return the arguments of the documents' pipeline commands, after ``main.py`` or in ARGS; omit empty ones."""
    lists = []
    for words in (words for document in DOCUMENTS for words in commands(document)):
        if "main.py" in words:
            lists.append(words[words.index("main.py") + 1 :])
        elif words[0] == "make" and "run" in words:
            lists.append(shlex.split("".join(word[5:] for word in words if word.startswith("ARGS="))))
    return sorted({tuple(arguments): arguments for arguments in lists if arguments}.values())


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command like a reader, without variables of this environment or of a surrounding make."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def outputs(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for top in ("models", "results") for p in (folder / top).rglob("*.*")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clean copy. This environment's interpreter runs its scripts, which import the copy's own ``kd``."""
    return clean_copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a clean copy without an environment, so ``make`` must install everything.

    The copy is removed afterwards, because its environment takes gigabytes.
    """
    if not shutil.which("make"):
        pytest.skip("needs make")
    require_index(tmp_path_factory.mktemp("index"))
    folder = clean_copy(tmp_path_factory.mktemp("fresh"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def make(folder: Path, target: str, arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``make target ARGS=…`` with this interpreter, and the CPU build of torch if this environment has it."""
    build = ["CPU=1"] if torch.__version__.endswith("+cpu") else []
    return run("make", target, f"ARGS={arguments}", f"PYTHON={sys.executable}", *build, cwd=folder)


# --- text


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


def test_the_readme_gives_the_two_commands() -> None:
    first_words = [words[:2] for words in commands(ROOT / "README.md")]
    assert ["make", "run"] in first_words
    assert ["make", "test"] in first_words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = [
        word for words in commands(document) if words[0] == "make" for word in words[1:] if re.match(r"\w[^=]*$", word)
    ]
    mentioned += re.findall(r"`make ([\w-]+)", document.read_text(encoding="utf-8"))
    assert set(mentioned) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_script_in_a_command_exists(document: Path) -> None:
    files = set(repository_files())
    scripts = {word for words in commands(document) for word in words if re.fullmatch(r"[\w./-]+\.(py|sh|toml)", word)}
    written = ("run.toml", "export/infer.py")  # by kd run and kd export
    assert {name for name in scripts if not name.endswith(written)} <= files


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_placeholder_is_left(document: Path) -> None:
    text = without_code(document)
    assert re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b|\bTODO\b|\bTBD\b|\bXXX\b", text) == []


# --- commands


def test_the_python_of_the_first_pages_runs_quickly(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [block for page in ("README.md", "docs/getting_started.md") for block in blocks(ROOT / page, "python")]
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(examples, start=1):
        exec(compile(block, f"python block {number}", "exec"), {"__name__": "first pages"})
    assert {path.name for path in tmp_path.iterdir()} <= {toy.MODELS_DIR.name, toy.RESULTS_DIR.name}


@pytest.mark.parametrize("arguments", pipeline_arguments(), ids=" ".join)
def test_every_pipeline_command_runs_quickly(copy: Path, arguments: list[str]) -> None:
    ran = run(sys.executable, "-m", "tests.cheap", "main.py", *arguments, *QUICK, cwd=copy)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "QUICK RUN" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert {"models/manifest.json", "results/metrics/metrics.json", "results/plots/training_curves.png"} <= outputs(
        copy
    )


@pytest.mark.timeout(1500)
def test_make_run_in_a_fresh_clone_installs_and_writes_every_documented_file(fresh: Path) -> None:
    ran = make(fresh, "run", " ".join(QUICK))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    reference = (ROOT / "docs" / "pipeline.rst").read_text(encoding="utf-8")
    promised = set(re.findall(r"- ``(\w+\.(?:pth|png))``", reference))
    assert len(promised) == 7
    assert promised <= {Path(name).name for name in outputs(fresh)}
    assert (fresh / ".venv").is_dir()
