"""Signals at any moment, closed terminals, closed pipes and full disks behind the output of the programs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import harness

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals, terminals and devices")


@pytest.fixture(autouse=True)
def _signals_heeded() -> None:
    harness.heed_signals()


PROGRAM = """
import os, signal, sys
from pathlib import Path
from kd.commands.program import exit_status
from kd.console import say
from kd.storage.run_folder import open_run
from kd.storage.stopping import stop_if_requested

def program():
    with open_run(Path(sys.argv[1])):
        say("started")
        for line in sys.stdin:
            exec(line)
            stop_if_requested()

sys.exit(exit_status(program))
"""


def call(*code: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program that executes lines of code inside an open run, in a process of its own."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", PROGRAM, str(folder)],
        input="\n".join(code),
        env={**os.environ, "PYTHONPATH": str(harness.ROOT)},
        text=True,
        timeout=100,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.slow
def test_a_stop_signal_ends_a_run_at_a_safe_point(number: signal.Signals, tmp_path: Path) -> None:
    ended = call(f"os.kill(os.getpid(), {number}); say('the step ends')", "say('not reached')", folder=tmp_path)
    assert ended.returncode == 128 + number
    assert ended.stdout.splitlines() == ["started", "the step ends"]
    assert f"{number.name}: finishing the current step" in ended.stderr
    assert "stopped; state saved" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.slow
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """``nohup kd run`` outlives its terminal, and a job in the background of a script outlives Ctrl-C."""
    command = f"trap '' {number.name[3:]}; exec \"$@\""
    code = [f"os.kill(os.getpid(), {number})", "say('reached')"]
    ended = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", PROGRAM, str(tmp_path)],
        input="\n".join(code),
        env={**os.environ, "PYTHONPATH": str(harness.ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "reached")


@pytest.mark.slow
def test_a_forked_process_leaves_stop_signals_to_its_parent(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C also to a loader's forked workers, which must work until the step is finished."""
    fork = "child = os.fork(); child or (os.kill(os.getpid(), 2), os.kill(os.getpid(), 2), os._exit(7))"
    ended = call(fork, "say(f'child: {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}')", folder=tmp_path)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "child: 7")
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("number", "program", "moment"),
    [
        (signal.SIGINT, ("-m", "kd", "run"), "tyro"),
        (signal.SIGTERM, ("-m", "kd", "run"), "torch/_C"),
        (signal.SIGINT, (str(harness.ROOT / "main.py"),), "torch/_C"),
        (signal.SIGHUP, (str(harness.ROOT / "main.py"),), "numpy"),
    ],
)
def test_a_signal_while_a_program_imports_ends_it_quietly(
    number: signal.Signals, program: tuple[str, ...], moment: str, tmp_path: Path
) -> None:
    """The signal comes when a library is being imported; compiled modules may swallow an exception."""
    environment = {**os.environ, "PYTHONPATH": str(harness.ROOT), "PYTHONVERBOSE": "1"}
    with subprocess.Popen(
        [sys.executable, *program], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if moment in line)
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 128 + number, rest[-2000:]
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_closed_terminal_ends_a_run_and_loses_no_state(tmp_path: Path) -> None:
    """All output goes to a terminal that is closed: the kernel sends SIGHUP, and every further message fails."""
    main_end, program_end = pty.openpty()
    shout = "raise AssertionError('the run goes on')"
    program = tmp_path / "program.py"
    wait = "while not Path(sys.argv[1], 'closed').exists(): pass\nsay('nobody reads this')"
    program.write_text(PROGRAM.replace("in sys.stdin", f"in ({wait!r}, {shout!r})"))
    with subprocess.Popen(
        # The terminal of a new session closes with a signal to the session's first process.
        ["setsid", "--ctty", sys.executable, str(program), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(harness.ROOT)},
        stdin=program_end,
        stdout=program_end,
        stderr=program_end,
    ) as process:
        os.close(program_end)
        while b"started" not in os.read(main_end, 1000):
            pass
        os.close(main_end)
        time.sleep(0.5)
        (tmp_path / "closed").touch()
        assert process.wait(timeout=60) == 128 + signal.SIGHUP


@pytest.mark.slow
def test_the_reader_of_the_output_may_end_first(tmp_path: Path) -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    ended = call("say('not reached')", folder=tmp_path, stdout=sender)
    os.close(sender)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("report", "--out", "missing")])
@pytest.mark.slow
def test_a_closed_pipe_ends_every_command_quietly(arguments: tuple[str, ...], tmp_path: Path) -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    command, environment = [sys.executable, "-m", "kd", *arguments], {**os.environ, "PYTHONPATH": str(harness.ROOT)}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=sender, stderr=subprocess.PIPE, timeout=100, check=False
    )
    os.close(sender)
    if "--help" in arguments:
        assert (ended.returncode, ended.stderr) == (141, b"")
    else:  # its error goes to standard error
        assert (ended.returncode, ended.stderr.count(b"error: ")) == (1, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("run", "--limit", "100")])
@pytest.mark.slow
def test_a_full_disk_behind_the_output_is_an_error_with_a_sentence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command, environment = [sys.executable, "-m", "kd", *arguments], {**os.environ, "PYTHONPATH": str(harness.ROOT)}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, timeout=100, check=False
        )
        both = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=full, stderr=full, timeout=100, check=False
        )
    sentence = b"error: cannot write output: No space left on device. Redirect it elsewhere."
    assert (ended.returncode, ended.stderr.strip()) == (1, sentence)
    assert both.returncode == 1
