"""Augmentation: views look random but are reproducible from seed, sample and view number, in any batch."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

import kd
from kd import cli
from kd.commands.before_training import require_models
from kd.commands.data import load_data
from kd.commands.models import new_student, new_teachers
from kd.commands.settings import RunSettings
from kd.commands.steps import make_objective
from kd.data.augmentation import EVERY, AugmentedImages, augmentation
from kd.data.datasets import ArrayDataset, Split, collate
from kd.data.loaders import first_batch, seed_loader
from kd.data.views import one_view_each
from kd.models.networks import MLP
from kd.training.loop import fit
from kd.training.optimizers import adam

QUICK = ("--limit", "200", "--epochs", "1", "--teacher", "mlp:16", "--student", "mlp:8")


def make_images(rows: int = 6, channels: int = 1) -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (rows, channels, 8, 8), dtype=torch.uint8, generator=generator)
    return ArrayDataset(stored, torch.arange(rows) % 3, mean=0.4, std=0.2)


def add_noise(image: Tensor) -> Tensor:
    return image.float().div(255) + torch.rand(image.shape)


def make_views(**changed: object) -> AugmentedImages:
    arguments = {"dataset": make_images(), "transform": add_noise, "views": 4, "seed": 0} | changed
    return AugmentedImages(arguments.pop("dataset"), arguments.pop("transform"), **arguments)  # type: ignore[arg-type]


@given(items=st.lists(st.integers(0, 23), min_size=1, max_size=8), seed=st.integers(0, 5))
def test_a_view_depends_on_seed_sample_and_view_number_only(items: list[int], seed: int) -> None:
    dataset = make_views(seed=seed)
    before = torch.get_rng_state()
    torch.manual_seed(items[0])
    batch = collate(dataset.__getitems__(items))[0]
    torch.manual_seed(7)
    for row, item in zip(batch, items, strict=True):
        assert torch.equal(dataset[item][0], row)
    torch.set_rng_state(before)


def test_the_callers_random_state_is_restored() -> None:
    before = torch.get_rng_state()
    make_views().__getitems__([0, 5])
    assert torch.equal(torch.get_rng_state(), before)


def test_different_views_samples_and_seeds_draw_differently() -> None:
    drawn = [make_views(seed=seed)[item][0] for seed in (0, 1) for item in range(24)]
    means = {float(view.mean()) for view in drawn}
    assert len(means) == 48


def test_an_identity_transform_repeats_each_sample_per_view() -> None:
    data = make_images()
    augmented = AugmentedImages(data, lambda image: image, views=3)
    assert len(augmented) == 18
    for item in range(18):
        view, label = augmented[item]
        image, image_label = data[item // 3]
        torch.testing.assert_close(view, image)
        assert label == image_label


def test_a_subset_yields_only_its_rows() -> None:
    data = make_images()
    for subset in (Split(data, [4, 1]), Subset(data, [4, 1]), Subset(Split(data, [2, 4, 1]), [1, 2])):
        augmented = AugmentedImages(subset, lambda image: image, views=2)
        assert [label for _, label in (augmented[item] for item in range(4))] == [1, 1, 1, 1]
        torch.testing.assert_close(augmented[1][0], data[4][0])
        torch.testing.assert_close(augmented[2][0], data[1][0])


def test_teacher_logits_of_views_can_be_cached_and_verified() -> None:
    teacher = MLP(8, input_shape=(1, 8, 8), classes=3)
    dataset = make_views()
    cached = kd.collect_logits(teacher, dataset)
    kd.verify_logits(teacher, dataset, cached)
    loader = one_view_each(kd.DistillDataset(dataset, cached.logits), 4, batch_size=6)
    inputs, _, logits = next(iter(loader))
    torch.testing.assert_close(teacher.eval()(inputs), logits)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "spec",
    [
        *("flip", "crop:2", "rotate:15", "zoom:0.5", "colour:0.3", "randaugment", "trivialaugment"),
        *("erasing", "erasing:1"),
    ],
)
def test_each_named_augmentation_changes_the_image_and_keeps_its_shape(spec: str, channels: int) -> None:
    data = make_images(channels=channels)
    augmented = AugmentedImages(data, augmentation([spec], (channels, 8, 8)), views=8)
    batch = collate(augmented.__getitems__(range(8)))[0]
    assert batch.shape == (8, channels, 8, 8)
    assert batch.isfinite().all()
    assert any(not torch.allclose(view, data[0][0]) for view in batch)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", ["randaugment", "trivialaugment", "erasing"])
def test_a_random_policy_draws_the_same_view_in_any_batch_and_process(spec: str, channels: int) -> None:
    data = make_images(channels=channels)
    views = AugmentedImages(data, augmentation([spec], (channels, 8, 8)), views=16)
    batch = collate(views.__getitems__(range(96)))[0]
    assert len({view.numpy().tobytes() for view in batch[:16]}) > 4
    torch.manual_seed(7)
    for item in reversed(range(96)):
        assert torch.equal(views[item][0], batch[item])
    alone, shared = (one_view_each(views, 16, batch_size=3, workers=workers) for workers in (0, 2))
    for loader in (alone, shared):
        seed_loader(loader, seed=0, epoch=3)
    pairs = list(zip(alone, shared, strict=True))
    assert len(pairs) == 2
    assert all(torch.equal(first[0], second[0]) for first, second in pairs)


def test_erasing_blackens_with_its_probability() -> None:
    data = ArrayDataset(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    for spec, low, high in (("erasing:1", 300, 300), ("erasing", 110, 190), ("erasing:0.1", 10, 60)):
        views = AugmentedImages(data, augmentation([spec], (1, 8, 8)), views=300)
        erased = sum(bool((view == 0).any()) for view in collate(views.__getitems__(range(300)))[0])
        assert low <= erased <= high


@pytest.mark.parametrize("spec", ["colour:0.2", "randaugment", "trivialaugment"])
def test_changes_of_colour_need_1_or_3_channels(spec: str) -> None:
    with pytest.raises(ValueError, match=r"must be used with images of 1 or 3 channels\. Got '2 channels'"):
        augmentation([spec], (2, 8, 8))
    augmentation(["flip", "crop:1", "erasing"], (2, 8, 8))


def test_named_augmentations_are_composed() -> None:
    transform = augmentation(["crop:2", "flip"], (1, 8, 8))
    image = make_images().inputs[0]
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        drawn.append(transform(image))
    assert len({bytes(view.numpy().tobytes()) for view in drawn}) > 10


def test_a_transform_from_a_users_file_is_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("def invert(image):\n    return 255 - image\n")
    augmented = AugmentedImages(make_images(), augmentation([f"{tmp_path / 'mine.py'}:invert"], (1, 8, 8)), views=1)
    torch.testing.assert_close(augmented[0][0], (1 - make_images().inputs[0] / 255 - 0.4) / 0.2)
    assert "running its code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("flop", "Did you mean flip"),
        ("xyzzy", "flip, crop, rotate, zoom, colour, randaugment, trivialaugment, erasing, FILE.py:NAME"),
        ("flip:2", "--augment flip must be given without a number"),
        ("crop", "--augment crop must be given a whole number of pixels from 1 to "),
        ("crop:100", "--augment crop must be given a whole number of pixels from 1 to 7"),  # most crops would be black
        ("crop:1.5", "--augment crop must be given a whole number of pixels"),
        ("crop:two", "--augment crop must be given a whole number of pixels"),
        ("rotate:181", "--augment rotate must be given degrees"),
        ("zoom:1", "--augment zoom must be given a fraction"),
        ("randaugmnt", "Did you mean randaugment"),
        ("trivial", "Did you mean trivialaugment"),
        ("randaugment:9", "--augment randaugment must be given without a number"),
        ("trivialaugment:1", "--augment trivialaugment must be given without a number"),
        ("erasing:0", "--augment erasing must be given no number or a probability in (0, 1]"),
        ("erasing:1.1", "--augment erasing must be given no number or a probability in (0, 1]"),
        ("erasing:nan", "--augment erasing must be given no number or a probability in (0, 1]"),
        ("colour:nan", "--augment colour must be given a fraction"),
    ],
)
def test_unknown_or_invalid_augmentations_raise(spec: str, expected: str) -> None:
    with pytest.raises(ValueError, match="augment") as raised:
        augmentation([spec], (1, 8, 8))
    assert expected in str(raised.value)


def test_unsupported_data_or_transforms_raise() -> None:
    floats = TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4))
    for data in (floats, ArrayDataset(torch.rand(4, 5), torch.arange(4))):
        with pytest.raises(ValueError, match="augmentation needs images stored as uint8"):
            AugmentedImages(data, add_noise, views=2)
    with pytest.raises(ValueError, match=r"must keep the image's shape \[1, 8, 8\]. Got \[1, 7, 8\]"):
        make_views(transform=lambda image: image[:, 1:])[0]
    with pytest.raises(ValueError, match=r"must return a tensor\. Got a ndarray"):
        make_views(transform=lambda image: image.numpy())
    with pytest.raises(ValueError, match="views must be"):
        make_views(views=0)


OTHER = {
    "of Python": random.Random(0).random,
    "of NumPy": np.random.default_rng(0).random,
    "a counter": iter(range(99)).__next__,
}


@pytest.mark.parametrize("draw", OTHER.values(), ids=OTHER)
def test_a_transform_that_draws_from_another_generator_is_refused(draw: Callable[[], float]) -> None:
    """Otherwise the control would see other images than the distilled student."""
    with pytest.raises(ValueError, match=r"the same view for the same seed.* draw from torch's global generator"):
        make_views(transform=lambda image: (image * (1 + draw())).to(torch.uint8))


# --- in a run


@pytest.mark.slow
def test_cached_views_are_verified_and_a_repeated_run_is_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*QUICK, "--augment", "crop:2", "--augment", "rotate:10", "--views", "3")
    for folder in ("a", "b"):
        assert cli.main(["run", *flags, f"--out={tmp_path / folder}"]) == 0
    first, second = ((tmp_path / folder / "models/manifest.json").read_bytes() for folder in ("a", "b"))
    assert first == second
    assert (
        "teacher logits: 560 rows" in capsys.readouterr().out
    )  # 3 views of 180 training images, and 20 validation images
    assert (
        json.loads((tmp_path / "a/results/metrics/metrics.json").read_bytes())["notes"] == []
    )  # no note: both students saw the same batches
    assert cli.main(["cache", "verify", f"--out={tmp_path / 'a'}"]) == 0
    assert "540 of 540 rows match the saved teacher" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["kd", "dkd", "label-smoothing"])
def test_fresh_views_need_no_cached_logits(method: str, tmp_path: Path) -> None:
    flags = (*QUICK, "--augment", "crop:2", "--method", method)
    assert cli.main(["run", *flags, f"--out={tmp_path}"]) == 0
    assert not list(tmp_path.glob(".kd/steps/logits-*"))
    assert json.loads((tmp_path / "results/metrics/metrics.json").read_bytes())["notes"] == []


@pytest.mark.parametrize(("method", "objective_parameters"), [("ctkd", 1), ("ofa", 15), ("dkd", 0)])
def test_trained_parameters_and_warm_up_of_a_method_work_with_fresh_views(
    method: str, objective_parameters: int
) -> None:
    settings = RunSettings(limit=200, augment=("crop:2",), method=method, student="cnn:4")
    data, cpu = load_data(settings), torch.device("cpu")
    student, teacher = new_student(settings, data.task, cpu), new_teachers(settings, data)[0].model
    objective: Any = make_objective(settings, student, teacher, data.train_loader)
    optimizer, _ = adam(student, learning_rate=0.01, steps=2, objective=objective)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == objective_parameters + len(
        list(student.parameters())
    )
    before = [parameter.clone() for parameter in objective.parameters()]
    fit(student, objective, data.train_loader, None, optimizer=optimizer, epochs=2, seed=0)
    assert not any(torch.equal(old, new) for old, new in zip(before, objective.parameters(), strict=True))
    if method == "dkd":
        soft = []
        for epoch in (0, 23):
            objective.set_epoch(epoch, 24)
            soft.append(objective(student.eval(), first_batch(data.train_loader))[1]["soft"].item())
        assert 2 * soft[0] == pytest.approx(soft[1])


def test_compared_layers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    settings = RunSettings(limit=200, method="at", student="cnn:4")
    data = load_data(settings)
    require_models(settings, data, new_teachers(settings, data))
    expected = "layers compared, student – teacher: layer1 – conv2, layer2 – norm2, layer3 – norm3\n"
    assert capsys.readouterr().out.endswith(expected)


@pytest.mark.usefixtures("no_pool")
@pytest.mark.slow
def test_a_comparison_trains_on_the_same_views_as_a_run(tmp_path: Path) -> None:
    for mode, flags in {"cached": ("--views", "3"), "live": ()}.items():
        both = (*QUICK, "--augment", "crop:2", *flags, f"--out={tmp_path / mode}")
        few = ("--pairs", "2", "--smoothing", "0", "--no-longer", "--processes", "1")
        assert cli.main(["run", *both]) == 0
        assert cli.main(["compare", *both, *few]) == 0
        students = (tmp_path / mode / "results/metrics/comparison_students.csv").read_text()
        if torch.get_num_threads() == 1:
            manifest = json.loads((tmp_path / mode / "models/manifest.json").read_bytes())["models"]
            for name in ("student_regular.pth", "student_distilled.pth"):
                assert manifest[name]["sha256"] in students, (mode, name)


def test_only_the_training_images_are_augmented() -> None:
    data = load_data(RunSettings(limit=200, augment=("crop:2",)))
    assert (data.sizes["training"], data.views) == (180, EVERY)
    plain = load_data(RunSettings(limit=200))
    for loader, plain_loader in ((data.val_loader, plain.val_loader), (data.test_loader, plain.test_loader)):
        assert torch.equal(next(iter(loader))[0], next(iter(plain_loader))[0])
    assert len(data.train_loader) == len(plain.train_loader)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--views", "3"), "--views must be omitted"),
        (("--augment", "flip", "--views", "0"), "--views must be None or an integer of at least 1"),
        (("--augment", "flip", "--method", "crd"), "omitted with --method crd"),
        (("--augment", "flip", "--unlabelled", "more"), "omitted with --unlabelled"),
        (("--augment", "flip", "--teacher", "logits=a.npy"), "omitted with a teacher of precomputed outputs"),
    ],
)
def test_incompatible_flags_raise_immediately(
    flags: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["run", *flags])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_table_is_not_augmented(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["run", "--data", "sklearn:wine", "--augment", "flip", f"--out={tmp_path}"]) == 1
    assert "the inputs are not images but have shape [13]" in capsys.readouterr().err
