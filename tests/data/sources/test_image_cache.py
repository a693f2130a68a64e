"""Decoded images on disk: decoded once, in any number of processes, resumed, checked, and upright."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from kd.checks import DamagedDataError
from kd.data.sources import image_cache, open_source
from kd.data.sources.image_arrays import open_arrays
from kd.data.sources.image_cache import decode_once, find_data_folder, survey_once
from kd.data.sources.image_dataset import DecodedImages
from kd.data.sources.image_decoding import ImageFormat, ImagePaths, decode_image
from kd.deploy.inputs import InputReader
from kd.deploy.rows import InputForm
from kd.storage.stopping import Stopped, handle_stop_signals
from kd.storage.user_folders import cache_folder
from tests.data.sources.image_trees import save_image, save_tree

FORM = ImageFormat("RGB", (6, 5))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("KD_CACHE_DIR", str(folder))
    monkeypatch.setattr(image_cache, "_TASK", 5)
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each image decoded in this process is added."""
    names: list[str] = []

    def decode(image: Image.Image, form: ImageFormat) -> Any:
        names.append(str(getattr(image, "filename", "")))
        return decode_image(image, form)

    monkeypatch.setattr(image_cache, "decode_image", decode)
    return names


def collections(folder: Path) -> dict[str, ImagePaths]:
    paths = sorted(folder.rglob("*.png"))
    return {"train": ImagePaths(paths[:7]), "test": ImagePaths(paths[7:])}


