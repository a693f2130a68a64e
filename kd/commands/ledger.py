"""The ledger of a run folder: every verdict asked of a test set. Each new verdict is adjusted for the earlier ones.

Ten methods without effect, judged one by one at 5 %, give some "better" in up to 15 % of cases. The ledger is kept
outside the saved steps, so that ``--fresh`` and ``kd clean`` do not forget the questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from kd.checks import DamagedDataError
from kd.commands.data import Data
from kd.commands.paired_settings import PairedSettings
from kd.commands.steps import TeacherWithData
from kd.data.datasets import ArrayDataset, unwrap_subsets
from kd.data.sources.image_dataset import DecodedImages
from kd.evaluation.verdict import Earlier, Question, holm
from kd.formatting import format_p
from kd.report.blocks import Block, table
from kd.report.saved_parts import from_json, to_json
from kd.storage.fingerprint import describe, digest
from kd.storage.untrusted import read_bytes

FILE = "verdicts.json"  # in the state folder
_UNRELATED = {"DEVICE", "SLICES", "SHIFTS", "LONGER"}


@dataclass(frozen=True)
class Entry:
    """A question asked of a test set.

    Attributes:
        test: digest of the test set.
        key: digest of the command and all settings that affect its results.
        title: the question for readers.
        p, p_of_helping: p-values before any adjustment, see ``kd.evaluation.verdict.Question``.
        command, method: names; "" in records of earlier versions, which have questions of ``kd compare`` alone.
        pairs: number of independent differences: pairs, or teachers or splits if there are several.
        verdict: as given last, after the adjustment; "" before it is given.
        together: keys of the questions that were first asked by the same command.
    """

    test: str
    key: str
    title: str
    p: float
    p_of_helping: float
    command: str = ""
    method: str = ""
    pairs: int = 0
    verdict: str = ""
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """All questions in the order in which they were first asked."""

    entries: tuple[Entry, ...] = ()

    def on(self, test: str) -> list[Entry]:
        """Return the questions asked of this test set."""
        return [entry for entry in self.entries if entry.test == test]

    def before(self, *asked: Entry) -> list[Earlier]:
        """Return the p-values of the other questions asked of the same test set, until all of these had been asked.

        Later questions do not count, except those that one of these was first asked together with.

        Args:
            asked: questions of one test set.
        """
        entries = self.on(asked[0].test)
        places = {entry.key: place for place, entry in enumerate(entries)}
        count = max(places.get(entry.key, len(entries)) for entry in asked)
        keys = {entry.key for entry in asked}
        together = {key for entry in entries if entry.key in keys for key in entry.together}
        counted = [entry for place, entry in enumerate(entries) if place < count or entry.key in together]
        return [Earlier(entry.p, entry.p_of_helping) for entry in counted if entry.key not in keys]

    def record(self, asked: Entry) -> Ledger:
        """Return the ledger with this question. A question that was asked before keeps its place."""
        same = [(entry.test, entry.key) == (asked.test, asked.key) for entry in self.entries]
        if not any(same):
            return Ledger((*self.entries, asked))
        first = self.entries[same.index(True)]
        asked = dataclasses.replace(asked, together=first.together)
        return Ledger(tuple(asked if is_same else entry for entry, is_same in zip(self.entries, same, strict=True)))

    def announce(self, asked: Entry) -> Ledger:
        """Return the ledger with a question that is not measured yet; one that was asked before stays as it is."""
        return self if (asked.test, asked.key) in {(e.test, e.key) for e in self.entries} else self.record(asked)

    def find_undecided(self, asked: Entry) -> Entry | None:
        """Return the last question of ``kd compare`` about the same method, if it is undecided and has as many pairs.

        A test with fewer pairs does not outrank it.
        """
        compared = [
            entry
            for entry in self.on(asked.test)
            if entry.command in ("", "compare") and entry.method in ("", asked.method) and entry.verdict
        ]
        is_open = compared and compared[-1].verdict in ("inconclusive", "not decided")
        return compared[-1] if is_open and compared[-1].pairs >= asked.pairs else None


def read_ledger(state_dir: Path) -> Ledger:
    """Return the ledger of a run folder; empty if there is none yet.

    Raises:
        DamagedDataError: the file is damaged or was edited.
    """
    path = state_dir / FILE
    try:
        ledger: Ledger = from_json(read_bytes(path), Ledger)
    except FileNotFoundError:
        return Ledger()
    except (ValueError, RecursionError) as error:
        raise DamagedDataError(
            f"{path}, the record of all verdicts, is damaged: {error}. Verdicts can then not be adjusted for earlier "
            "ones. Restore it, or use another --out for a test set that was not asked before."
        ) from error
    return ledger


def ask(question: Question | None, digests: Digests, *, command: str, title: str, config: Mapping[str, Any]) -> Entry:
    """Return the entry of a question.

    Args:
        question: None if it is not measured yet; the p-values are then 1.
        command: name of the command.
        config: the settings of the run. Settings that change no contrast do not make another question.
    """
    settings = {name: value for name, value in {**config, **digests.inputs}.items() if name not in _UNRELATED}
    if "MARGIN" in settings:  # changes no contrast; its default, because it is part of the keys of earlier versions
        settings["MARGIN"] = PairedSettings.margin
    key, method = digest({"command": command, "settings": describe(settings)}), str(config.get("METHOD", ""))
    if question is None:
        return Entry(digests.test, key, title, 1.0, 1.0, command, method)
    pairs = len(question.control.differences)
    return Entry(digests.test, key, title, question.control.p, question.p_of_helping, command, method, pairs)


class Digests(NamedTuple):
    """Hashes of what a question is about: the test set, and the inputs that the settings only name."""

    test: str
    inputs: dict[str, Any]


def digest_data(prepared: TeacherWithData) -> Digests:
    """Return the hashes of a teacher's data; they read all of it, so compute them once."""
    return Digests(digest_test_set(prepared.data), digest_inputs(prepared))


