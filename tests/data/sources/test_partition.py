"""The splits of a run: drawn and saved, normalised with the training split's statistics, and checked."""

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

examples = settings(max_examples=40)


def make_table(rows: int, start: int = 0, width: int = 3) -> ArrayDataset:
    """Distinct rows of three alternating classes."""
    values = torch.arange(start, start + rows * width).reshape(rows, width)
    return ArrayDataset((values**2 / 100).float(), torch.arange(rows) % 3)


def make_source(rows: int = 60, **fields: Any) -> Source:
    return Source(
        "table", **{"train": make_table(rows), "val": None, "test": None, "classes": ("a", "b", "c"), **fields}
    )


@examples
@given(st.integers(120, 160), st.integers(0, 20), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_splits_are_disjoint_complete_stratified_and_seeded(
    rows: int, seed: int, held_back: float, test_share: float
) -> None:
    splits = split_source(make_source(rows), held_back=held_back, test_share=test_share, seed=seed)
    chosen = json.loads(splits.chosen)["rows"]
    assert sorted(row for split in chosen.values() for row in split) == list(range(rows))
    assert [len(chosen[name]) for name in ("train", "val", "test")] == [len(split) for split in splits[:3]]  # type: ignore[arg-type]
    for split in chosen.values():
        counts = torch.bincount(torch.tensor(split) % 3, minlength=3)
        assert counts.max() - counts.min() <= 2
    assert (
        split_source(make_source(rows), held_back=held_back, test_share=test_share, seed=seed).chosen == splits.chosen
    )


@examples
@given(st.integers(80, 120), st.integers(0, 20), st.integers(0, 20), st.sampled_from([None, 79]))
def test_test_seed_keeps_the_test_split_the_same_for_all_seeds(
    rows: int, seed: int, test_seed: int, limit: int | None
) -> None:
    def choose_rows(seed: int, **settings: Any) -> dict[str, list[int]]:
        splits = split_source(make_source(rows), seed=seed, limit=limit, **settings)
        rows_by_split: dict[str, list[int]] = json.loads(splits.chosen)["rows"]
        return rows_by_split

    reference = choose_rows(test_seed)
    splits = choose_rows(seed, test_seed=test_seed)
    assert splits["test"] == reference["test"]
    assert {name: len(split) for name, split in splits.items()} == {
        name: len(split) for name, split in reference.items()
    }
    assert sorted(chain(*splits.values())) == sorted(chain(*reference.values()))
    assert (splits == reference) == (seed == test_seed)


def test_test_seed_applies_if_the_source_has_a_validation_split() -> None:
    with_val = make_source(val=make_table(9, start=1000))
    rows = [json.loads(split_source(with_val, seed=seed, test_seed=3).chosen)["rows"] for seed in (3, 4)]
    assert rows[0]["test"] == rows[1]["test"]
    assert sorted(rows[0]["train"]) == sorted(rows[1]["train"])


def test_a_saved_split_gives_the_same_splits_for_any_seed() -> None:
    first = split_source(make_source(), seed=3)
    again = split_source(make_source(), seed=4, held_back=0.4, chosen=first.chosen)
    assert again.chosen == first.chosen
    assert [describe(split) for split in again[:3]] == [describe(split) for split in first[:3]]


def test_all_splits_are_normalised_with_the_training_statistics() -> None:
    splits = split_source(make_source())
    rows = json.loads(splits.chosen)["rows"]
    raw = make_table(60).inputs.double()
    mean, std = raw[rows["train"]].mean(dim=0), raw[rows["train"]].std(dim=0, correction=0)
    for name in ("train", "val", "test"):
        part: Any = getattr(splits, name)
        items = torch.stack([part[index][0] for index in range(len(part))])
        torch.testing.assert_close(items.double(), (raw[rows[name]] - mean) / std, rtol=1e-4, atol=1e-5)


def test_existing_splits_are_kept_and_missing_ones_drawn_from_training() -> None:
    splits = split_source(make_source(test=make_table(9, start=1000)), held_back=0.25)
    assert [len(split) for split in splits[:3]] == [45, 15, 9]  # type: ignore[arg-type]
    assert splits.test.labels.tolist() == [0, 1, 2] * 3  # type: ignore[attr-defined]
    whole = split_source(make_source(val=make_table(6, start=500), test=make_table(9, start=1000)))
    assert [len(split) for split in whole[:3]] == [60, 6, 9]  # type: ignore[arg-type]
    assert list(json.loads(whole.chosen)["rows"]) == ["train"]


def test_mnist_matches_the_pipelines_split_and_keeps_its_published_normalisation() -> None:
    splits = split_source(open_source("mnist"), held_back=0.1, seed=42, limit=500)
    expected = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=42, limit=500)
    for part, split in zip((splits.train, splits.val), expected, strict=True):
        assert describe(part) == describe(split)
    assert splits.classes == tuple("0123456789")


def test_a_users_dataset_is_split_but_not_normalised() -> None:
    values = make_table(30)
    dataset = Listed(*((values.inputs[row], int(values.labels[row])) for row in range(30)))
    splits = split_source(Source("own", dataset, None, None, ("a", "b", "c")))
    rows = json.loads(splits.chosen)["rows"]
    assert isinstance(splits.train, Subset)
    assert torch.equal(splits.val[0][0], values.inputs[rows["val"][0]])
    batch, labels = next(iter(kd.make_loader(splits.train, batch_size=4)))
    assert torch.equal(batch, values.inputs[rows["train"][:4]])
    assert labels.tolist() == [row % 3 for row in rows["train"][:4]]


