"""Unlabelled data: converted like the labelled data; duplicates are removed, incompatible inputs raise an error."""

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
from kd.data.datasets import collate
from kd.data.sources import open_source, open_unlabelled, split_source
from kd.data.sources.partition import Splits
from kd.teachers.cache import with_unlabelled
from kd.types import UNLABELLED
from tests.data.sources.image_trees import save_image, save_tree


def open_labelled(folder: Path, **arguments: Any) -> Splits:
    return split_source(open_source(save_tree(folder, **arguments)), held_back=0.2, test_share=0.2)


def as_arguments(splits: Splits) -> dict[str, Dataset[Any]]:
    return {"train": splits.train, "val": splits.val, "test": splits.test}


def collate_all(dataset: Any) -> tuple[Tensor, Tensor]:
    inputs, labels = collate([dataset[row] for row in range(len(dataset))])
    return inputs, labels


def save_table(path: Path, *, rows: int = 40, columns: int = 3, seed: int = 0) -> Path:
    numbers = np.random.default_rng(seed)
    x = numbers.normal(5, 2, (rows, columns)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(rows) % 2)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_at_any_depth_are_converted_like_the_labelled_ones(mode: str, tmp_path: Path) -> None:
    splits = open_labelled(tmp_path / "own", mode=mode)
    places = ["z.png", "a/b/deep.png", "a/shallow.png"]
    for seed, place in enumerate(places, start=900):
        save_image(tmp_path / "new" / place, mode, seed=seed)
    save_image(tmp_path / "new" / ".thumbnails" / "z.png", mode, seed=950)
    (tmp_path / "new" / ".notes.txt").write_text("no image")
    inputs, labels = collate_all(open_unlabelled(tmp_path / "new", **as_arguments(splits)))
    assert labels.tolist() == [UNLABELLED] * 3
    base: Any = splits.train
    mean, std = base.dataset.mean, base.dataset.std
    for row, place in enumerate(sorted(places)):
        pixels = np.asarray(Image.open(tmp_path / "new" / place)).reshape(6, 5, -1).transpose(2, 0, 1)
        assert torch.allclose(inputs[row], ((torch.tensor(pixels) / 255 - mean) / std).float(), atol=1e-5)


def test_arrays_are_normalised_with_the_labelled_training_statistics(tmp_path: Path) -> None:
    splits = split_source(open_source(save_table(tmp_path / "own.npz")))
    x = np.load(save_table(tmp_path / "new.npz", rows=7, seed=1))["x"]
    inputs, labels = collate_all(open_unlabelled(tmp_path / "new.npz", **as_arguments(splits)))
    base: Any = splits.train
    assert torch.allclose(inputs, ((torch.tensor(x) - base.dataset.mean) / base.dataset.std).float(), atol=1e-5)
    assert labels.tolist() == [UNLABELLED] * 7


def test_labels_in_the_file_are_never_read(tmp_path: Path) -> None:
    splits = split_source(open_source(save_table(tmp_path / "own.npz")))
    x = np.load(save_table(tmp_path / "new.npz", rows=7, seed=1))["x"]
    expected = collate_all(open_unlabelled(tmp_path / "new.npz", **as_arguments(splits)))
    np.savez(tmp_path / "odd.npz", x=x, y=np.array(["?"] * 3))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            collate_all(open_unlabelled(tmp_path / "odd.npz", **as_arguments(splits))), expected, strict=True
        )
    )


def test_duplicates_of_labelled_data_are_removed_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = split_source(open_source(save_table(tmp_path / "own.npz")), held_back=0.2, test_share=0.2)
    known, new = (np.load(path)["x"] for path in (tmp_path / "own.npz", save_table(tmp_path / "o.npz", rows=5, seed=1)))
    rows = {name: getattr(splits, name).indices for name in ("train", "val", "test")}
    mixed = np.concatenate(
        [known[rows["test"][:2]], new[:3], known[rows["train"][:1]], new[3:], known[rows["val"][:3]]]
    )
    np.savez(tmp_path / "new.npz", x=mixed)
    with pytest.warns(UserWarning, match="were removed: a student must not be evaluated") as caught:
        unlabelled = open_unlabelled(tmp_path / "new.npz", **as_arguments(splits))
    assert [str(warning.message).split(" and were")[0] for warning in caught] == [
        "3 of 11 unlabelled samples are also in val",
        "2 of 11 unlabelled samples are also in test",
    ]
    assert "1 of 11 samples are also in the labelled training data" in capsys.readouterr().out
    assert torch.equal(
        collate_all(unlabelled)[0], collate_all(open_unlabelled(tmp_path / "o.npz", **as_arguments(splits)))[0]
    )


@pytest.mark.filterwarnings("ignore:.* were removed")
def test_only_duplicates_of_labelled_data_raise(tmp_path: Path) -> None:
    splits = open_labelled(tmp_path / "own")
    with pytest.raises(ValueError, match=r"own must contain inputs .* not in the labelled data\. Got none among 12"):
        open_unlabelled(tmp_path / "own", **as_arguments(splits))


