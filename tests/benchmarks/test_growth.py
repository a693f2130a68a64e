"""What is held does not grow with epochs or calls; and benchmarks/growth.py marks and computes as it says."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import kd
from kd.storage.run_folder import open_run
from kd.training import run_steps
from tests.conftest import CLASSES, tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import growth  # noqa: E402
import growth_points  # noqa: E402
import growth_tables  # noqa: E402

EARLY, LATE = 40, 100  # epochs, or calls; before the early one, torch and Python fill caches of their own
IMAGES = 96  # of the fixture ``digits``


class Held(NamedTuple):
    """What is alive at one moment: Python's small blocks of memory (an object has one at least), tensors, their bytes.

    Blocks and not tracemalloc: that one counts as new what was there before it started and is merely used again.
    """

    blocks: int
    tensors: int
    tensor_bytes: int


def held() -> Held:
    gc.collect()
    blocks = sys.getallocatedblocks()
    things = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    tensors = [tensor for tensor in things if tensor.layout is torch.strided]  # others have no storage of their own
    return Held(blocks, len(tensors), sum(tensor.untyped_storage().nbytes() for tensor in tensors))


def assert_no_growth(early: Held, late: Held, *, batches: int, floats: int = 0) -> None:
    """Not one tensor more, and fewer than two Python objects per batch beside so many floats.

    Not zero: torch's and Python's caches still grow a little, ever more slowly; up to half an object was seen.
    """
    assert (late.tensors, late.tensor_bytes) == (early.tensors, early.tensor_bytes)
    assert late.blocks - early.blocks < floats + 2 * batches


class Watch:
    """An ``on_epoch`` hook that notes what is held after an early and a late epoch."""

    def __init__(self, batch_size: int) -> None:
        self.notes: dict[int, Held] = {}
        self.floats = 0
        self.batches = 2 * (LATE - EARLY) * IMAGES // batch_size  # of training and of validation

    def __call__(self, epoch: int, history: kd.History) -> None:
        if epoch in (EARLY, LATE):
            self.notes[epoch], self.floats = held(), len(history) * (LATE - EARLY)

    def assert_only_the_curves_grew(self) -> None:
        assert_no_growth(self.notes[EARLY], self.notes[LATE], batches=self.batches, floats=self.floats)


def loaders(digits: kd.ImageDataset, batch_size: int) -> tuple[Any, Any]:
    data = kd.DistillDataset(digits, torch.randn(len(digits), CLASSES))
    return kd.make_loader(data, batch_size=batch_size, shuffle=True), kd.make_loader(data, batch_size=batch_size)


def test_what_a_training_holds_does_not_grow_with_its_epochs(digits: kd.ImageDataset) -> None:
    model, watch = tiny_model(dropout=0.2, batch_norm=True), Watch(batch_size=16)
    optimizer, objective = torch.optim.Adam(model.parameters()), kd.distilled(temperature=5, alpha=0.1)
    kd.fit(model, objective, *loaders(digits, 16), optimizer=optimizer, epochs=LATE, seed=0, on_epoch=watch)
    watch.assert_only_the_curves_grew()


def test_nor_does_that_of_a_step_with_a_snapshot_at_every_step(
    digits: kd.ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, watch = tiny_model(), Watch(batch_size=48)
    monkeypatch.setattr(run_steps, "print_epoch", lambda title, epochs: watch)
    # rich keeps the times of the last 1,000 steps, for its estimate: bounded, but they would hide what is looked for.
    monkeypatch.setattr(run_steps, "progress", lambda *args, **kwargs: nullcontext(lambda: None))
    with open_run(tmp_path, interval=0):
        optimizer = torch.optim.Adam(model.parameters())
        run_steps.train("tiny", model, kd.supervised, *loaders(digits, 48), optimizer=optimizer, epochs=LATE, seed=0)
    watch.assert_only_the_curves_grew()
    assert len(list(tmp_path.glob("steps/*/*.pt"))) == 2


def test_what_collecting_logits_holds_does_not_grow_with_its_calls(digits: kd.ImageDataset) -> None:
    model, notes = tiny_model(batch_norm=True), {}
    for call in range(1, LATE + 1):
        kd.verify_logits(model, digits, kd.collect_logits(model, digits, batch_size=16), sample=8)
        if call in (EARLY, LATE):
            notes[call] = held()
    assert_no_growth(notes[EARLY], notes[LATE], batches=(LATE - EARLY) * IMAGES // 16)


ROOM = growth.Budget(seconds=10, memory=growth.BASE + 10_000)


def fake(kind: str, *, size: int) -> dict[str, Any]:
    return {"epoch_seconds": 2.0 * size + 3, "fixed_seconds": float(size), "scaled": ["epoch_seconds"] * (size > 2)}


def need(size: int) -> int:
    return growth.BASE + 1000 * size


def test_a_size_beyond_the_budget_is_computed_on_the_line_through_those_measured() -> None:
    rows = growth.sweep("fake", (1, 2, 4, 11, 5), ROOM, need, measure=fake)
    assert [row["computed"] for row in rows] == [False, False, False, True, False]  # 11,000 bytes
    assert rows[3]["epoch_seconds"] == pytest.approx(25)
    assert (rows[3]["size"], rows[3]["scaled"]) == (11, [])


def test_so_is_one_whose_setting_up_would_take_too_long() -> None:
    rows = growth.sweep("fake", (1, 2, 4, 11), ROOM._replace(memory=2**60), need, measure=fake)
    assert [row["computed"] for row in rows] == [False, False, False, True]  # 11 seconds


def test_one_point_makes_no_line() -> None:
    with pytest.raises(ValueError, match=r"two sizes at least must be measured.*Raise --memory-gib"):
        growth.sweep("fake", (1, 11), ROOM, need, measure=fake)


def test_the_line_is_that_of_least_squares() -> None:
    rows = [{"size": size, "x": value} for size, value in ((0, 1.0), (1, 0.0), (2, 5.0))]
    assert growth.on_line(rows, "x", 10) == pytest.approx(2 + 2 * (10 - 1))  # mean 2 at size 1, slope 2


def test_bytes_are_those_of_the_tensors() -> None:
    data = growth_points.random_images(50, 7)
    logits = torch.zeros(50, 7)
    assert growth.logits_bytes(50, 7) == logits.nbytes
    assert data.images.nbytes == growth.PIXELS * 50
    assert growth.samples_need(50, 7) > growth.BASE + data.images.nbytes + 2 * data.labels.nbytes + logits.nbytes
    assert int(data.labels.max()) < 7


def test_limits_hold_as_many_samples_as_fit_and_not_one_more() -> None:
    for row in growth.limits():
        for gib, samples in row["samples"].items():
            assert growth.logits_bytes(samples, row["classes"]) <= gib * 2**30
            assert growth.logits_bytes(samples + 1, row["classes"]) > gib * 2**30


def test_a_cell_says_how_its_number_was_come_by() -> None:
    row = {"computed": False, "scaled": ["a"], "a": 0.5, "b": 1500.0}
    assert growth_tables.cell(row, "a", growth_tables.duration) == "500 ms (scaled)"
    assert growth_tables.cell(row, "b", growth_tables.duration) == "1,500 s"
    assert growth_tables.cell(row, "b", growth_tables.volume, per=1500) == "1 B"
    assert growth_tables.cell({**row, "computed": True}, "b", growth_tables.volume) == "1.46 KiB (computed)"


def test_a_pass_is_measured_whole_where_it_fits_and_scaled_where_not() -> None:
    whole = growth_points.samples(size=300, classes=10, limit=10)
    assert whole["scaled"] == []
    assert (whole["images_bytes"], whole["labels_bytes"], whole["logits_bytes"]) == (300 * 784, 300 * 8, 300 * 40)
    part = growth_points.samples(size=30_000, classes=10, limit=1e-6)
    assert part["scaled"] == ["collecting_seconds", "epoch_seconds"]
    assert part["logits_bytes"] == 30_000 * 40
    assert part["epoch_seconds"] > whole["epoch_seconds"] > 0


def test_every_other_point_gives_its_figures_at_toy_size() -> None:
    assert growth_points.classes(size=20, images=200, limit=0.1)["logits_bytes"] == 200 * 20 * 4
    width = growth_points.widths(size=8, limit=0.1)
    assert width["parameters"] == 8 * 784 + 8 + 8 * 10 + 10
    assert width["snapshot_bytes"] > 3 * 4 * width["parameters"]  # weights and Adam's two moments
    assert growth_points.sequence(size=2, images=200, epochs=1)["training_seconds"] > 0


@pytest.mark.slow
def test_the_quick_form_measures_every_part(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    command = [sys.executable, str(BENCHMARKS / "growth.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert set(growth._PARTS) | {"machine", "budget", "limits"} == set(results)
    assert [row["size"] for row in results["students"]["pool"]] == [1, 2]
    assert done.stdout.count("###") == 5
