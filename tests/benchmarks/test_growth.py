"""Memory does not grow with epochs or calls; benchmarks/growth.py marks, scales and computes as documented."""

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

EARLY, LATE = 40, 100  # epochs or calls; torch and Python fill their caches before EARLY
IMAGES = 96  # in the fixture ``digits``


class Held(NamedTuple):
    """Memory alive at one moment: Python's small memory blocks (at least one per object), tensors, their bytes.

    Not measured with tracemalloc, which counts memory as new if it existed before the start and was reused.
    """

    blocks: int
    tensors: int
    tensor_bytes: int


def count_held() -> Held:
    gc.collect()
    blocks = sys.getallocatedblocks()
    objects = (value for value in gc.get_objects() if issubclass(type(value), torch.Tensor))
    tensors = [tensor for tensor in objects if tensor.layout is torch.strided]  # other layouts have no storage
    return Held(blocks, len(tensors), sum(tensor.untyped_storage().nbytes() for tensor in tensors))


def assert_no_growth(early: Held, late: Held, *, batches: int, floats: int = 0) -> None:
    """Check that no tensor and, besides ``floats``, fewer than two Python objects per batch were added.

    The limit is not zero, because caches of torch and Python grow slowly: up to half an object per batch when measured.
    """
    assert (late.tensors, late.tensor_bytes) == (early.tensors, early.tensor_bytes)
    assert late.blocks - early.blocks < floats + 2 * batches


class Watch:
    """An ``on_epoch`` hook that records the memory held after an early and a late epoch."""

    def __init__(self, batch_size: int) -> None:
        self.notes: dict[int, Held] = {}
        self.floats = 0
        self.batches = 2 * (LATE - EARLY) * IMAGES // batch_size  # training and validation

    def __call__(self, epoch: int, history: kd.History) -> None:
        if epoch in (EARLY, LATE):
            self.notes[epoch], self.floats = count_held(), len(history) * (LATE - EARLY)

    def assert_only_the_curves_grew(self) -> None:
        assert_no_growth(self.notes[EARLY], self.notes[LATE], batches=self.batches, floats=self.floats)


def loaders(digits: kd.ImageDataset, batch_size: int) -> tuple[Any, Any]:
    data = kd.DistillDataset(digits, torch.randn(len(digits), CLASSES))
    return kd.make_loader(data, batch_size=batch_size, shuffle=True), kd.make_loader(data, batch_size=batch_size)


def test_memory_of_a_training_does_not_grow_with_epochs(digits: kd.ImageDataset) -> None:
    model, watch = tiny_model(dropout=0.2, batch_norm=True), Watch(batch_size=16)
    optimizer, objective = torch.optim.Adam(model.parameters()), kd.distilled(temperature=5, alpha=0.1)
    kd.fit(model, objective, *loaders(digits, 16), optimizer=optimizer, epochs=LATE, seed=0, on_epoch=watch)
    watch.assert_only_the_curves_grew()