def test_another_size_raises_without_size(tmp_path: Path) -> None:
    splits = open_labelled(tmp_path / "own")
    save_image(tmp_path / "new" / "1.png", size=(8, 8), seed=900)
    with pytest.raises(ValueError, match=r"6 × 5 pixels \(height × width\)\. Got 8 × 8 instead\..*size"):
        open_unlabelled(tmp_path / "new", **as_arguments(splits))
    save_image(tmp_path / "new" / "2.png", size=(9, 8), seed=901)
    with pytest.raises(ValueError, match=r"images must have the same size\. Got 2 sizes"):
        open_unlabelled(tmp_path / "new", **as_arguments(splits))
    assert collate_all(open_unlabelled(tmp_path / "new", **as_arguments(splits), size=(6, 5)))[0].shape == (2, 3, 6, 5)
    with pytest.raises(ValueError, match="Got 5 × 5 instead"):
        open_unlabelled(tmp_path / "new", **as_arguments(splits), size=5)


@pytest.mark.parametrize(
    ("labelled_mode", "unlabelled_mode", "result"), [("L", "RGB", "gray"), ("RGB", "L", "coloured")]
)
def test_another_mode_is_converted_with_a_warning(
    labelled_mode: str, unlabelled_mode: str, result: str, tmp_path: Path
) -> None:
    splits = open_labelled(tmp_path / "own", mode=labelled_mode)
    save_image(tmp_path / "new" / "1.png", unlabelled_mode, seed=900)
    with pytest.warns(UserWarning, match=f"converted to {result}"):
        unlabelled = open_unlabelled(tmp_path / "new", **as_arguments(splits))
    assert collate_all(unlabelled)[0].shape == (1, 3 if labelled_mode == "RGB" else 1, 6, 5)


def make_broken(folder: Path) -> None:
    save_image(folder / "0.png", seed=900)
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")


def make_link_outside(folder: Path) -> None:
    folder.mkdir()
    (folder / "link.png").symlink_to(save_image(folder.parent / "elsewhere" / "0.png", seed=900))


def make_circle(folder: Path) -> None:
    save_image(folder / "0.png", seed=900)
    (folder / "again").symlink_to(folder)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (make_broken, DamagedDataError, r"1 of 2 images cannot be read: .*1\.png .* Replace or remove them"),
        (make_link_outside, DamagedDataError, r"1 files are symbolic links that point outside"),
        (make_circle, DamagedDataError, r"again is a symbolic link to a folder"),
        (Path.mkdir, ValueError, r"new must contain image files.* Got none"),
        (lambda folder: None, ValueError, r"cannot open unlabelled data .*from '.*new'\..*folder"),
    ],
)
def test_invalid_folders_raise(
    make: Callable[[Path], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    splits = open_labelled(tmp_path / "own")
    make(tmp_path / "new")
    with pytest.raises(error, match=message):
        open_unlabelled(tmp_path / "new", **as_arguments(splits))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.zeros((4, 2), np.float32)},
            r"\[3\] of torch.float32\. Got \[2\] of torch.float32 in .*new\.npz",
        ),
        ({"x": np.zeros((4, 3), np.uint8)}, r"\[3\] of torch.float32\. Got \[3\] of torch.uint8"),
        ({"x": np.full((4, 3), np.nan, np.float32)}, r"inputs of the unlabelled data must be finite\. Got NaN"),
        ({"x": np.zeros((0, 3), np.float32)}, r"must not be empty\. Got \[0, 3\]"),
        ({"x_train": np.zeros((4, 3), np.float32)}, r"must hold an array x of inputs\. Got x_train instead"),
        ({"x": np.array(["a", "b"])}, r"inputs of the unlabelled data must be numbers"),
    ],
)
def test_arrays_that_do_not_fit_raise(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    splits = split_source(open_source(save_table(tmp_path / "own.npz")))
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_unlabelled(tmp_path / "new.npz", **as_arguments(splits))


def test_a_damaged_file_is_named_and_images_for_a_table_raise(tmp_path: Path) -> None:
    splits = split_source(open_source(save_table(tmp_path / "own.npz")))
    (tmp_path / "new.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*new\.npz: .*numpy.savez\(file, x=…\)"):
        open_unlabelled(tmp_path / "new.npz", **as_arguments(splits))
    save_image(tmp_path / "new" / "0.png")
    with pytest.raises(ValueError, match=r"The labelled inputs are \[3\] of torch.float32\. .* \.npz file"):
        open_unlabelled(tmp_path / "new", **as_arguments(splits))


def test_a_student_trains_on_opened_data(tmp_path: Path) -> None:
    splits = split_source(open_source(save_table(tmp_path / "own.npz")))
    unlabelled = open_unlabelled(save_table(tmp_path / "new.npz", rows=20, seed=1), **as_arguments(splits))
    teacher = torch.nn.Linear(3, 2)
    distill_data = with_unlabelled(teacher, splits.train, unlabelled)
    assert len(distill_data) == len(splits.train) + 20  # type: ignore[arg-type]
    student = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    loader = kd.make_loader(distill_data, batch_size=8, shuffle=True)
    history = kd.fit(
        student, kd.distilled(temperature=2, alpha=0.1), loader, None, optimizer=optimizer, epochs=8, seed=0
    )
    assert history["train_soft"][-1] < history["train_soft"][0] / 2


def test_image_files_can_extend_mnist(tmp_path: Path) -> None:
    training, test = (kd.load_mnist(train=train) for train in (True, False))
    for row in range(3):
        Image.fromarray(test.images[row, 0].numpy()).save(tmp_path / f"{row}.png")
    inputs, _ = collate_all(open_unlabelled(tmp_path, train=training))
    assert torch.equal(inputs, test.__getitems__(range(3)).tensors[0])
    with (
        pytest.warns(UserWarning, match="3 of 3 unlabelled samples are also in test"),
        pytest.raises(ValueError, match="Got none among 3"),
    ):
        open_unlabelled(tmp_path, train=training, test=test)
