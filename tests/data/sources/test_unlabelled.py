"""Unlabelled data: made like the labelled ones; what those have is left out and counted, what does not fit refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import kd
from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset, collate
from kd.data.sources import image_dataset, open_source, open_unlabelled, split_source
from kd.data.sources.image_dataset import ImageFiles
from kd.data.sources.partition import Splits
from kd.teachers.cache import with_unlabelled
from kd.types import UNLABELLED
from tests.data.sources.test_image_dataset import lazily, picture, tree


def labelled(folder: Path, **how: Any) -> Splits:
    return split_source(open_source(tree(folder, **how)), held_back=0.2, test_share=0.2)


def of(parts: Splits) -> dict[str, Dataset[Any]]:
    return {"train": parts.train, "val": parts.val, "test": parts.test}


def items(dataset: Any) -> tuple[Tensor, Tensor]:
    inputs, labels = collate([dataset[row] for row in range(len(dataset))])
    return inputs, labels


def table(path: Path, *, rows: int = 40, columns: int = 3, seed: int = 0) -> Path:
    numbers = np.random.default_rng(seed)
    x = numbers.normal(5, 2, (rows, columns)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(rows) % 2)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_images_at_any_depth_becomes_like_the_labelled_ones(mode: str, tmp_path: Path) -> None:
    parts = labelled(tmp_path / "own", mode=mode)
    places = ["z.png", "a/b/deep.png", "a/shallow.png"]
    for seed, place in enumerate(places, start=900):
        picture(tmp_path / "new" / place, mode, seed=seed)
    picture(tmp_path / "new" / ".thumbnails" / "z.png", mode, seed=950)
    (tmp_path / "new" / "notes.txt").write_text("no image")
    inputs, labels = items(open_unlabelled(tmp_path / "new", **of(parts)))
    assert labels.tolist() == [UNLABELLED] * 3
    base: Any = parts.train
    mean, std = base.dataset.mean, base.dataset.std
    for row, place in enumerate(sorted(places)):
        pixels = np.asarray(Image.open(tmp_path / "new" / place)).reshape(6, 5, -1).transpose(2, 0, 1)
        assert torch.allclose(inputs[row], ((torch.tensor(pixels) / 255 - mean) / std).float(), atol=1e-5)


def test_decoded_on_demand_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lazily(tree(tmp_path / "own"), monkeypatch)
    lazy = split_source(source, held_back=0.2, test_share=0.2)
    for seed in range(3):
        picture(tmp_path / "new" / f"{seed}.png", seed=900 + seed)
    at_once = open_unlabelled(tmp_path / "new", **of(lazy))
    monkeypatch.setattr(image_dataset, "IN_MEMORY", 0)
    on_demand = open_unlabelled(tmp_path / "new", **of(labelled(tmp_path / "own")))
    assert isinstance(at_once, ArrayDataset)
    assert isinstance(on_demand, ImageFiles)
    assert all(torch.equal(a, b) for a, b in zip(items(at_once), items(on_demand), strict=True))


def test_arrays_are_normalised_by_the_labelled_training_part(tmp_path: Path) -> None:
    parts = split_source(open_source(table(tmp_path / "own.npz")))
    x = np.load(table(tmp_path / "new.npz", rows=7, seed=1))["x"]
    inputs, labels = items(open_unlabelled(tmp_path / "new.npz", **of(parts)))
    base: Any = parts.train
    assert torch.allclose(inputs, ((torch.tensor(x) - base.dataset.mean) / base.dataset.std).float(), atol=1e-5)
    assert labels.tolist() == [UNLABELLED] * 7


def test_the_labels_of_the_file_are_never_read(tmp_path: Path) -> None:
    parts = split_source(open_source(table(tmp_path / "own.npz")))
    x = np.load(table(tmp_path / "new.npz", rows=7, seed=1))["x"]
    plain = items(open_unlabelled(tmp_path / "new.npz", **of(parts)))
    np.savez(tmp_path / "odd.npz", x=x, y=np.array(["?"] * 3))
    assert all(
        torch.equal(a, b) for a, b in zip(items(open_unlabelled(tmp_path / "odd.npz", **of(parts))), plain, strict=True)
    )


def test_what_the_labelled_data_have_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = split_source(open_source(table(tmp_path / "own.npz")), held_back=0.2, test_share=0.2)
    own, other = (np.load(path)["x"] for path in (tmp_path / "own.npz", table(tmp_path / "o.npz", rows=5, seed=1)))
    rows = {name: getattr(parts, name).indices for name in ("train", "val", "test")}
    mixed = np.concatenate([own[rows["test"][:2]], other[:3], own[rows["train"][:1]], other[3:], own[rows["val"][:3]]])
    np.savez(tmp_path / "new.npz", x=mixed)
    with pytest.warns(UserWarning, match="are left out: the student would be judged") as warned:
        found = open_unlabelled(tmp_path / "new.npz", **of(parts))
    assert [str(warning.message).split(" and are")[0] for warning in warned] == [
        "3 of 11 unlabelled items are also in val",
        "2 of 11 unlabelled items are also in test",
    ]
    assert "1 of 11 unlabelled items are also in the labelled training data" in capsys.readouterr().out
    assert torch.equal(items(found)[0], items(open_unlabelled(tmp_path / "o.npz", **of(parts)))[0])


@pytest.mark.filterwarnings("ignore:.* are left out")
def test_nothing_but_what_the_labelled_data_have_is_refused(tmp_path: Path) -> None:
    parts = labelled(tmp_path / "own")
    with pytest.raises(ValueError, match=r"own must have inputs that the labelled data have not\. Got none among 12"):
        open_unlabelled(tmp_path / "own", **of(parts))


def test_another_size_is_refused_and_is_scaled_where_it_is_given(tmp_path: Path) -> None:
    parts = labelled(tmp_path / "own")
    picture(tmp_path / "new" / "1.png", size=(8, 8), seed=900)
    with pytest.raises(ValueError, match=r"6 × 5 pixels \(height × width\)\. Got 8 × 8 instead\. Give that size"):
        open_unlabelled(tmp_path / "new", **of(parts))
    picture(tmp_path / "new" / "2.png", size=(9, 8), seed=901)
    with pytest.raises(ValueError, match=r"images must have one size, or be given one\. Got 2 sizes"):
        open_unlabelled(tmp_path / "new", **of(parts))
    assert items(open_unlabelled(tmp_path / "new", **of(parts), size=(6, 5)))[0].shape == (2, 3, 6, 5)
    with pytest.raises(ValueError, match="Got 5 × 5 instead"):
        open_unlabelled(tmp_path / "new", **of(parts), size=5)


@pytest.mark.parametrize(("own", "new", "become"), [("L", "RGB", "gray"), ("RGB", "L", "coloured")])
def test_another_mode_is_converted_and_told(own: str, new: str, become: str, tmp_path: Path) -> None:
    parts = labelled(tmp_path / "own", mode=own)
    picture(tmp_path / "new" / "1.png", new, seed=900)
    with pytest.warns(UserWarning, match=f"they become {become}, as the labelled ones are"):
        found = open_unlabelled(tmp_path / "new", **of(parts))
    assert items(found)[0].shape == (1, 3 if own == "RGB" else 1, 6, 5)


def broken(folder: Path) -> None:
    picture(folder / "0.png", seed=900)
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")


def outside(folder: Path) -> None:
    folder.mkdir()
    (folder / "link.png").symlink_to(picture(folder.parent / "elsewhere" / "0.png", seed=900))


def circle(folder: Path) -> None:
    picture(folder / "0.png", seed=900)
    (folder / "again").symlink_to(folder)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (broken, DamagedDataError, r"1 of 2 images cannot be read: .*1\.png .* Replace or remove them"),
        (outside, DamagedDataError, r"1 files are links that lead out of"),
        (circle, DamagedDataError, r"again is a link to a folder"),
        (Path.mkdir, ValueError, r"new must have image files in it, or in folders below\. Got none"),
        (lambda folder: None, ValueError, r"no unlabelled data can be opened from '.*new'\. Name a folder"),
    ],
)
def test_a_folder_that_is_none_is_refused(
    made: Callable[[Path], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    parts = labelled(tmp_path / "own")
    made(tmp_path / "new")
    with pytest.raises(error, match=message):
        open_unlabelled(tmp_path / "new", **of(parts))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.zeros((4, 2), np.float32)},
            r"\[3\] of torch.float32 each\. Got \[2\] of torch.float32 in .*new\.npz",
        ),
        ({"x": np.zeros((4, 3), np.uint8)}, r"\[3\] of torch.float32 each\. Got \[3\] of torch.uint8"),
        ({"x": np.full((4, 3), np.nan, np.float32)}, r"inputs of the unlabelled data must be finite\. Got NaN"),
        ({"x": np.zeros((0, 3), np.float32)}, r"must have items\. Got \[0, 3\]"),
        ({"x_train": np.zeros((4, 3), np.float32)}, r"must hold an array x of inputs\. Got x_train instead"),
        ({"x": np.array(["a", "b"])}, r"inputs of the unlabelled data must be numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    parts = split_source(open_source(table(tmp_path / "own.npz")))
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_unlabelled(tmp_path / "new.npz", **of(parts))


def test_a_damaged_file_is_named_and_images_cannot_stand_beside_a_table(tmp_path: Path) -> None:
    parts = split_source(open_source(table(tmp_path / "own.npz")))
    (tmp_path / "new.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*new\.npz: .*numpy.savez\(file, x=…\)"):
        open_unlabelled(tmp_path / "new.npz", **of(parts))
    picture(tmp_path / "new" / "0.png")
    with pytest.raises(ValueError, match=r"The labelled inputs are \[3\] of torch.float32\. Give .* as an \.npz file"):
        open_unlabelled(tmp_path / "new", **of(parts))


def test_a_student_learns_from_what_was_opened(tmp_path: Path) -> None:
    parts = split_source(open_source(table(tmp_path / "own.npz")))
    found = open_unlabelled(table(tmp_path / "new.npz", rows=20, seed=1), **of(parts))
    teacher = torch.nn.Linear(3, 2)
    distill_data = with_unlabelled(teacher, parts.train, found)
    assert len(distill_data) == len(parts.train) + 20  # type: ignore[arg-type]
    student = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    loader = kd.make_loader(distill_data, batch_size=8, shuffle=True)
    history = kd.fit(
        student, kd.distilled(temperature=2, alpha=0.1), loader, None, optimizer=optimizer, epochs=8, seed=0
    )
    assert history["train_soft"][-1] < history["train_soft"][0] / 2


def test_mnist_may_have_unlabelled_image_files(tmp_path: Path) -> None:
    training, test = (kd.load_mnist(train=train) for train in (True, False))
    for row in range(3):
        Image.fromarray(test.images[row, 0].numpy()).save(tmp_path / f"{row}.png")
    inputs, _ = items(open_unlabelled(tmp_path, train=training))
    assert torch.equal(inputs, test.__getitems__(range(3)).tensors[0])
    with (
        pytest.warns(UserWarning, match="3 of 3 unlabelled items are also in test"),
        pytest.raises(ValueError, match="Got none among 3"),
    ):
        open_unlabelled(tmp_path, train=training, test=test)
