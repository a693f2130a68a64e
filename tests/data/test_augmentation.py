"""Augmented images: random to the eye, and the same again for the same number, whatever is asked beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

import kd
from kd import cli
from kd.commands.data import load_data
from kd.commands.models import new_student, new_teachers
from kd.commands.settings import RunSettings
from kd.commands.steps import make_objective, require_method
from kd.data.augmentation import EVERY, AugmentedImages, augmentation
from kd.data.datasets import ArrayDataset, Split, collate
from kd.data.loaders import first_batch
from kd.data.views import one_view_each
from kd.models.networks import MLP
from kd.training.loop import fit
from kd.training.optimizers import adam

TOY = ("--limit", "200", "--epochs", "1", "--teacher", "mlp:16", "--student", "mlp:8")


def images(rows: int = 6, channels: int = 1) -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (rows, channels, 8, 8), dtype=torch.uint8, generator=generator)
    return ArrayDataset(stored, torch.arange(rows) % 3, mean=0.4, std=0.2)


def noisy(image: Tensor) -> Tensor:
    return image.float().div(255) + torch.rand(image.shape)


def views(**changed: object) -> AugmentedImages:
    given = {"dataset": images(), "transform": noisy, "views": 4, "seed": 0} | changed
    return AugmentedImages(given.pop("dataset"), given.pop("transform"), **given)  # type: ignore[arg-type]


@given(items=st.lists(st.integers(0, 23), min_size=1, max_size=8), seed=st.integers(0, 5))
def test_a_view_is_a_function_of_seed_sample_and_number(items: list[int], seed: int) -> None:
    dataset = views(seed=seed)
    before = torch.get_rng_state()
    torch.manual_seed(items[0])
    together = collate(dataset.__getitems__(items))[0]
    torch.manual_seed(7)
    for row, item in zip(together, items, strict=True):
        assert torch.equal(dataset[item][0], row)
    torch.set_rng_state(before)


def test_the_callers_randomness_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    views().__getitems__([0, 5])
    assert torch.equal(torch.get_rng_state(), before)


def test_views_samples_and_seeds_are_other_draws() -> None:
    drawn = [views(seed=seed)[item][0] for seed in (0, 1) for item in range(24)]
    means = {float(view.mean()) for view in drawn}
    assert len(means) == 48


def test_without_a_change_it_is_the_dataset_once_for_each_view() -> None:
    data = images()
    same = AugmentedImages(data, lambda image: image, views=3)
    assert len(same) == 18
    for item in range(18):
        view, label = same[item]
        image, own = data[item // 3]
        torch.testing.assert_close(view, image)
        assert label == own


def test_of_a_subset_only_its_rows_are_shown() -> None:
    data = images()
    for part in (Split(data, [4, 1]), Subset(data, [4, 1]), Subset(Split(data, [2, 4, 1]), [1, 2])):
        shown = AugmentedImages(part, lambda image: image, views=2)
        assert [label for _, label in (shown[item] for item in range(4))] == [1, 1, 1, 1]
        torch.testing.assert_close(shown[1][0], data[4][0])
        torch.testing.assert_close(shown[2][0], data[1][0])


def test_the_teachers_answer_to_each_view_can_be_kept_and_verified() -> None:
    teacher = MLP(8, input_shape=(1, 8, 8), classes=3)
    dataset = views()
    kept = kd.collect_logits(teacher, dataset)
    kd.verify_logits(teacher, dataset, kept)
    loader = one_view_each(kd.DistillDataset(dataset, kept.logits), 4, batch_size=6)
    inputs, _, logits = next(iter(loader))
    torch.testing.assert_close(teacher.eval()(inputs), logits)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", ["flip", "crop:2", "rotate:15", "zoom:0.5", "colour:0.3"])
def test_each_named_augmentation_changes_the_image_and_keeps_its_shape(spec: str, channels: int) -> None:
    data = images(channels=channels)
    made = AugmentedImages(data, augmentation([spec], (channels, 8, 8)), views=8)
    shown = collate(made.__getitems__(range(8)))[0]
    assert shown.shape == (8, channels, 8, 8)
    assert shown.isfinite().all()
    assert any(not torch.allclose(view, data[0][0]) for view in shown)


def test_the_named_ones_are_applied_one_after_another() -> None:
    twice = augmentation(["crop:2", "flip"], (1, 8, 8))
    image = images().inputs[0]
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        drawn.append(twice(image))
    assert len({bytes(one.numpy().tobytes()) for one in drawn}) > 10


def test_one_of_a_users_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("def invert(image):\n    return 255 - image\n")
    made = AugmentedImages(images(), augmentation([f"{tmp_path / 'mine.py'}:invert"], (1, 8, 8)), views=1)
    torch.testing.assert_close(made[0][0], (1 - images().inputs[0] / 255 - 0.4) / 0.2)
    assert "running its code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("flop", "Did you mean flip"),
        ("xyzzy", "There is flip, crop, rotate, zoom, colour, FILE.py:NAME"),
        ("flip:2", "--augment flip must be without a number"),
        ("crop", "--augment crop must be pixels, at least 1"),
        ("crop:1.5", "--augment crop must be pixels"),
        ("crop:two", "--augment crop must be pixels"),
        ("rotate:181", "--augment rotate must be degrees"),
        ("zoom:1", "--augment zoom must be a share"),
        ("colour:nan", "--augment colour must be a share"),
    ],
)
def test_what_is_no_augmentation_is_told(spec: str, expected: str) -> None:
    with pytest.raises(ValueError, match="augment") as raised:
        augmentation([spec], (1, 8, 8))
    assert expected in str(raised.value)


def test_what_cannot_be_augmented_is_told() -> None:
    floats = TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4))
    for data in (floats, ArrayDataset(torch.rand(4, 5), torch.arange(4))):
        with pytest.raises(ValueError, match="only images kept as bytes can be augmented"):
            AugmentedImages(data, noisy, views=2)
    with pytest.raises(ValueError, match="must leave the image's shape"):
        views(transform=lambda image: image[:, 1:])[0]
    with pytest.raises(ValueError, match="views must be"):
        views(views=0)


# --- in a run


def test_kept_views_are_verified_and_the_run_is_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*TOY, "--augment", "crop:2", "--augment", "rotate:10", "--views", "3")
    for folder in ("a", "b"):
        assert cli.main(["run", *flags, f"--out={tmp_path / folder}"]) == 0
    one, other = ((tmp_path / folder / "models/manifest.json").read_bytes() for folder in ("a", "b"))
    assert one == other
    assert "teacher logits: 560 rows" in capsys.readouterr().out  # 3 views of 180 images, and 20 to validate with
    assert json.loads((tmp_path / "a/results/metrics/metrics.json").read_bytes())["notes"] == []  # the same batches
    assert cli.main(["cache", "verify", f"--out={tmp_path / 'a'}"]) == 0
    assert "540 of 540 rows are what the saved teacher answers" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["kd", "dkd", "label-smoothing"])
def test_new_views_ask_the_teacher_at_each_step(method: str, tmp_path: Path) -> None:
    flags = (*TOY, "--augment", "crop:2", "--method", method)
    assert cli.main(["run", *flags, f"--out={tmp_path}"]) == 0
    assert not list(tmp_path.glob(".kd/steps/logits-*"))
    assert json.loads((tmp_path / "results/metrics/metrics.json").read_bytes())["notes"] == []


@pytest.mark.parametrize(("method", "own"), [("ctkd", 1), ("ofa", 15), ("dkd", 0)])
def test_what_a_method_trains_or_warms_up_does_so_with_new_views_too(method: str, own: int) -> None:
    settings = RunSettings(limit=200, augment=("crop:2",), method=method, student="cnn:4")
    data, cpu = load_data(settings), torch.device("cpu")
    student, teacher = new_student(settings, data.task, cpu), new_teachers(settings, data)[0].model
    objective: Any = make_objective(settings, student, teacher, data.train_loader)
    optimizer, _ = adam(student, learning_rate=0.01, steps=2, objective=objective)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == own + len(list(student.parameters()))
    before = [parameter.clone() for parameter in objective.parameters()]
    fit(student, objective, data.train_loader, None, optimizer=optimizer, epochs=2, seed=0)
    assert not any(torch.equal(one, other) for one, other in zip(before, objective.parameters(), strict=True))
    if method == "dkd":
        soft = []
        for epoch in (0, 23):
            objective.set_epoch(epoch, 24)
            soft.append(objective(student.eval(), first_batch(data.train_loader))[1]["soft"].item())
        assert 2 * soft[0] == pytest.approx(soft[1])


def test_the_layers_that_are_compared_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    settings = RunSettings(limit=200, method="at", student="cnn:4")
    data = load_data(settings)
    require_method(settings, data, new_teachers(settings, data))
    said = "layers compared, student – teacher: layer1 – conv2, layer2 – norm2, layer3 – norm3\n"
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.usefixtures("no_pool")
def test_a_comparison_trains_on_the_same_views_as_a_run(tmp_path: Path) -> None:
    for kept, flags in {"kept": ("--views", "3"), "live": ()}.items():
        both = (*TOY, "--augment", "crop:2", *flags, f"--out={tmp_path / kept}")
        few = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--processes", "1")
        assert cli.main(["run", *both]) == 0
        assert cli.main(["compare", *both, *few]) == 0
        students = (tmp_path / kept / "results/metrics/comparison_students.csv").read_text()
        if torch.get_num_threads() == 1:
            manifest = json.loads((tmp_path / kept / "models/manifest.json").read_bytes())["models"]
            for name in ("student_regular.pth", "student_distilled.pth"):
                assert manifest[name]["sha256"] in students, (kept, name)


def test_only_the_training_images_are_augmented() -> None:
    data = load_data(RunSettings(limit=200, augment=("crop:2",)))
    assert (data.sizes["training"], data.views) == (180, EVERY)
    plain = load_data(RunSettings(limit=200))
    for one, other in ((data.val_loader, plain.val_loader), (data.test_loader, plain.test_loader)):
        assert torch.equal(next(iter(one))[0], next(iter(other))[0])
    assert len(data.train_loader) == len(plain.train_loader)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--views", "3"), "--views must be left out"),
        (("--augment", "flip", "--views", "0"), "--views must be None or a whole number of at least 1"),
        (("--augment", "flip", "--method", "crd"), "left out with --method crd"),
        (("--augment", "flip", "--unlabelled", "more"), "left out with --unlabelled"),
        (("--augment", "flip", "--teacher", "logits=a.npy"), "left out with a teacher of answers alone"),
    ],
)
def test_what_does_not_go_with_it_is_told_at_once(
    flags: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["run", *flags])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_table_is_not_augmented(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["run", "--data", "sklearn:wine", "--augment", "flip", f"--out={tmp_path}"]) == 1
    assert "the data are no images, but of shape [13]" in capsys.readouterr().err
