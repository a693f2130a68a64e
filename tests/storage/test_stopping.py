"""On a stop signal, training finishes its current step and saves its state; the resumed run is bit-identical."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.storage.snapshots import Snapshots
from kd.storage.stopping import Stopped, handle_stop_signals
from tests.conftest import tiny_model


class Interrupting(nn.Module):
    """Sends SIGTERM to its own process at one of its calls."""

    def __init__(self, at_call: int) -> None:
        super().__init__()
        self.model, self.calls, self.at_call = tiny_model(dropout=0.3), itertools.count(1), at_call

    def forward(self, images: Tensor) -> Tensor:
        if next(self.calls) == self.at_call:
            os.kill(os.getpid(), signal.SIGTERM)
        logits: Tensor = self.model(images)
        return logits


def fit(model: nn.Module, digits: kd.ImageDataset, snapshots: Snapshots | None) -> kd.History:
    """Train two epochs, each with six training steps and two validation batches."""
    loader, val_loader = kd.make_loader(digits, batch_size=16, shuffle=True), kd.make_loader(digits, batch_size=48)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return kd.fit(model, kd.supervised, loader, val_loader, optimizer=optimizer, epochs=2, seed=0, snapshots=snapshots)


@pytest.mark.parametrize(
    ("at_call", "where"),
    [(1, "epoch 1, batch 1"), (4, "epoch 1, batch 4"), (7, "epoch 2, batch 1"), (12, "epoch 2, batch 4")],
)
def test_a_signal_in_any_step_saves_the_state_and_the_result_is_the_same(
    at_call: int, where: str, digits: kd.ImageDataset, tmp_path: Path
) -> None:
    untouched = Interrupting(at_call=0)
    history = fit(untouched, digits, None)
    interrupted = Interrupting(at_call)
    with pytest.raises(Stopped), handle_stop_signals():
        fit(interrupted, digits, Snapshots(tmp_path, key="k", interval=3600))
    snapshots = Snapshots(tmp_path, key="k", interval=3600)
    assert snapshots.state is not None
    assert snapshots.state["where"] == where
    resumed = Interrupting(at_call=0)
    assert fit(resumed, digits, snapshots) == history
    assert kd.weights_bytes(resumed) == kd.weights_bytes(untouched)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize(("second", "goes_on"), [("SIGHUP", True), ("SIGTERM", False), ("SIGINT", False)])
def test_only_a_second_ctrl_c_or_sigterm_exits_at_once(second: str, goes_on: bool) -> None:
    """The shell and the kernel both send SIGHUP when a terminal is closed."""
    code = (
        "import os, signal\n"
        "from kd.storage.stopping import handle_stop_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a shell's background jobs
        "with handle_stop_signals():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        f"    os.kill(os.getpid(), signal.{second})\n"
        "    os.write(1, b'goes on')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=50)
    assert ended.stdout == (b"goes on" if goes_on else b"")
    assert ended.returncode == 128 + (signal.SIGHUP if goes_on else getattr(signal, second))


def test_the_handler_works_with_a_closed_stderr() -> None:
    code = (
        "import os, signal\n"
        "from kd.storage.stopping import handle_stop_signals\n"
        "os.close(2)\n"
        "with handle_stop_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=50)
    assert ended.returncode == 143
