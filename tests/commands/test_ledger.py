"""The ledger of verdicts: what counts as a question, and that later verdicts are adjusted for earlier ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from kd.commands.data import load_data
from kd.commands.ledger import (
    Digests,
    Entry,
    Ledger,
    ask,
    describe_questions,
    digest_inputs,
    digest_test_set,
    ledger_files,
    read_ledger,
)
from kd.commands.settings import RunSettings
from kd.commands.steps import prepare_distillation_data
from kd.evaluation.contrast import Contrast
from kd.evaluation.verdict import Question
from kd.report.html import render
from kd.storage.files import publish
from tests.commands.compare.test_command import kd_command

WEAK = Question(Contrast((-30.0, -6.0, -20.0, -9.0, -12.0)))
TEST, OTHER = (TensorDataset(torch.full((4, 2), value), torch.arange(4)) for value in (0.0, 1.0))


def entry(pairs: int = 5, *, test: TensorDataset = TEST, device: str = "cpu", command: str = "compare") -> Entry:
    config = {"PAIRS": pairs, "METHOD": "kd", "DEVICE": device}
    return ask(WEAK, Digests(str(id(test)), {}), command=command, title=f"{pairs} pairs", config=config)


def test_a_question_is_its_command_settings_and_test_set() -> None:
    assert entry().key == entry(device="cuda").key
    assert entry().key != entry(6).key  # raising --pairs after a look is another look
    assert entry().key != entry(command="sweep").key
    assert entry().test != entry(test=OTHER).test


def test_another_margin_is_no_other_question() -> None:
    """The differences and their p-values are the same."""

    def key(margin: float) -> str:
        config = {"PAIRS": 5, "METHOD": "kd", "MARGIN": margin}
        return ask(WEAK, Digests("t", {}), command="compare", title="", config=config).key

    assert key(0.1) == key(0.5) != entry().key


def test_an_announced_question_counts_and_its_result_is_not_lost() -> None:
    first, asked = entry(5), ask(None, Digests(str(id(TEST)), {}), command="compare", title="", config={"PAIRS": 9})
    ledger = Ledger().announce(asked)
    assert [earlier.p for earlier in ledger.before(first)] == [1.0]
    measured = dataclasses.replace(asked, p=0.01, verdict="helps")
    assert ledger.record(measured).announce(asked) == ledger.record(measured)
    undecided = dataclasses.replace(first, verdict="inconclusive")
    assert Ledger().record(undecided).announce(asked).find_undecided(entry(5, command="sweep")) == undecided


def test_a_verdict_is_adjusted_for_earlier_questions_on_the_same_test_set_alone() -> None:
    first, second, elsewhere = entry(5), entry(6), entry(7, test=OTHER)
    ledger = Ledger().record(first).record(elsewhere).record(second)
    assert ledger.before(first) == []
    assert [earlier.p for earlier in ledger.before(second)] == [first.p]
    assert ledger.before(elsewhere) == []
    assert len(ledger.before(entry(8))) == 2


def test_a_repeated_question_adds_nothing_and_keeps_its_place() -> None:
    ledger = Ledger().record(entry(5)).record(entry(6))
    assert ledger.record(entry(5)) == ledger
    assert ledger.before(entry(5)) == []


def test_the_file_is_read_as_it_was_written_and_an_edited_one_is_refused(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == Ledger()
    ledger = Ledger().record(entry(5)).record(entry(6))
    publish(ledger_files(ledger, tmp_path))
    assert read_ledger(tmp_path) == ledger
    path = tmp_path / "verdicts.json"
    path.write_text(path.read_text().replace(str(ledger.entries[0].p), "0.9"))
    with pytest.raises(OSError, match=r"verdicts.json, the record of all verdicts, is damaged: it was changed"):
        read_ledger(tmp_path)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    old = {"test": "t", "key": "k", "title": "kd compare: kd, 5 pairs", "p": 0.3, "p_of_helping": 1.0}
    (tmp_path / "verdicts.json").write_text(json.dumps({"format": 2, "entries": [old]}))
    assert read_ledger(tmp_path) == Ledger((Entry(**old),))  # type: ignore[arg-type]  # texts and numbers


@pytest.mark.parametrize(
    ("verdict", "command", "method", "pairs", "outranks"),
    [
        ("inconclusive", "compare", "kd", 5, False),
        ("not decided", "compare", "kd", 9, False),
        ("inconclusive", "compare", "kd", 4, True),  # fewer pairs than the test
        ("helps", "compare", "kd", 9, True),
        ("inconclusive", "compare", "dkd", 9, True),
        ("inconclusive", "sweep", "kd", 9, True),
    ],
)
def test_a_test_with_few_pairs_does_not_outrank_an_undecided_comparison_of_its_method(
    verdict: str, command: str, method: str, pairs: int, outranks: bool
) -> None:
    compared = dataclasses.replace(entry(5), verdict=verdict, command=command, method=method, pairs=pairs)
    assert (Ledger().record(compared).find_undecided(entry(5, command="sweep")) is None) == outranks
    decided = dataclasses.replace(entry(20), verdict="hurts")
    later = Ledger().record(compared).record(decided)
    assert later.find_undecided(entry(5, command="sweep")) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2, "entries": 3}', b"[" * 100_000])
def test_a_damaged_file_ends_in_one_paragraph(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "verdicts.json").write_bytes(content)
    with pytest.raises(OSError, match="is damaged"):
        read_ledger(tmp_path)


def test_the_page_shows_all_questions_once_there_are_several() -> None:
    one = Ledger().record(entry(5))
    assert describe_questions(one, entry().test) == ()
    html = render(describe_questions(one.record(entry(6)), entry().test))
    assert "5 pairs" in html
    assert "6 pairs" in html


def test_another_split_or_normalisation_is_the_same_test_set(tmp_path: Path) -> None:
    """The mean of the training split is part of the normalised test items, but not of the question."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    arrays = {
        f"{axis}_{part}": values
        for part in ("train", "test")
        for axis, values in (("x", rng.standard_normal((60, 4)).astype(np.float32)), ("y", labels))
    }
    np.savez(tmp_path / "own.npz", **arrays)
    settings = RunSettings(data=str(tmp_path / "own.npz"), test_size=0.2)
    digests = {digest_test_set(load_data(dataclasses.replace(settings, random_state=seed))) for seed in (1, 2)}
    assert len(digests) == 1
    np.savez(tmp_path / "own.npz", **{**arrays, "x_test": arrays["x_test"] + 1})
    assert digest_test_set(load_data(settings)) not in digests


