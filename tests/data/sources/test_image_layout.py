"""Folders of images: which folders are splits and classes, which files are read, and what is said of the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kd.checks import DamagedDataError
from kd.data.sources import open_source, split_source
from kd.data.sources.image_decoding import without_ghostscript
from tests.data.sources.image_trees import as_array_dataset, save_image, save_tree


@pytest.mark.parametrize("name", ["Training", "val", "test"])
def test_split_folders_are_not_classes(name: str, tmp_path: Path) -> None:
    save_tree(tmp_path, name, "more")
    message = rf"must have a folder named 'train' .* Got \['{name.lower()}'\] instead"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["Train", "trainset", "TRAINING_SET"])
def test_training_splits_by_another_name_are_not_classes(name: str, tmp_path: Path) -> None:
    save_tree(tmp_path, name, "holdout", per_class=1)
    message = rf"must have a folder named 'train' .* Got '{name}' with the folders \['ant', 'bee'\]\. Rename it"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


def test_splits_inside_classes_are_mentioned(tmp_path: Path) -> None:
    for name in ("ant/train/0", "ant/Test/0", "bee/train/1"):
        save_image(tmp_path / f"{name}.png")
    with pytest.warns(UserWarning, match="ant/Test, ant/train, bee/train are not read as splits: all images of a cl"):
        assert open_source(tmp_path).classes == ("ant", "bee")


def test_a_class_of_trains_and_folders_inside_classes_are_read(tmp_path: Path) -> None:
    """Warnings are errors here."""
    for name in ("Bus/0", "Bus/2021/1", "Train/steam/0", "Train/diesel/0", "Tram/2021/0"):
        save_image(tmp_path / f"{name}.png")
    assert open_source(tmp_path).classes == ("Bus", "Train", "Tram")


def test_a_folder_without_classes_raises(tmp_path: Path) -> None:
    save_image(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"must have one folder of images per class. Got none.* train/CLASS/FILE"):
        open_source(tmp_path)


def test_a_class_without_training_images_raises(tmp_path: Path) -> None:
    (save_tree(tmp_path) / "cow").mkdir()
    with pytest.raises(ValueError, match="Got 2 of 3 classes, none of 'cow'"):
        split_source(open_source(tmp_path))


def test_a_class_that_train_lacks_raises(tmp_path: Path) -> None:
    save_image(save_tree(tmp_path, "train", "val") / "val" / "cow" / "0.png")
    with pytest.raises(ValueError, match=r"val must have only the classes of train, \['ant', 'bee'\]. Got \['cow'\]"):
        open_source(tmp_path)


def test_classes_other_than_the_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be the folders of .* in some order: \['ant', 'bee'\]. Got \['ant'\]"):
        open_source(save_tree(tmp_path), classes=["ant"])


def test_unused_folders_warn(tmp_path: Path) -> None:
    save_tree(tmp_path, "train", "valid")
    with pytest.warns(
        UserWarning, match=r"ignoring folders .*: \['valid'\]\. Rename a folder to val or test to use it"
    ):
        assert list(open_source(tmp_path).parts) == ["train"]
    (tmp_path / "valid").rename(tmp_path / "masks")
    with pytest.warns(UserWarning, match=r"ignoring folders .*: \['masks'\]\.$"):
        open_source(tmp_path)


@pytest.mark.parametrize("inner", ["images", "photos/train"])
def test_a_folder_around_the_data_is_named(inner: str, tmp_path: Path) -> None:
    save_tree(tmp_path / inner)
    outer, name = (tmp_path / inner).parent, (tmp_path / inner).name
    message = f"Got only {name!r}, which holds the folders 'ant', 'bee'. If these are .*, pass {outer / name}"
    if name == "train":
        outer, message = (
            tmp_path,
            f"Got only 'photos', which holds the folders 'train'. If .*, pass {tmp_path / 'photos'}",
        )
    with pytest.raises(ValueError, match=message):
        open_source(outer)


@pytest.mark.parametrize(("ending", "kind"), [("jfif", "jpeg"), ("jpe", "jpeg"), ("gif", "gif"), ("avif", "avif")])
def test_more_names_of_image_formats_are_read(ending: str, kind: str, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 6)).save(tmp_path / name / f"0.{ending}", kind)
    assert len(as_array_dataset(open_source(tmp_path).train)) == 2


def test_files_that_are_not_read_are_counted_by_ending(tmp_path: Path) -> None:
    save_tree(tmp_path)
    for name in ("a.heic", "b.HEIC", "notes.txt", "photo", "Thumbs.db", ".hidden"):
        (tmp_path / "ant" / name).write_text("x")
    with pytest.warns(UserWarning, match=r"not read: 2 × \.heic, 1 × \.txt, 1 × no ending\. Images end in \.jpg"):
        assert len(as_array_dataset(open_source(tmp_path).train)) == 12


def test_images_outside_the_class_folders_are_counted(tmp_path: Path) -> None:
    save_tree(tmp_path, "train", "test")
    for place in (tmp_path / "0.png", tmp_path / "train" / "1.PNG", tmp_path / "test" / "2.png"):
        save_image(place)
    (tmp_path / "train" / "labels.csv").touch()
    with pytest.warns(UserWarning, match=r"not read: 3 × \.png outside the class folders\. Images"):
        assert len(as_array_dataset(open_source(tmp_path).train)) == 12


def require_no_class(folder: Path, place: str, name: str, warning: str) -> None:
    """Check that a folder with an image is neither a class nor part of one, and that a warning says so."""
    save_tree(folder, "train", "test")
    save_image(folder / place / name / "thumb.png", seed=1)
    with pytest.warns(UserWarning, match=warning):
        source = open_source(folder)
    assert source.classes == ("ant", "bee")
    assert len(as_array_dataset(source.train)) == 12


@pytest.mark.parametrize("place", ["", "train", "train/ant"])
@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "_vti_cnf"])
def test_folders_of_other_programs_are_no_classes(place: str, name: str, tmp_path: Path) -> None:
    require_no_class(tmp_path, place, name, rf"not read: 1 × folder {re.escape(name)}")


@pytest.mark.parametrize("place", ["", "train", "train/ant"])
@pytest.mark.parametrize("name", ["Thumbnails", "_thumbs", "thumbs", "__thumb", "@SynoEAStream", "#trash", ".net"])
def test_folders_like_those_of_other_programs_or_hidden_ones_are_no_classes_and_told(
    place: str, name: str, tmp_path: Path
) -> None:
    require_no_class(
        tmp_path, place, name, rf"not read: 1 × folder {re.escape(name)}\. .* Rename a folder if its images"
    )


@pytest.mark.parametrize(
    ("folders", "classes"),
    [(["thumb", "palm"], None), (["@ann", "@bob"], None), (["#1", "#2"], None), (["thumbs", "palms"], "named")],
)
def test_classes_with_names_that_other_programs_use_are_kept(
    folders: list[str], classes: str | None, tmp_path: Path
) -> None:
    for name in folders:
        save_image(tmp_path / name / "0.png", seed=len(name))
    source = open_source(tmp_path, classes=folders if classes else None)
    assert sorted(source.classes) == sorted(folders)


def test_hidden_images_are_told_but_not_what_other_programs_hide(tmp_path: Path) -> None:
    save_tree(tmp_path)
    for place in (".thumbnails/0.png", "ant/.AppleDouble/0.png", "ant/._0.png", ".git/index"):
        save_image(tmp_path / "0.png", seed=1)
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / "0.png").rename(tmp_path / place)
    assert len(as_array_dataset(open_source(tmp_path).train)) == 12
    save_image(tmp_path / "ant" / ".0.png", seed=2)
    with pytest.warns(UserWarning, match=r"not read: 1 × hidden \.png\. Images"):
        assert len(as_array_dataset(open_source(tmp_path).train)) == 12


def test_further_pages_and_frames_are_told(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (5, 6), color) for color in ("red", "blue")]
    pages[0].save(save_tree(tmp_path) / "ant" / "scan.tiff", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match="1 of 13 image files have further pages or frames; only the first is read"):
        train = as_array_dataset(open_source(tmp_path).train)
    assert train.inputs[6, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["eps", "pdf", "ico"])
def test_content_decides_and_other_formats_raise(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"started {arguments}")

    Image.new("RGB", (5, 6)).save(save_tree(tmp_path) / "ant" / "0.png", kind)
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(DamagedDataError, match=r"1 of 12 images .*0\.png \(its content is none of JPEG, PNG"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "it is a pointer of Git LFS.*git lfs pull",
        ),
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"", "it is empty"),
    ],
)
def test_what_stands_in_place_of_an_image_is_named(content: bytes, kind: str, tmp_path: Path) -> None:
    (save_tree(tmp_path) / "ant" / "0.png").write_bytes(content)
    with pytest.raises(DamagedDataError, match=rf"1 of 12 images .*0\.png \({kind}"):
        open_source(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems store names as text")
@pytest.mark.parametrize("name", [b"caf\xe9", b"a\x1bb", b"a\nb"])
def test_class_folders_without_readable_names_raise(name: bytes, tmp_path: Path) -> None:
    save_image(save_tree(tmp_path) / os.fsdecode(name) / "0.png")
    with pytest.raises(ValueError, match=r"must be readable text\. Got the folder '.*\\.*Rename it"):
        open_source(tmp_path)


def test_many_kinds_of_other_files_give_a_short_warning_without_control_characters(tmp_path: Path) -> None:
    save_tree(tmp_path)
    for number in range(30):
        (tmp_path / "ant" / f"log.\x1b[31m{number:02}").touch()
    with pytest.warns(UserWarning, match=r"not read: 1 × \.\\x1b\[31m00, .* and 18 other kinds\. Images"):
        open_source(tmp_path)


def test_class_names_in_any_script_are_read(tmp_path: Path) -> None:
    for name in ("نیم\u200cفاصله", "全角\u3000空白"):
        save_image(save_tree(tmp_path) / name / "0.png")
    assert len(open_source(tmp_path).classes) == 4


def test_an_eps_file_in_data_that_another_package_decodes_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", start)
    Image.new("RGB", (5, 6)).save(tmp_path / "0.png", "eps")
    with Image.open(tmp_path / "0.png") as image, pytest.raises(ValueError, match="EPS"), without_ghostscript():
        image.load()
