"""A failing system call ends a command with a clear error or changes nothing, and the next run gives the same files."""

from __future__ import annotations

import random
import shutil
from itertools import islice
from pathlib import Path

import pytest

from tests.faults import injections

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace (Debian package strace)"),
]


def test_a_dozen_failing_system_calls(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    references = injections.prepare(["run", "report"], tmp_path)
    outcomes = []
    for number, fault in enumerate(islice(injections.sample(references.faults, random.Random(seed)), 12)):
        prepared, reference = references.prepared.get(fault.program), references.fingerprints[fault.program]
        outcome = injections.play(fault, tmp_path / f"case-{number}", prepared, reference)
        assert outcome.word in {"missed", "success", "error"}, f"{fault}: {outcome.word}\n{outcome.output}"
        outcomes.append(outcome.word)
    assert outcomes.count("error") >= 3, outcomes