def digest_test_set(data: Data) -> str:
    """Return a hash of the test items before normalisation, which depends on the training split."""
    return _digest_items(data.source.parts.get("test", data.source.train), data.rows["test"])


def digest_inputs(prepared: TeacherWithData) -> dict[str, Any]:
    """Return hashes of what the settings only name: models from files, the training data and the unlabelled data.

    Data are hashed before normalisation; the settings determine how they are split.
    """
    source, unlabelled = prepared.data.source, prepared.data.unlabelled
    data = {name: part for name, part in source.parts.items() if name != "test"}
    data |= {} if unlabelled is None else {"unlabelled": unlabelled}
    digests = {name: _digest_items(part, range(0)) for name, part in data.items()}
    return {"DATA_DIGESTS": digests, "MODEL_DIGESTS": dict(prepared.digests)}


def _digest_items(dataset: Dataset[Any], rows: Sequence[int]) -> str:
    base, _ = unwrap_subsets(dataset)
    items: object = base
    if isinstance(base, ArrayDataset):
        items = [base.digests.tolist() if isinstance(base, DecodedImages) else base.inputs, base.labels]
    return digest(describe([items, list(rows)]))


def ledger_files(ledger: Ledger, state_dir: Path) -> dict[Path, bytes]:
    """Return the ledger as a file to publish."""
    return {state_dir / FILE: to_json(ledger)}


def describe_questions(ledger: Ledger, test: str) -> tuple[Block, ...]:
    """Return a table of all questions asked of this test set, with p-values adjusted for all; none for a single one."""
    entries = ledger.on(test)
    if len(entries) < 2:
        return ()
    adjusted, adjusted_helps = holm([e.p for e in entries]), holm([e.p_of_helping for e in entries])
    rows = [
        (str(number + 1), entry.title, format_p(entry.p), format_p(p), format_p(helps))
        for number, (entry, p, helps) in enumerate(zip(entries, adjusted, adjusted_helps, strict=True))
    ]
    header = ("", "question", "p", "p (Holm), against the control", "p (Holm), against label smoothing too")
    caption = "Every question asked of this test set in this folder, adjusted for all of them"
    return (table(header, rows, caption=caption),)
