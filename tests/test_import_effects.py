"""Imports have no side effects on files, threads, signal handlers, sockets, random states or output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import main

ROOT = Path(main.__file__).parent

# The audit hook detects sockets and files opened for writing in any module.
CHECK = """
import signal, sys, threading

# matplotlib and torchvision create caches when they are imported.
import matplotlib.font_manager, numpy, torch, torchvision

threads, random_state = torch.get_num_threads(), torch.get_rng_state()
numpy_state = numpy.random.get_state()[1].tolist()
determinism = torch.are_deterministic_algorithms_enabled()
precision = torch.get_float32_matmul_precision()
handlers = [signal.getsignal(number) for number in signal.valid_signals()]
seen = []


def hook(event, arguments):
    if event.split(".")[0] in {"socket", "subprocess", "urllib"} or event == "os.mkdir":
        seen.append((event, arguments))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append((event, arguments))


sys.addaudithook(hook)
for module in sys.argv[1:]:
    __import__(module)
    assert not seen, (module, seen)
    assert torch.get_num_threads() == threads, module
    assert torch.equal(torch.get_rng_state(), random_state), module
    assert numpy.random.get_state()[1].tolist() == numpy_state, module
    assert torch.are_deterministic_algorithms_enabled() == determinism, module
    assert torch.get_float32_matmul_precision() == precision, module
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers, module
    assert threading.active_count() == 1, module
    assert not torch.cuda.is_initialized(), module
"""


def _modules() -> list[str]:
    """Covers every module of the package except ``__main__``, which runs the command."""
    names = (path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "kd").rglob("*.py"))
    return sorted(".".join(part for part in name if part != "__init__") for name in names if name[-1] != "__main__")


@pytest.mark.slow
def test_importing_has_no_effect(tmp_path: Path) -> None:
    """``main`` imports config, models, train, distillation and visualization, so its import covers theirs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", CHECK, *_modules(), "main"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_main_imports_every_root_module() -> None:
    modules = {path.stem for path in ROOT.glob("*.py")} - {"main"}
    assert modules == {"config", "models", "train", "distillation", "visualization"}
    assert modules <= set(sys.modules)


@pytest.mark.slow
def test_a_run_does_not_import_the_statistics_of_pairs() -> None:
    """``scipy.stats`` takes 0.7 s to import; only verdicts over paired seeds need it."""
    program = "import sys, kd.commands.run.command; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=False).returncode == 0
