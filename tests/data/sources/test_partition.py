"""Parts of a run: split and kept, normalised by the training part alone, and checked."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset

import kd
from kd.data.datasets import ArrayDataset
from kd.data.sources import Source, open_source, split_source
from kd.data.sources.normalisation import measure_moments
from kd.data.splits import stratified_split
from kd.storage.fingerprint import describe
from tests.data.sources.test_validation import Listed

exactly = settings(max_examples=40)


def table(rows: int, start: int = 0, width: int = 3) -> ArrayDataset:
    """Different rows, of three classes in turn."""
    values = torch.arange(start, start + rows * width).reshape(rows, width)
    return ArrayDataset((values**2 / 100).float(), torch.arange(rows) % 3)


def source(rows: int = 60, **parts: Any) -> Source:
    return Source("table", **{"train": table(rows), "val": None, "test": None, "classes": ("a", "b", "c"), **parts})


@exactly
@given(st.integers(120, 160), st.integers(0, 20), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_parts_are_disjoint_whole_stratified_and_a_function_of_the_seed(
    rows: int, seed: int, held_back: float, test_share: float
) -> None:
    parts = split_source(source(rows), held_back=held_back, test_share=test_share, seed=seed)
    chosen = json.loads(parts.chosen)["rows"]
    assert sorted(row for some in chosen.values() for row in some) == list(range(rows))
    assert [len(chosen[name]) for name in ("train", "val", "test")] == [len(part) for part in parts[:3]]  # type: ignore[arg-type]
    for some in chosen.values():
        counts = torch.bincount(torch.tensor(some) % 3, minlength=3)
        assert counts.max() - counts.min() <= 2
    assert split_source(source(rows), held_back=held_back, test_share=test_share, seed=seed).chosen == parts.chosen


@exactly
@given(st.integers(80, 120), st.integers(0, 20), st.integers(0, 20), st.sampled_from([None, 79]))
def test_with_a_seed_of_its_own_the_test_part_is_the_same_in_every_split(
    rows: int, seed: int, test_seed: int, limit: int | None
) -> None:
    def chosen(seed: int, **settings: Any) -> dict[str, list[int]]:
        parts = split_source(source(rows), seed=seed, limit=limit, **settings)
        found: dict[str, list[int]] = json.loads(parts.chosen)["rows"]
        return found

    alone = chosen(test_seed)
    parts = chosen(seed, test_seed=test_seed)
    assert parts["test"] == alone["test"]
    assert {name: len(some) for name, some in parts.items()} == {name: len(some) for name, some in alone.items()}
    assert sorted(chain(*parts.values())) == sorted(chain(*alone.values()))
    assert (parts == alone) == (seed == test_seed)


def test_a_source_with_its_own_validation_part_is_split_by_the_seed_of_the_test_part() -> None:
    own = source(val=table(9, start=1000))
    split = [json.loads(split_source(own, seed=seed, test_seed=3).chosen)["rows"] for seed in (3, 4)]
    assert split[0]["test"] == split[1]["test"]
    assert sorted(split[0]["train"]) == sorted(split[1]["train"])


def test_a_kept_split_gives_the_same_parts_whatever_the_seed() -> None:
    first = split_source(source(), seed=3)
    again = split_source(source(), seed=4, held_back=0.4, chosen=first.chosen)
    assert again.chosen == first.chosen
    assert [describe(part) for part in again[:3]] == [describe(part) for part in first[:3]]


def test_the_training_part_alone_decides_mean_and_deviation_of_all() -> None:
    parts = split_source(source())
    rows = json.loads(parts.chosen)["rows"]
    raw = table(60).inputs.double()
    mean, std = raw[rows["train"]].mean(dim=0), raw[rows["train"]].std(dim=0, correction=0)
    for name in ("train", "val", "test"):
        part: Any = getattr(parts, name)
        items = torch.stack([part[index][0] for index in range(len(part))])
        torch.testing.assert_close(items.double(), (raw[rows[name]] - mean) / std, rtol=1e-4, atol=1e-5)


def test_parts_that_came_with_the_source_stay_and_only_the_others_are_taken_from_training() -> None:
    parts = split_source(source(test=table(9, start=1000)), held_back=0.25)
    assert [len(part) for part in parts[:3]] == [45, 15, 9]  # type: ignore[arg-type]
    assert parts.test.labels.tolist() == [0, 1, 2] * 3  # type: ignore[attr-defined]
    whole = split_source(source(val=table(6, start=500), test=table(9, start=1000)))
    assert [len(part) for part in whole[:3]] == [60, 6, 9]  # type: ignore[arg-type]
    assert list(json.loads(whole.chosen)["rows"]) == ["train"]


def test_mnist_is_split_as_the_pipeline_splits_it_and_keeps_its_published_normalisation() -> None:
    parts = split_source(open_source("mnist"), held_back=0.1, seed=42, limit=500)
    expected = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=42, limit=500)
    for part, split in zip((parts.train, parts.val), expected, strict=True):
        assert describe(part) == describe(split)
    assert parts.classes == tuple("0123456789")


def test_a_users_dataset_is_split_and_otherwise_left_as_it_is() -> None:
    values = table(30)
    own = Listed(*((values.inputs[row], int(values.labels[row])) for row in range(30)))
    parts = split_source(Source("own", own, None, None, ("a", "b", "c")))
    rows = json.loads(parts.chosen)["rows"]
    assert isinstance(parts.train, Subset)
    assert torch.equal(parts.val[0][0], values.inputs[rows["val"][0]])
    batch, labels = next(iter(kd.make_loader(parts.train, batch_size=4)))
    assert torch.equal(batch, values.inputs[rows["train"][:4]])
    assert labels.tolist() == [row % 3 for row in rows["train"][:4]]


@pytest.mark.parametrize("raw", ["train", "test"])
def test_arrays_beside_a_users_dataset_are_refused_for_they_would_be_normalised_otherwise(raw: str) -> None:
    values = table(60)
    own = Listed(*((values.inputs[row] + 1000, int(values.labels[row])) for row in range(60)))
    parts = {"train": own, "test": own} | {raw: values}
    with pytest.raises(ValueError, match=rf"normalised in one way\. Got .*{raw} raw.*Give all parts as one"):
        split_source(source(**parts))


def test_tokens_are_not_normalised() -> None:
    tokens = ArrayDataset(torch.arange(60).reshape(30, 2), torch.arange(30) % 3)
    parts = split_source(source(train=tokens))
    assert parts.train[0][0].dtype == torch.int64


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (b"", "the kept split is damaged: it must name the rows of train, val, test. Got JSONDecodeError"),
        (b"\xff\xfe\x00", "the kept split is damaged"),
        (b"[" * 10**5, "the kept split is damaged"),
        (b"[]", "Got TypeError when reading it. Split anew with a seed"),
        (b'{"rows": {"train": [], "val": []}}', "Got KeyError"),
    ],
)
def test_a_damaged_split_is_refused(kept: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_source(source(), chosen=kept)


@pytest.mark.parametrize("rows", [[0, 1, 60], [-1, 2], [], [0, 0], [1.5], [True], "012", None, [[1]]])
def test_rows_that_are_none_are_refused(rows: object) -> None:
    kept = json.loads(split_source(source()).chosen)
    kept["rows"] = {"train": rows, "val": [3], "test": [4]}
    with pytest.raises(ValueError, match=r"its parts must be lists of different rows, each within 0 … 59"):
        split_source(source(), chosen=json.dumps(kept).encode())


def test_a_split_of_other_data_is_refused() -> None:
    kept = split_source(source()).chosen
    relabelled = ArrayDataset(table(60).inputs, table(60).labels.flip(0))
    for other in (source(63), source(train=relabelled)):
        with pytest.raises(ValueError, match=r"the kept split is of other data: .* Split them anew with a seed"):
            split_source(other, chosen=kept)
    with pytest.raises(ValueError, match="the kept split is of other data"):
        split_source(source(test=table(9, start=1000)), chosen=kept)


def test_a_class_too_rare_for_every_part_is_refused() -> None:
    rare = ArrayDataset(table(30).inputs, torch.tensor([0, 1] * 14 + [0, 2]))
    with pytest.raises(ValueError, match=r"holding back 0.1 and 0.2 of 30 items does not leave every class in all"):
        split_source(source(train=rare))


def test_a_part_of_other_classes_names_the_source_and_the_part() -> None:
    with pytest.raises(ValueError, match="labels of test must be within 0 … 1"):
        split_source(
            source(train=ArrayDataset(table(30).inputs, torch.arange(30) % 2), test=table(9), classes=("a", "b"))
        )
    with pytest.raises(ValueError, match="table, test: a part must have items"):
        split_source(source(test=Listed()))


# --- moments


@exactly
@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([(), (2,), (2, 3)]), st.booleans())
def test_moments_are_those_of_each_channel_or_feature(
    rows: int, width: int, inner: tuple[int, ...], of_bytes: bool
) -> None:
    shape = (rows, width, *inner) if len(inner) == 2 else (rows, *inner, width)
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(rows))
    inputs = values.to(torch.uint8 if of_bytes else torch.float32)
    moments = measure_moments(ArrayDataset(inputs, torch.zeros(rows).long()))
    axis = 1 if len(inner) == 2 else -1
    features = (values.double() / (255 if of_bytes else 1)).movedim(axis, 0).flatten(1)
    std = features.std(dim=1, correction=0)
    torch.testing.assert_close(moments.mean.flatten(), features.mean(dim=1))
    torch.testing.assert_close(moments.std.flatten(), torch.where(std == 0, 1, std))
    assert moments.mean.shape == ((width, 1, 1) if len(inner) == 2 else (width,))


def test_moments_of_many_items_are_computed_piece_by_piece() -> None:
    values = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) + 1e4  # far from 0: sums would cancel
    moments = measure_moments(ArrayDataset(values, torch.zeros(5000).long()))
    torch.testing.assert_close(moments.mean, values.double().mean(dim=0))
    torch.testing.assert_close(moments.std, values.double().std(dim=0, correction=0))


def test_a_feature_that_does_not_change_becomes_zero() -> None:
    values = torch.stack([torch.full((30,), 0.1), torch.arange(30.0)], dim=1)
    parts = split_source(source(train=ArrayDataset(values, torch.arange(30) % 3)))
    items = torch.stack([parts.train[index][0] for index in range(5)])
    assert items[:, 0].abs().max() < 1e-6
    assert items.isfinite().all()


@pytest.mark.whole_mnist
def test_mnists_published_moments_are_found() -> None:
    mnist = kd.load_mnist(train=True)
    moments = measure_moments(mnist)
    assert moments.mean.item() == pytest.approx(mnist.mean, abs=5e-5)
    assert moments.std.item() == pytest.approx(mnist.std, abs=5e-5)
