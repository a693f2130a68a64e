"""Pruning deletes what no program used in its last complete run, and nothing that one would use again."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.report.drawings import render_once
from kd.storage.cleaning import list_entries, measure, prune
from kd.storage.exchange import temporary_name
from kd.storage.run_folder import STEPS, open_run, run_step
from kd.storage.snapshots import Snapshots

INPUTS = st.sets(st.integers(0, 4), min_size=1)
RUNS = st.lists(st.tuples(st.sampled_from(["run", "compare", "my.program"]), INPUTS, st.booleans()), max_size=6)


def run_program(folder: Path, program: str, inputs: set[int], *, complete: bool = True) -> int:
    """Run a step for each input; return the number of steps that were computed rather than reused."""
    computed = 0

    def produce(_: Snapshots | None) -> dict[str, object]:
        nonlocal computed
        computed += 1
        return {"value": torch.tensor(1.0)}

    with suppress(ZeroDivisionError), open_run(folder, program=program):
        for number in inputs:
            run_step("step", {"number": number}, produce)
        if not complete:
            raise ZeroDivisionError
    return computed


@settings(max_examples=25)
@given(RUNS)
def test_the_last_complete_run_of_each_program_is_reused_after_pruning(runs: list[tuple[str, set[int], bool]]) -> None:
    with TemporaryDirectory() as temporary:
        folder, last = Path(temporary, ".kd"), dict[str, set[int]]()
        folder.mkdir()
        for program, inputs, complete in runs:
            run_program(folder, program, inputs, complete=complete)
            if complete:
                last[program] = inputs
        prune(list_entries(folder))
        kept = len(list((folder / STEPS).iterdir())) if runs else 0
        for program, inputs in last.items():
            assert run_program(folder, program, inputs) == 0
        if all(complete for _, _, complete in runs):
            assert kept == len(set().union(*last.values()))


def test_an_interrupted_run_keeps_what_it_has_used(tmp_path: Path) -> None:
    run_program(tmp_path, "run", {1, 2})
    run_program(tmp_path, "run", {2, 3}, complete=False)
    prune(list_entries(tmp_path))
    assert run_program(tmp_path, "run", {1, 2, 3}) == 0


def test_nothing_is_pruned_if_no_run_was_recorded(tmp_path: Path) -> None:
    run_program(tmp_path, "run", {1})
    for mark in sorted((tmp_path / "uses").rglob("*"), reverse=True):
        mark.rmdir() if mark.is_dir() else mark.unlink()
    assert [entry for entry in list_entries(tmp_path) if not entry.needed] == []


def test_a_program_that_uses_no_steps_lets_none_be_pruned(tmp_path: Path) -> None:
    """As ``kd cache`` on a run of a version that recorded nothing."""
    run_program(tmp_path, "run", {1})
    (tmp_path / "uses").rename(tmp_path.with_suffix(".uses"))
    run_program(tmp_path, "cache", set())
    prune(list_entries(tmp_path))
    assert run_program(tmp_path, "run", {1}) == 0


def test_state_moved_aside_and_leftovers_of_killed_runs_are_pruned(tmp_path: Path) -> None:
    run_program(tmp_path, "run", {1})
    with open_run(tmp_path, fresh=True, program="run"):
        run_step("step", {"number": 1}, lambda _: {"value": torch.tensor(1.0)})
    (step,) = (tmp_path / STEPS).iterdir()
    leftovers = (
        tmp_path / "pool-x1" / "work_and_shared",
        step / ".000003-0.pt.tmp",
        temporary_name(tmp_path / "owner"),
        temporary_name(tmp_path / STEPS / "subject.json"),
    )
    for leftover in leftovers:
        leftover.parent.mkdir(exist_ok=True)
        leftover.write_bytes(bytes(1000))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "run.json").write_text("{}")
    prune(list_entries(tmp_path))
    assert not (tmp_path / "aside-1").exists()
    assert not [leftover for leftover in leftovers if leftover.exists()]
    assert not list(tmp_path.glob("pool-*"))
    assert (tmp_path / "report" / "run.json").exists()
    assert run_program(tmp_path, "run", {1}) == 0


def test_a_symbolic_link_is_deleted_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "aside-1").symlink_to(tmp_path / "target")
    prune(list_entries(tmp_path / "state"))
    assert not (tmp_path / "state" / "aside-1").is_symlink()
    assert (tmp_path / "target" / "file").exists()


def draw(number: int) -> Any:
    return number


@pytest.mark.pictures
def test_a_figure_is_kept_while_its_command_draws_it(tmp_path: Path) -> None:
    rendered = []

    def render(plot: Any) -> bytes:
        rendered.append(plot)
        return str(plot).encode()

    def run(number: int) -> None:
        with open_run(tmp_path, program="run"):
            render_once(partial(draw, number), "png", render)

    run(1)
    run(2)
    prune(list_entries(tmp_path))
    run(2)
    assert rendered == [1, 2]
    run(1)
    assert rendered == [1, 2, 1]


def test_sizes_count_files_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(bytes(5))
    assert measure(tmp_path) == (2, 15)
    assert measure(tmp_path / "a") == (1, 10)
    assert measure(tmp_path / "missing") == (0, 0)