def test_memory_of_a_training_with_snapshots_does_not_grow_with_epochs(
    digits: kd.ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, watch = tiny_model(), Watch(batch_size=48)
    monkeypatch.setattr(run_steps, "print_epoch", lambda title, epochs: watch)
    # rich keeps the times of the last 1,000 steps: bounded, but enough to fail the test.
    monkeypatch.setattr(run_steps, "progress", lambda *args, **kwargs: nullcontext(lambda: None))
    with open_run(tmp_path, interval=0):
        optimizer = torch.optim.Adam(model.parameters())
        run_steps.train("tiny", model, kd.supervised, *loaders(digits, 48), optimizer=optimizer, epochs=LATE, seed=0)
    watch.assert_only_the_curves_grew()
    assert len(list(tmp_path.glob("steps/*/*.pt"))) == 2


def test_memory_of_collecting_logits_does_not_grow_with_calls(digits: kd.ImageDataset) -> None:
    model, notes = tiny_model(batch_norm=True), {}
    for call in range(1, LATE + 1):
        kd.verify_logits(model, digits, kd.collect_logits(model, digits, batch_size=16), sample=8)
        if call in (EARLY, LATE):
            notes[call] = count_held()
    assert_no_growth(notes[EARLY], notes[LATE], batches=(LATE - EARLY) * IMAGES // 16)


ROOM = growth.Budget(seconds=10, memory=growth.BASE + 10_000)


def fake(kind: str, *, size: int) -> dict[str, Any]:
    return {"epoch_seconds": 2.0 * size + 3, "fixed_seconds": float(size), "scaled": ["epoch_seconds"] * (size > 2)}


def need(size: int) -> int:
    return growth.BASE + 1000 * size


def test_a_size_beyond_the_memory_budget_is_computed_on_the_line_through_measured_sizes() -> None:
    rows = growth.sweep("fake", (1, 2, 4, 11, 5), ROOM, need, measure=fake)
    assert [row["computed"] for row in rows] == [False, False, False, True, False]  # 11,000 bytes
    assert rows[3]["epoch_seconds"] == pytest.approx(25)
    assert (rows[3]["size"], rows[3]["scaled"]) == (11, [])


def test_a_size_beyond_the_time_budget_is_computed() -> None:
    rows = growth.sweep("fake", (1, 2, 4, 11), ROOM._replace(memory=2**60), need, measure=fake)
    assert [row["computed"] for row in rows] == [False, False, False, True]  # 11 seconds


def test_fewer_than_two_measured_sizes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"two sizes must be measured.*11 needs.*--memory-gib"):
        growth.sweep("fake", (1, 11), ROOM, need, measure=fake)


def test_the_line_is_fitted_by_least_squares() -> None:
    rows = [{"size": size, "x": value} for size, value in ((0, 1.0), (1, 0.0), (2, 5.0))]
    assert growth.predict_on_line(rows, "x", 10) == pytest.approx(2 + 2 * (10 - 1))  # mean 2 at size 1, slope 2


def test_estimated_bytes_match_the_tensors() -> None:
    data = growth_points.make_random_images(50, 7)
    logits = torch.zeros(50, 7)
    assert growth.count_logits_bytes(50, 7) == logits.nbytes
    assert data.images.nbytes == growth.PIXELS * 50
    assert (
        growth.estimate_samples_memory(50, 7)
        > growth.BASE + data.images.nbytes + 2 * data.labels.nbytes + logits.nbytes
    )
    assert int(data.labels.max()) < 7


def test_limits_are_the_largest_numbers_of_samples_that_fit() -> None:
    for row in growth.compute_limits():
        for gib, samples in row["samples"].items():
            assert growth.count_logits_bytes(samples, row["classes"]) <= gib * 2**30
            assert growth.count_logits_bytes(samples + 1, row["classes"]) > gib * 2**30


def test_a_cell_marks_scaled_and_computed_numbers() -> None:
    row = {"computed": False, "scaled": ["a"], "a": 0.5, "b": 1500.0}
    assert growth_tables.format_cell(row, "a", growth_tables.format_duration) == "500 ms (scaled)"
    assert growth_tables.format_cell(row, "b", growth_tables.format_duration) == "1,500 s"
    assert growth_tables.format_cell(row, "b", growth_tables.format_bytes, per=1500) == "1 B"
    assert (
        growth_tables.format_cell({**row, "computed": True}, "b", growth_tables.format_bytes) == "1.46 KiB (computed)"
    )


def test_a_pass_is_measured_if_it_fits_the_budget_and_scaled_otherwise() -> None:
    whole = growth_points.samples(size=300, classes=10, limit=10)
    assert whole["scaled"] == []
    assert (whole["images_bytes"], whole["labels_bytes"], whole["logits_bytes"]) == (300 * 784, 300 * 8, 300 * 40)
    part = growth_points.samples(size=30_000, classes=10, limit=1e-6)
    assert part["scaled"] == ["collecting_seconds", "epoch_seconds"]
    assert part["logits_bytes"] == 30_000 * 40
    assert part["epoch_seconds"] > whole["epoch_seconds"] > 0


def test_the_other_points_return_their_figures() -> None:
    assert growth_points.classes(size=20, images=200, limit=0.1)["logits_bytes"] == 200 * 20 * 4
    width = growth_points.widths(size=8, limit=0.1)
    assert width["parameters"] == 8 * 784 + 8 + 8 * 10 + 10
    assert width["snapshot_bytes"] > 3 * 4 * width["parameters"]  # weights and Adam's two moments
    assert growth_points.sequence(size=2, images=200, epochs=1)["training_seconds"] > 0


@pytest.mark.slow
def test_quick_measures_every_part(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    command = [sys.executable, str(BENCHMARKS / "growth.py"), "--quick", "--out", str(out)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results = json.loads(out.read_text())
    assert set(growth._PARTS) | {"machine", "budget", "limits"} == set(results)
    assert [row["size"] for row in results["students"]["pool"]] == [1, 2]
    assert process.stdout.count("###") == 5