def decode(folder: Path, workers: int = 0) -> Path:
    splits = collections(folder)
    data_folder = find_data_folder(splits)
    assert data_folder is not None
    return decode_once(splits, data_folder, FORM, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_arrays_do_not_depend_on_the_number_of_workers(
    workers: int, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tree(tmp_path / "data", per_class=20)
    here = [array.copy() for array in open_arrays(decode(tmp_path / "data"))]
    shutil.rmtree(cache)
    monkeypatch.setattr(image_cache, "FEW", 0)
    before = torch.get_rng_state()
    there = open_arrays(decode(tmp_path / "data", workers=workers))
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    for row, name in enumerate(name for split in collections(tmp_path / "data").values() for name in split.names):
        assert np.array_equal(there.pixels[row], np.asarray(Image.open(name)).transpose(2, 0, 1))


def test_images_are_decoded_once_for_all_runs(tmp_path: Path, decoded: list[str]) -> None:
    save_tree(tmp_path / "data")
    first = open_source(tmp_path / "data").train
    assert len(decoded) == 12
    second = open_source(tmp_path / "data").train
    assert len(decoded) == 12
    assert isinstance(first, DecodedImages)
    assert isinstance(second, DecodedImages)
    assert torch.equal(first.inputs, second.inputs)
    open_source(tmp_path / "data", size=4)
    assert len(decoded) == 24


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(tmp_path: Path, decoded: list[str]) -> None:
    path = save_tree(tmp_path / "data") / "ant" / "0.png"
    before = open_source(tmp_path / "data").train[0][0]
    status, content = path.stat(), save_image(tmp_path / "other.bmp", seed=99)
    path.write_bytes(content.read_bytes()[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert not torch.equal(open_source(tmp_path / "data").train[0][0], before)
    assert len(decoded) == 24


def stop_after(tasks: int) -> Iterator[None]:
    for _ in range(tasks):
        yield
    raise KeyboardInterrupt


def test_an_interrupted_pass_resumes_and_trusts_no_pixels_without_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    save_tree(tmp_path / "data")
    with monkeypatch.context() as patch:
        steps = stop_after(1)
        patch.setattr(image_cache, "stop_if_requested", lambda: next(steps))
        with pytest.raises(KeyboardInterrupt):
            decode(tmp_path / "data")
    assert len(decoded) == 10
    (partial,) = cache_folder().rglob("*.part")
    open_arrays(partial, writable=True).pixels[3] = 0  # as after a power failure
    arrays = open_arrays(decode(tmp_path / "data"))
    assert len(decoded) == 10 + 1 + 2
    assert arrays.pixels[3].any()
    assert not list(cache_folder().rglob("*.part"))


def test_damaged_arrays_are_noticed_and_decoded_again(
    tmp_path: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = decode(save_tree(tmp_path / "data"))
    intact = open_arrays(folder).pixels.copy()
    open_arrays(folder, writable=True).pixels[2, 0, 0, 0] ^= 1
    os.utime(folder / "pixels.npy")
    assert np.array_equal(open_arrays(decode(tmp_path / "data")).pixels, intact)
    assert len(decoded) == 24
    assert "is damaged, decoding again" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pixels.npy", "digests.npy", "sums.npy", "complete.json"])
@pytest.mark.parametrize("content", [b"", b"{", None])
def test_truncated_or_missing_arrays_are_decoded_again(name: str, content: bytes | None, tmp_path: Path) -> None:
    folder = decode(save_tree(tmp_path / "data"))
    intact = open_arrays(folder).pixels.copy()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert np.array_equal(open_arrays(decode(tmp_path / "data")).pixels, intact)


def test_touched_arrays_are_checked_and_kept(tmp_path: Path, decoded: list[str]) -> None:
    folder = decode(save_tree(tmp_path / "data"))
    os.utime(folder / "pixels.npy")
    decode(tmp_path / "data")
    assert len(decoded) == 12


def test_changes_in_memory_do_not_reach_the_disk(tmp_path: Path) -> None:
    save_tree(tmp_path / "data")
    first, second = (open_source(tmp_path / "data").train for _ in range(2))
    assert isinstance(first, DecodedImages)
    assert isinstance(second, DecodedImages)
    before = second.inputs.clone()
    first.inputs.zero_()
    assert torch.equal(second.inputs, before)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_survey_does_not_depend_on_the_number_of_workers(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "FEW", 5)
    monkeypatch.setattr(image_cache, "_FEW_TASKS", 1)
    save_tree(tmp_path)
    for number, mode in enumerate(("L", "RGBA", "RGB")):
        save_image(tmp_path / "bee" / f"other-{number}.png", mode, (4, 7))
    splits, started = collections(tmp_path), torch.get_rng_state()
    survey = survey_once(splits, find_data_folder(splits), workers=workers)
    assert survey == ([(6, 5, 12), (4, 7, 3)], 1, 1, 0)
    assert torch.equal(torch.get_rng_state(), started)
    (tmp_path / "bee" / "other-1.png").write_bytes(b"no image")
    with pytest.raises(DamagedDataError, match=r"1 of 8 images cannot be read: .*other-1\.png"):
        survey_once(splits, find_data_folder(splits), workers=workers)


def test_a_damaged_survey_is_made_again(tmp_path: Path) -> None:
    save_tree(tmp_path / "data", size=(6, 5))
    open_source(tmp_path / "data")
    (survey,) = cache_folder().rglob("survey.json")
    for content in (b"", b"[]", b'{"sizes": [[1]]}'):
        survey.write_bytes(content)
        assert open_source(tmp_path / "data").train[0][0].shape == (3, 6, 5)


def test_a_cache_that_is_not_writable_raises(cache: Path, tmp_path: Path) -> None:
    cache.write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot write to folder .*cache.*Set KD_CACHE_DIR"):
        open_source(save_tree(tmp_path / "data"))


def test_a_disk_that_is_too_small_raises_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"not enough space in .*1,080 bytes are needed, 1,000 are free"):
        open_source(save_tree(tmp_path / "data"))
    assert not decoded


def test_another_process_that_decodes_the_same_images_is_waited_for(
    tmp_path: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    splits = collections(save_tree(tmp_path / "data"))
    folder = find_data_folder(splits)
    assert folder is not None
    folder.mkdir(parents=True)
    with filelock.FileLock(folder / "RGB-6x5.lock", thread_local=False):
        thread = threading.Thread(target=decode, args=(tmp_path / "data",))
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive()
        assert not decoded
    thread.join(timeout=60)
    assert len(decoded) == 12
    assert "waiting for another process" in capsys.readouterr().out


class DyingImages:
    """Images whose reader kills its process."""

    names: Sequence[str] = tuple(map(str, range(20)))

    def open(self, row: int) -> Image.Image:
        os._exit(7)

    def stamps(self) -> list[object]:
        return ["dying"]


def test_a_worker_that_dies_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "FEW", 0)
    folder = find_data_folder({"train": DyingImages()})
    assert folder is not None
    with pytest.raises(OSError, match=r"a process that reads images died .*Run again to resume"):
        decode_once({"train": DyingImages()}, folder, FORM, workers=1)


class StoppedImages(DyingImages):
    """Images whose reader is ended by the same signal as its parent."""

    def open(self, row: int) -> Image.Image:
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(143)


def test_a_stop_signal_to_all_processes_is_a_stop_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "FEW", 0)
    folder = find_data_folder({"train": StoppedImages()})
    assert folder is not None
    with pytest.raises(Stopped) as stopped, handle_stop_signals():
        decode_once({"train": StoppedImages()}, folder, FORM, workers=1)
    assert stopped.value.code == 143


# --- pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_images_are_upright(orientation: int, ending: str, tmp_path: Path) -> None:
    upright = np.zeros((8, 16, 3), dtype=np.uint8)
    upright[:4, :8] = 255  # a bright upper left quarter
    turn = {  # how a camera stores a scene with this orientation
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        stored = Image.fromarray(np.ascontiguousarray(turn[orientation](upright)))
        stored.save(tmp_path / name / f"0.{ending}", exif=exif, quality=95)
    images = open_source(tmp_path).train
    assert isinstance(images, DecodedImages)
    assert images.inputs.shape == (2, 3, 8, 16)
    assert np.abs(images.inputs[0].float().numpy() - upright.transpose(2, 0, 1)).mean() < 8


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_turned_tiff_files_are_upright_in_training_and_prediction(
    mode: str, compression: str | None, orientation: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    stored = Image.fromarray(pixels).convert(mode)
    turns = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270}
    turns |= {7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "ant" / "0.tif"
    path.parent.mkdir()
    stored.save(path, exif=exif, compression=compression)
    with warnings.catch_warnings(action="ignore"):  # transparency is dropped
        train = open_source(tmp_path).train
    assert isinstance(train, DecodedImages)
    shape = tuple(train.inputs.shape[1:])
    upright = np.asarray(stored.transpose(turns[orientation]).convert("L" if mode == "L" else "RGB"))
    assert np.array_equal(train.inputs[0].numpy(), upright.reshape(9, 6, -1).transpose(2, 0, 1))
    (item,) = InputReader(InputForm(shape, "uint8", "L" if mode == "L" else "RGB")).read([str(path)])
    assert item.values is not None
    assert torch.equal(item.values, train.inputs[0])


XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def write_png(path: Path, image: Image.Image, kind: str) -> None:
    """Save a PNG with orientation 6 in metadata of this kind: a text chunk, or behind the pixels."""
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[ExifTags.Base.Orientation] = 6
    if kind == "ImageMagick":
        content = exif.tobytes()
        text.add_text("Raw profile type exif", f"\nexif\n    {len(content)}\n{content.hex()}\n", zip=True)
    if kind == "XMP":
        text.add_itxt("XML:com.adobe.xmp", XMP)
    image.save(path, pnginfo=text)
    if kind.startswith("late"):
        chunks = {
            "late EXIF": b"eXIf" + exif.tobytes()[6:],
            "late XMP": b"iTXtXML:com.adobe.xmp" + bytes(5) + XMP.encode(),
        }
        body, png = chunks[kind], path.read_bytes()
        chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        path.write_bytes(png[:-12] + chunk + png[-12:])  # the last chunk has 12 bytes


@pytest.mark.parametrize("kind", ["ImageMagick", "XMP", "late EXIF", "late XMP"])
def test_png_files_are_upright_wherever_their_orientation_is(kind: str, tmp_path: Path) -> None:
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8))
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "0.png", stored, kind)
    with Image.open(tmp_path / "ant" / "0.png") as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    assert seen.shape == (8, 16, 3)
    images = open_source(tmp_path).train
    assert isinstance(images, DecodedImages)
    assert np.array_equal(images.inputs[0], seen.transpose(2, 0, 1))


def test_the_same_folder_by_another_path_is_decoded_once(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(save_tree(tmp_path / "images"))
    monkeypatch.chdir(tmp_path)
    for where in (tmp_path / "images", "images", "images/../images", "link", tmp_path / "link"):
        open_source(where)
        assert len(decoded) == 12


def test_orientation_counts_for_the_common_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 8)).save(tmp_path / name / "landscape.jpg")
        Image.new("RGB", (8, 16)).save(tmp_path / name / "turned.jpg", exif=exif)
    assert open_source(tmp_path).train[0][0].shape == (3, 8, 16)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_is_close_to_the_full_one(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:375, :500]
    waves = [127 + 100 * np.sin(rows / (9 + k) + columns / (20 - k)) for k in range(3)]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "large.jpg"
    Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).save(path, quality=95, exif=exif)
    sizes = []

    def convert(image: Image.Image, mode: str) -> Image.Image:
        sizes.append(image.size)
        return original(image, mode)

    original = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", convert)
    with Image.open(path) as image:
        reduced = decode_image(image, ImageFormat("RGB", (64, 64)))
    with Image.open(path) as image:
        image.load()  # too late to reduce
        full = decode_image(image, ImageFormat("RGB", (64, 64)))
    assert sizes == [(250, 188), (500, 375)]
    assert np.corrcoef(reduced.flatten(), full.flatten())[0, 1] > 0.995
