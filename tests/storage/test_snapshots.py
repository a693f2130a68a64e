"""Training resumed from a snapshot is bit-identical to an uninterrupted one; damaged snapshots are never used."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd.storage.files import publish, sha256
from kd.storage.snapshots import Snapshots
from tests.conftest import CLASSES, tiny_model


class Cut(Exception):
    """Simulated interruption of a training run."""


class Projected(nn.Module):
    """An objective with its own weights and state, like feature methods."""

    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        with kd.seeded(9):
            self.projector = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("memory", torch.zeros(CLASSES))

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(batch[0])
        self.memory = 0.9 * self.memory + output.detach().mean(dim=0)
        target = nn.functional.cross_entropy(self.projector(output) + self.memory, batch[1])
        return output, {"projected": target}


def train(
    digits: kd.ImageDataset, snapshots: Snapshots | None, *, cut_after: int | None = None
) -> tuple[dict[str, Tensor], kd.History]:
    """Train three epochs of six steps with every stateful part; interrupt after ``cut_after`` steps."""
    model, objective = tiny_model(dropout=0.3, batch_norm=True), Projected()
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=18)
    loader = kd.make_loader(digits, batch_size=16, shuffle=True)
    steps = itertools.count(1)

    def cut() -> None:
        if next(steps) == cut_after:
            raise Cut

    history = kd.fit(
        model,
        objective,
        loader,
        kd.make_loader(digits, batch_size=50),
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=3,
        seed=5,
        on_batch=cut,
        snapshots=snapshots,
    )
    return {**model.state_dict(), **objective.state_dict(prefix="objective.")}, history


@pytest.mark.slow
@settings(max_examples=18, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 18), min_size=1, max_size=3))
def test_a_training_interrupted_anywhere_repeatedly_ends_bit_identical(
    cuts: list[int], digits: kd.ImageDataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected, curves = train(digits, None)
    folder = tmp_path_factory.mktemp("cut")
    for cut_after in cuts:
        with contextlib.suppress(Cut):
            train(digits, Snapshots(folder, key="k", interval=0), cut_after=cut_after)
    weights, history = train(digits, Snapshots(folder, key="k", interval=0))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert history == curves


def test_an_interrupted_training_resumes_instead_of_starting_over(digits: kd.ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(digits, Snapshots(tmp_path, key="k", interval=0), cut_after=15)
    with pytest.raises(Cut):  # resumes from step 14: the snapshot of step 15 was never written
        train(digits, Snapshots(tmp_path, key="k", interval=0), cut_after=4)


def test_no_snapshot_is_written_before_the_interval_has_passed(digits: kd.ImageDataset, tmp_path: Path) -> None:
    train(digits, Snapshots(tmp_path, key="k", interval=3600))
    assert not list(tmp_path.iterdir())


def test_two_generations_are_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, key="k")
    for value in range(5):
        snapshots.write({"value": value})
    assert len(list(tmp_path.glob("*.pt"))) == 2
    assert Snapshots(tmp_path, key="k").state == {"value": 4}


damages: dict[str, Any] = {
    "truncated": lambda content, at: content[:at],
    "flipped": lambda content, at: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
    "zeroed": lambda content, at: content[:at] + bytes(len(content) - at),
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.sampled_from(sorted(damages)), place=st.floats(0, 1, exclude_max=True))
def test_a_damaged_generation_is_skipped_with_a_message(
    damage: str, place: float, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    snapshots = Snapshots(folder, key="k")
    snapshots.write({"value": torch.zeros(5)})
    snapshots.write({"value": torch.ones(5)})
    newest = max(folder.glob("*.pt"))
    content = newest.read_bytes()
    damaged = damages[damage](content, int(place * len(content)))
    if damaged == content:
        return
    newest.write_bytes(damaged)
    state = Snapshots(folder, key="k").state
    assert state is not None
    assert torch.equal(state["value"], torch.zeros(5))
    printed = " ".join(capsys.readouterr().out.split())
    assert "snapshot skipped" in printed
    assert newest.name in printed.replace(" ", "")


def test_if_all_generations_are_damaged_an_error_is_raised(tmp_path: Path) -> None:
    Snapshots(tmp_path, key="k").write({"value": 1})
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 snapshots .*delete the folder.*--fresh"):
        Snapshots(tmp_path, key="k")


def test_a_snapshot_with_another_key_raises(tmp_path: Path) -> None:
    Snapshots(tmp_path, key="one").write({"value": 1})
    with pytest.raises(ValueError, match="none of the 1"):
        Snapshots(tmp_path, key="other")


def test_too_little_space_raises_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"not enough space.*bytes are needed.*are free.*Free space"):
        Snapshots(tmp_path, key="k").reserve(10**18)


def test_snapshots_open_with_weights_only(tmp_path: Path, digits: kd.ImageDataset) -> None:
    with pytest.raises(Cut):
        train(digits, Snapshots(tmp_path, key="k", interval=0), cut_after=8)
    state = torch.load(max(tmp_path.glob("*.pt")), weights_only=True)["state"]
    assert set(state["parts"]) == {"model", "step", "objective"}
    assert (state["epoch"], state["means"]["batches"]) == (1, 1)  # interrupted before the eighth snapshot


def values(folder: Path) -> list[int]:
    """Return the saved values, oldest first; an unreadable file raises an error."""
    return [torch.load(path, weights_only=True)["state"]["value"] for path in sorted(folder.glob("*.pt"))]


def test_a_damaged_generation_does_not_count_towards_the_two(tmp_path: Path) -> None:
    for value in range(2):
        Snapshots(tmp_path, key="k").write({"value": value})
    max(tmp_path.glob("*.pt")).write_bytes(b"damaged")
    snapshots = Snapshots(tmp_path, key="k")
    assert snapshots.state == {"value": 0}
    snapshots.write({"value": 2})
    assert values(tmp_path) == [0, 2]
    snapshots.write({"value": 3})
    assert values(tmp_path) == [2, 3]


def test_only_the_leftovers_of_killed_writes_are_removed(tmp_path: Path) -> None:
    Snapshots(tmp_path, key="k").write({"value": 1})
    (tmp_path / f".000002-{'0' * 64}.pt.tmp").write_bytes(b"half")
    (tmp_path / "description.json").write_bytes(b"{}")
    assert Snapshots(tmp_path, key="k").state == {"value": 1}
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt", ".json"}


FORMS: list[Any] = [
    [1],
    {"value": 1},
    {"key": "k", "done": False},
    {"key": "k", "done": False, "state": {}, "more": 1},
    {"key": torch.zeros(2), "done": False, "state": {}},
    {"key": "k", "done": 1, "state": {}},
    {"key": "k", "done": True, "state": [1]},
]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_another_structure_is_skipped(
    form: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Snapshots(tmp_path, key="k").write({"value": 1})
    buffer = io.BytesIO()
    torch.save(form, buffer)
    publish({tmp_path / f"000002-{sha256(buffer.getvalue())}.pt": buffer.getvalue()})
    assert Snapshots(tmp_path, key="k").state == {"value": 1}
    assert "snapshot skipped" in capsys.readouterr().out


def test_a_symbolic_link_as_folder_raises(tmp_path: Path) -> None:
    Snapshots(tmp_path / "real", key="k").write({"value": 1})
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / 'link'))} is a symbolic link"):
        Snapshots(tmp_path / "link", key="k")


def test_generation_numbers_sort_numerically_beyond_six_digits(tmp_path: Path) -> None:
    Snapshots(tmp_path, key="k").write({"value": 1})
    (path,) = tmp_path.glob("*.pt")
    path.rename(path.with_name(path.name.replace("000001-", "999999-")))
    for value in (2, 3):
        Snapshots(tmp_path, key="k").write({"value": value})
    assert {path.name.split("-")[0] for path in tmp_path.glob("*.pt")} == {"1000000", "1000001"}
    assert Snapshots(tmp_path, key="k").state == {"value": 3}


def test_a_state_that_does_not_fit_raises_a_short_error(digits: kd.ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(digits, Snapshots(tmp_path, key="k", interval=0), cut_after=8)
    foreign = Snapshots(tmp_path, key="k", interval=0)
    assert foreign.state is not None
    foreign.state["parts"]["model"].popitem()
    with pytest.raises(ValueError, match=r"saved state does not fit the model \(.*\)\. Use --fresh to start over"):
        train(digits, foreign)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.EACCES, errno.EINTR])
@pytest.mark.parametrize("call", [0, 1])
def test_a_snapshot_that_cannot_be_read_now_is_neither_skipped_nor_deleted(
    number: int, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(tmp_path, key="k")
    for value in range(2):
        snapshots.write({"value": value})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    if call:  # the newest is damaged, and the fault hits the previous one
        max(before).write_bytes(b"damaged")
        before[max(before)] = b"damaged"
    function, calls = os.open, iter(range(10**6))

    def fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".pt") and next(calls) == call:
            raise OSError(number, os.strerror(number))
        return function(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(OSError, match=rf"{os.strerror(number)}. It was not changed.*Run again") as caught:
            Snapshots(tmp_path, key="k")
    assert caught.value.errno == number
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert Snapshots(tmp_path, key="k").state == {"value": 1 - call}


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_snapshot_that_does_not_fit_in_memory_is_not_damaged(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Snapshots(tmp_path, key="k").write({"value": 1})

    def fail(*_: Any, **__: Any) -> None:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", fail)
        with pytest.raises(type(fault)):
            Snapshots(tmp_path, key="k")
    assert Snapshots(tmp_path, key="k").state == {"value": 1}


def test_a_link_in_place_of_a_snapshot_was_not_read_and_is_not_deleted(tmp_path: Path) -> None:
    Snapshots(tmp_path / "step", key="k").write({"value": 1})
    link = tmp_path / "step" / f"000002-{'0' * 64}.pt"
    link.symlink_to(tmp_path / "elsewhere")
    snapshots = Snapshots(tmp_path / "step", key="k")
    assert snapshots.state == {"value": 1}
    snapshots.write({"value": 2})
    assert link.is_symlink()
