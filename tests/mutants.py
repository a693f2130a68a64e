"""Mutation check: break the package in twenty places, one by one, and see whether a related test fails.

    python tests/mutants.py                     use this checkout's tests
    python tests/mutants.py --against CHECKOUT  also use the tests of another checkout of this project

Each mutant replaces a snippet of code that occurs once in the package. The exit status is 1 if this checkout's tests
miss a mutant. With --against, mutants that the other checkout's tests miss are not counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    meaning: str
    original: str
    broken: str
    tests: str  # related test files of this checkout, separated by spaces
    earlier: str = ""  # test files of the other checkout, if they have other names


MUTANTS = (
    Mutant(
        "quick runs have no stamp",
        'return None if limit is None else f"LIMIT={limit}"',
        "return None",
        "tests/test_pipeline.py",
    ),
    Mutant(
        "plots are not written",
        " | dict(further)\n",
        "\n",
        "tests/test_pipeline.py",
    ),
    Mutant(
        "new augmented views get no live teacher",
        "return live_teacher(teacher, objective) if needs_logits else objective",
        "return objective",
        "tests/data/test_augmentation.py",
        "tests/test_augmentation.py",
    ),
    Mutant(
        "the control does not repeat its samples",
        "return loader_like(data.train_loader, repeated(data.train_set, len(distilled.dataset)))",
        "return data.train_loader",
        "tests/commands/test_unlabelled.py",
        "tests/test_unlabelled_runs.py",
    ),
    Mutant(
        "the distilled student starts from other weights",
        "distilled = student, copy.deepcopy(student)",
        "distilled = student, copy.deepcopy(student)\n    [p.data.zero_() for p in distilled.parameters()]",
        "tests/test_pipeline_metamorphic.py tests/training/test_run_steps.py",
        "tests/test_pipeline_metamorphic.py tests/test_stages.py",
    ),
    Mutant(
        "wrong logits are accepted",
        "tolerance = 0.01 *",
        "tolerance = 100 *",
        "tests/test_pipeline_metamorphic.py",
    ),
    Mutant(
        "different batches are not noticed",
        'return "their samplers draw different indices"',
        "return None",
        "tests/test_user_loaders.py",
    ),
    Mutant(
        "the diagonal of confusions is drawn",
        "np.fill_diagonal(matrix, 0)",
        "pass",
        "tests/report/test_plots.py",
        "tests/test_plots.py",
    ),
    Mutant(
        "figures ignore the page's colours",
        "lambda colour: _THEME.get(colour[0], colour[0])",
        "lambda colour: colour[0]",
        "tests/report/test_page.py",
        "tests/test_report.py",
    ),
    Mutant(
        "the verdict is reversed",
        "is_distilled = test.only_second_wrong <",
        "is_distilled = test.only_second_wrong >",
        "tests/test_command_line.py tests/evaluation/test_two_models.py",
        "tests/test_command_line.py tests/test_stats.py",
    ),
    Mutant(
        "importing changes the number of threads",
        "TEACHER_BATCH_SIZE = 256",
        "torch.set_num_threads(3)\nTEACHER_BATCH_SIZE = 256",
        "tests/test_import_effects.py",
        "tests/test_imports.py",
    ),
    Mutant(
        "augmented views of an image are equal",
        "{item // self.views} {item % self.views}",
        "{item // self.views}",
        "tests/data/test_augmentation.py",
        "tests/test_augmentation.py",
    ),
    Mutant(
        "the test set is read although it is not needed",
        "work = _train_and_test if tested else _train_untested",
        "work = _train_and_test",
        "tests/training/test_pool.py",
        "tests/test_pool.py",
    ),
    Mutant(
        "kd run trains with another seed",
        "recipe=make_recipe(settings), seed=settings.seed)",
        "recipe=make_recipe(settings), seed=settings.seed + 1)",
        "tests/test_programs.py",
        "tests/test_cli.py",
    ),
    Mutant(
        "kd evaluate trains missing models",
        "written, made=made",
        "written, made=None",
        "tests/commands/run/test_single_steps.py",
        "tests/test_parts.py",
    ),
    Mutant(
        "the page's example for scikit-learn does not run",
        "random_state: Any = None,\n        verbose",
        "random_seed: Any = None,\n        verbose",
        "tests/docs/test_own_data.py",
        "tests/test_own_data_docs.py",
    ),
    Mutant(
        "a loaded teacher is trained again",
        "if teacher.trained:\n            teacher_accuracy",
        "if not teacher.trained:\n            teacher_accuracy",
        "tests/commands/test_own_data.py",
        "tests/test_own_data_runs.py",
    ),
    Mutant(
        "the rows of the test split are not recorded",
        'if name != "train":\n            rows[name]',
        'if name == "val":\n            rows[name]',
        "tests/teachers/test_lookup.py",
        "tests/test_file_teacher.py",
    ),
    Mutant(
        "the dry run omits the test samples",
        '"test": self.test_set}',
        '"test": self.val_set}',
        "tests/commands/test_dry_run.py",
        "tests/test_plan.py",
    ),
    Mutant(
        "files are replaced one by one",
        "staged[path] = _stage(path, content)",
        "_stage(path, content).replace(path)",
        "tests/test_bad_input.py",
    ),
)


def copy(checkout: Path, folder: Path) -> Path:
    """Copy the files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (checkout / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((checkout / name).read_bytes())
    return folder


def catches(checkout: Path, mutant: Mutant, tests: str) -> tuple[bool, float]:
    """Return whether a test of these files fails on the mutant, and the time in seconds."""
    places = [path for path in (checkout / "kd").rglob("*.py") if mutant.original in path.read_text(encoding="utf-8")]
    if len(places) != 1 or places[0].read_text(encoding="utf-8").count(mutant.original) != 1:
        raise SystemExit(f"error: {mutant.meaning}: the snippet must occur once in {checkout}/kd. Got {places}.")
    (path,) = places
    code = path.read_text(encoding="utf-8")
    path.write_text(code.replace(mutant.original, mutant.broken), encoding="utf-8")
    started = time.perf_counter()
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *tests.split()]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(checkout)}
        ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(code, encoding="utf-8")
    if ended.returncode not in (0, 1):
        raise SystemExit(f"error: {mutant.meaning}: pytest could not run.\n{ended.stdout}{ended.stderr}")
    return ended.returncode == 1, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--only", default="", help="mutants whose meaning contains this text")
    options = parser.parse_args()
    missed = 0
    with TemporaryDirectory() as new_folder, TemporaryDirectory() as old_folder:
        new = copy(ROOT, Path(new_folder))
        old = copy(options.against, Path(old_folder)) if options.against else None
        for mutant in (mutant for mutant in MUTANTS if options.only in mutant.meaning):
            caught, seconds = catches(new, mutant, mutant.tests)
            line = f"{mutant.meaning:55} {'caught' if caught else 'MISSED'} {seconds:6.1f} s"
            expected = True
            if old is not None:
                expected, seconds = catches(old, mutant, mutant.earlier or mutant.tests)
                line += f"   {'caught' if expected else 'missed'} there {seconds:6.1f} s"
            print(line, flush=True)
            missed += expected and not caught
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
