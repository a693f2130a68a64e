"""Teacher logits from files: row i belongs to sample i for any format and order, or an error is raised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kd
from kd.teachers.label_agreement import NOT_VERIFIED
from kd.teachers.logit_files import FLOOR, read_logits
from tests.teachers.stored_logits import (
    IDS,
    LABELS,
    NAMES,
    K,
    N,
    make_logits,
    read,
    softmax,
    some,
    to_csv,
    to_npy,
    to_npz,
)
from tests.teachers.test_cache import good_teacher


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.npy", to_npy(make_logits())),
        ("t.npy", to_npy(make_logits().astype(np.float64))),
        ("t.npy", to_npy(make_logits().astype(">f4"))),
        ("t.npy", to_npy(np.asfortranarray(make_logits()))),
        ("t.npz", to_npz(anything=make_logits())),
        ("t.npz", to_npz(logits=make_logits(), features=np.zeros((N, 9)))),
        ("t.npz", to_npz(compressed=True, logits=make_logits())),
        ("t.csv", to_csv(make_logits())),
        ("t.csv", to_csv(make_logits(), "a,b,c")),
        ("t.csv", b"\xef\xbb\xbf" + to_csv(make_logits(), "a,b,c").replace(b"\n", b"\r\n") + b"\r\n\r\n"),
    ],
)
def test_every_format_gives_the_same_rows_for_a_distill_dataset(name: str, content: bytes) -> None:
    predictions = read(name, content)
    assert predictions.logits.dtype == torch.float32
    assert torch.equal(predictions.logits, torch.from_numpy(make_logits()))
    assert predictions.labels is LABELS
    images = kd.ImageDataset(torch.zeros(N, 1, 2, 2, dtype=torch.uint8), LABELS, mean=0.0, std=1.0)
    assert torch.equal(kd.DistillDataset(images, predictions.logits)[7][2], torch.from_numpy(make_logits()[7]))


@some
@given(seed=st.integers(0, 999), spare=st.integers(0, 5), kind=st.sampled_from(["csv", "npz"]))
def test_rows_are_found_by_id_in_any_order_and_among_extra_rows(seed: int, spare: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([make_logits(), rng.normal(size=(spare, K)).astype(np.float32)])
    ids = IDS + [f"other {i} of no sample" for i in range(spare)]
    order = rng.permutation(len(ids))
    mixed = [ids[i] for i in order]
    content = (
        to_csv(values[order], "id,a,b,c", mixed) if kind == "csv" else to_npz(logits=values[order], id=np.array(mixed))
    )
    assert torch.equal(read(f"t.{kind}", content, ids=IDS).logits, torch.from_numpy(make_logits()))


def test_ids_may_be_numbers_in_any_column() -> None:
    content = to_npz(scores=make_logits()[::-1], number=np.arange(N)[::-1])
    ids = [str(i) for i in range(N)]
    assert torch.equal(read("t.npz", content, ids=ids, id_column="number").logits, torch.from_numpy(make_logits()))
    lines = [f"{a},{i},{b},{c}" for i, (a, b, c) in enumerate(make_logits().tolist())]
    content = "\n".join(["a,number,b,c", *lines[::-1]]).encode()
    assert torch.equal(read("t.csv", content, ids=ids, id_column="number").logits, torch.from_numpy(make_logits()))


def test_ignored_rows_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    content = to_npz(
        logits=np.concatenate([make_logits(), make_logits()]), id=np.array(IDS + [f"x{i}" for i in range(N)])
    )
    read("t.npz", content, ids=IDS)
    assert "60 of 120 rows belong to no sample and are ignored" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_soften_like_their_logits(temperature: float) -> None:
    predictions = read("t.npy", to_npy(softmax(make_logits())), kind="probabilities")
    expected = softmax(make_logits() / temperature)
    np.testing.assert_allclose(softmax(predictions.logits.numpy() / temperature), expected, rtol=1e-5)


def test_clipped_probabilities_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    predictions = read("t.npy", to_npy(np.eye(K)[LABELS]), kind="probabilities")
    assert predictions.logits.min() == pytest.approx(np.log(FLOOR))
    printed = " ".join(capsys.readouterr().out.split())
    assert "converted to log-probabilities, 120 of 180 values clipped at 1e-06" in printed


def test_class_names_determine_the_order_of_columns() -> None:
    order = ["cat", "ant", "bee"]
    mixed = make_logits()[:, [2, 0, 1]]
    by_argument = read("t.npy", to_npy(mixed), label_order=order, class_names=NAMES)
    by_heading = read("t.csv", to_csv(mixed, ",".join(order)), class_names=NAMES)
    by_both = read("t.csv", to_csv(mixed, "id,cat,ant,bee", IDS), class_names=NAMES, ids=IDS)
    for predictions in (by_argument, by_heading, by_both):
        assert torch.equal(predictions.logits, torch.from_numpy(make_logits()))


def test_accuracy_and_limits_of_the_check_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    read("t.npy", to_npy(make_logits()))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith(f"t.npy: accuracy 100.0% on 60 samples (chance 33.3%). {NOT_VERIFIED}.")


def test_logits_from_a_file_equal_those_of_the_teacher(digits: kd.ImageDataset, tmp_path: Path) -> None:
    cached = kd.collect_logits(good_teacher(), digits)
    np.save(tmp_path / "teacher.npy", cached.logits.numpy())
    predictions = read_logits(tmp_path / "teacher.npy", labels=digits.labels, classes=4)
    assert torch.equal(predictions.logits, cached.logits)
    kd.verify_logits(good_teacher(), digits, predictions)