def write_table(folder: Path, *, shift: float = 0) -> None:
    """Write a table of three classes and unlabelled rows, which ``shift`` changes."""
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(90) % 3, "test": np.arange(30) % 3}
    inputs = {part: (rng.normal(size=(len(y), 4)) + y[:, None]).astype("f4") for part, y in labels.items()}
    arrays = {f"x_{part}": x for part, x in inputs.items()} | {f"y_{part}": y for part, y in labels.items()}
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]  # its keyword allow_pickle is a flag
    np.savez(folder / "u.npz", x=rng.normal(size=(40, 4)).astype("f4") + np.float32(shift))


def write_logits(folder: Path, scale: float) -> None:
    labels = np.concatenate([np.arange(90) % 3, np.arange(30) % 3])
    np.save(folder / "t.npy", np.linspace(-1, 1, 120, dtype="f4")[:, None] + scale * np.eye(3, dtype="f4")[labels])


COMMANDS = {
    "compare": ("--pairs", "2", "--smoothing", "0", "--no-longer"),
    "sweep": ("--temperatures", "2", "--alphas", "0.5", "--seeds", "1", "--final-pairs", "2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_teacher_whose_file_changed_is_another_question(command: str, tmp_path: Path) -> None:
    write_table(tmp_path)
    counts = []
    for scale in (4, 4, 9):
        write_logits(tmp_path, scale)
        data = ("--data", str(tmp_path / "d.npz"), "--teacher", f"logits={tmp_path / 't.npy'}", "--student", "mlp:4")
        flags = ("--epochs", "1", "--batch-size", "32", "--device", "cpu", "--processes", "1", *COMMANDS[command])
        assert kd_command(command, "--out", str(tmp_path / "run"), *data, *flags) == 0
        counts.append(len(read_ledger(tmp_path / "run" / ".kd").entries))
    assert counts == [1, 1, 2]


def test_files_enter_a_question_by_their_content(tmp_path: Path) -> None:
    write_table(tmp_path)
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef Net():\n    return nn.Linear(4, 3)\n")
    model = f"{tmp_path / 'net.py'}:Net"

    def digest_all(**changed: Any) -> str:
        given = {"data": str(tmp_path / "d.npz"), "unlabelled": tmp_path / "u.npz", "student": "mlp:4"}
        settings = RunSettings(**{**given, "epochs": 1, "batch_size": 32, "teacher": ("mlp:8",), **changed})  # type: ignore[arg-type]
        return json.dumps(digest_inputs(prepare_distillation_data(settings, torch.device("cpu"))))

    first = [digest_all(), digest_all(teacher=(model,)), digest_all(student=model)]
    assert first == [digest_all(), digest_all(teacher=(model,)), digest_all(student=model)]
    with (tmp_path / "net.py").open("a") as file:
        file.write("# changed\n")
    assert digest_all() == first[0]
    assert digest_all(teacher=(model,)) != first[1]
    assert digest_all(student=model) != first[2]
    write_table(tmp_path, shift=0.5)
    assert digest_all() != first[0]
