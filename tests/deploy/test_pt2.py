"""A ``.pt2`` file may hold code: only the bytes that this very export wrote are loaded, and in one place."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kd
from kd.deploy import runtime
from kd.deploy.export import export
from kd.deploy.formats import FILES
from kd.deploy.runtime import Outputs
from tests.deploy.test_export import a_candidate

LOADERS = re.compile(r"export\.load\b|export import .*\bload\b|export\.pt2_archive|aoti_load|load_pt2")


def test_nothing_else_loads_such_a_file() -> None:
    """By a search of the source: the only call is in the process that checks an export, on bytes with its digest.

    The other line is advice to users on such a file of their own.
    """
    package = Path(kd.__file__).parent
    programs = [*package.rglob("*.py"), *package.parent.glob("*.py"), *package.parent.glob("recipes/*.py")]
    found = {
        path.name: [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if LOADERS.search(line)]
        for path in programs
    }
    assert {name: lines for name, lines in found.items() if lines} == {
        "file_kind.py": [
            'return _advise("it is a program of torch.export", \'dict(torch.export.load("FILE").state_dict)\')'
        ],
        "runtime.py": [
            "def _load_pt2(request: dict[str, Any]) -> Run:",
            "program = torch.export.load(io.BytesIO(_read(request)))",
            '"pt2": _load_pt2,',
        ],
    }


def test_a_file_with_another_digest_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"written by this export"
    request = {"folder": str(tmp_path), "file": FILES["pt2"], "sha256": hashlib.sha256(content).hexdigest()}
    loaded: list[bytes] = []

    def load(file: io.BytesIO) -> SimpleNamespace:
        loaded.append(file.read())
        return SimpleNamespace(module=lambda: None)

    monkeypatch.setattr(torch.export, "load", load)
    monkeypatch.setattr(runtime, "_torch_run", lambda model, threads: None)
    (tmp_path / FILES["pt2"]).write_bytes(content[:-1] + b"!")
    with pytest.raises(ValueError, match="changed after its export"):
        runtime._load_pt2({**request, "threads": 1})
    assert not loaded
    (tmp_path / FILES["pt2"]).write_bytes(content)
    runtime._load_pt2({**request, "threads": 1})
    assert loaded == [content]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_changed_before_its_check_fails(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs the export extra")
    original = runtime.run_in_new_process

    def change_first(folder: Path, *arguments: Any, **settings: Any) -> Outputs:
        with (folder / FILES[kind]).open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        return original(folder, *arguments, **settings)

    monkeypatch.setattr("kd.deploy.export.run_in_new_process", change_first)
    (result,) = export(a_candidate("mlp:6"), [kind], margin=10, calibration=20)
    assert result.check is None
    assert "changed after its export" in result.problem or "not the file that its manifest" in result.problem