@pytest.mark.parametrize("raw", ["train", "test"])
def test_mixing_arrays_and_a_users_dataset_raises(raw: str) -> None:
    values = make_table(60)
    dataset = Listed(*((values.inputs[row] + 1000, int(values.labels[row])) for row in range(60)))
    splits = {"train": dataset, "test": dataset} | {raw: values}
    with pytest.raises(ValueError, match=rf"normalised in the same way\. Got .*{raw} to be normalised"):
        split_source(make_source(**splits))


def test_tokens_are_not_normalised() -> None:
    tokens = ArrayDataset(torch.arange(60).reshape(30, 2), torch.arange(30) % 3)
    splits = split_source(make_source(train=tokens))
    assert splits.train[0][0].dtype == torch.int64


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (b"", "the saved split is damaged: .* train, val, test. Got JSONDecodeError"),
        (b"\xff\xfe\x00", "the saved split is damaged"),
        (b"[" * 10**5, "the saved split is damaged"),
        (b"[]", "Got TypeError when reading it"),
        (b'{"rows": {"train": [], "val": []}}', "Got KeyError"),
    ],
)
def test_a_damaged_saved_split_raises(saved: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_source(make_source(), chosen=saved)


@pytest.mark.parametrize("rows", [[0, 1, 60], [-1, 2], [], [0, 0], [1.5], [True], "012", None, [[1]]])
def test_invalid_saved_rows_raise(rows: object) -> None:
    saved = json.loads(split_source(make_source()).chosen)
    saved["rows"] = {"train": rows, "val": [3], "test": [4]}
    with pytest.raises(ValueError, match=r"lists of distinct rows within 0 … 59"):
        split_source(make_source(), chosen=json.dumps(saved).encode())


def test_a_saved_split_of_other_data_raises() -> None:
    saved = split_source(make_source()).chosen
    relabelled = ArrayDataset(make_table(60).inputs, make_table(60).labels.flip(0))
    for other in (make_source(63), make_source(train=relabelled)):
        with pytest.raises(ValueError, match=r"the saved split belongs to other data: .* seed"):
            split_source(other, chosen=saved)
    with pytest.raises(ValueError, match="the saved split belongs to other data"):
        split_source(make_source(test=make_table(9, start=1000)), chosen=saved)


def test_a_class_too_rare_for_every_split_raises() -> None:
    rare = ArrayDataset(make_table(30).inputs, torch.tensor([0, 1] * 14 + [0, 2]))
    with pytest.raises(ValueError, match=r"holding back 0.1 and 0.2 of 30 samples .* every class in all splits"):
        split_source(make_source(train=rare))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "classes must be names in label order.*Got None"),
        ((0, 1, 2), "class names must be text. Got 0 for label 0"),
        (("a", "b", "a"), "class names must be different. Got 'a' for the labels 0 and 2"),
    ],
)
def test_classes_without_names_of_their_own_raise(classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_source(make_source(classes=classes))


def test_errors_name_the_source_and_the_split() -> None:
    with pytest.raises(ValueError, match="labels of test must be within 0 … 1"):
        split_source(
            make_source(
                train=ArrayDataset(make_table(30).inputs, torch.arange(30) % 2), test=make_table(9), classes=("a", "b")
            )
        )
    with pytest.raises(ValueError, match="table, test: a split must not be empty"):
        split_source(make_source(test=Listed()))


# --- moments


@examples
@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([(), (2,), (2, 3)]), st.booleans())
def test_moments_are_computed_per_channel_or_feature(
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


def test_moments_combine_batches_without_cancellation() -> None:
    # Far from 0, where naive sums of squares cancel.
    values = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) + 1e4
    moments = measure_moments(ArrayDataset(values, torch.zeros(5000).long()))
    torch.testing.assert_close(moments.mean, values.double().mean(dim=0))
    torch.testing.assert_close(moments.std, values.double().std(dim=0, correction=0))


def test_a_constant_feature_becomes_zero() -> None:
    values = torch.stack([torch.full((30,), 0.1), torch.arange(30.0)], dim=1)
    splits = split_source(make_source(train=ArrayDataset(values, torch.arange(30) % 3)))
    items = torch.stack([splits.train[index][0] for index in range(5)])
    assert items[:, 0].abs().max() < 1e-6
    assert items.isfinite().all()


@pytest.mark.whole_mnist
def test_mnists_published_moments_are_reproduced() -> None:
    mnist = kd.load_mnist(train=True)
    moments = measure_moments(mnist)
    assert moments.mean.item() == pytest.approx(mnist.mean, abs=5e-5)
    assert moments.std.item() == pytest.approx(mnist.std, abs=5e-5)


def test_class_names_cannot_control_a_terminal() -> None:
    classes = ("\x1b]0;title\x07x", "a\rb\nc", "\u3000猫")
    assert split_source(make_source(classes=classes)).classes == ("\\x1b]0;title\\x07x", "a\\rb\\nc", "\u3000猫")
