"""A teacher gets its inputs exactly as it was trained on, whatever the data's own normalisation is."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from kd.data.datasets import ArrayDataset
from kd.models.features import capture
from kd.storage.fingerprint import describe
from kd.teachers.contract import (
    InputContract,
    InputScale,
    OwnInputs,
    contract_of,
    find_scale,
    require_contract_fits,
    require_range,
)
from kd.teachers.contract_sources import read_contract
from kd.teachers.input_scale import choose_scale
from tests.teachers.contracts import MEAN, STD, prepare


def images(channels: int, side: int = 9, count: int = 256) -> ArrayDataset:
    """Return random images that contain every byte, normalised with their statistics."""
    stored = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0))
    stored[:, 0, 0, 0] = torch.arange(count)
    labels = torch.zeros(count, dtype=torch.int64)
    moments = (
        torch.linspace(0.2, 0.7, channels).reshape(-1, 1, 1),
        torch.linspace(0.01, 0.3, channels).reshape(-1, 1, 1),
    )
    return ArrayDataset(stored.to(torch.uint8), labels, mean=moments[0], std=moments[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stored_bytes_are_restored_exactly(channels: int) -> None:
    dataset = images(channels)
    assert torch.equal(prepare(dataset, InputContract()), dataset.inputs.float() / 255)


def test_float_inputs_are_restored_within_rounding() -> None:
    stored = 100 * torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    table = ArrayDataset(stored, torch.zeros(50, dtype=torch.int64), mean=stored.mean(0), std=stored.std(0))
    torch.testing.assert_close(prepare(table, InputContract()), stored)


@pytest.mark.slow  # imports torchvision
def test_an_rgb_teacher_sees_what_torchvision_prepares() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    dataset = images(3, side=40, count=256)
    pipeline = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(24),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(MEAN, STD),
        ]
    )
    expected = pipeline(dataset.inputs)
    own = prepare(dataset, InputContract(MEAN, STD, size=(24, 24), crop=0.75))
    assert own.shape == expected.shape
    assert float((own - expected).abs().max()) < 1.5 / 255 / min(STD)  # torchvision rounds to bytes, twice


def test_images_at_the_teachers_size_are_only_cropped() -> None:
    dataset = images(3, side=32)
    own = prepare(dataset, InputContract(size=(24, 24), crop=0.75))
    assert torch.equal(own, dataset.inputs[:, :, 4:28, 4:28].float() / 255)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_float_images_of_any_range_are_scaled_like_bytes(interpolation: str) -> None:
    dataset = images(3, side=9, count=256)
    floats = ArrayDataset(dataset.inputs.float(), dataset.labels)
    contract = InputContract(size=(12, 12), interpolation=interpolation)
    own, expected = prepare(floats, contract), 255 * prepare(dataset, contract)
    inside = (expected > 0) & (expected < 255)
    assert float(inside.float().mean()) > 0.9
    ranges = dataset.inputs.amin((1, 2, 3), True), dataset.inputs.amax((1, 2, 3), True)
    torch.testing.assert_close(own, expected.clamp(*ranges), atol=1e-3, rtol=0)


def test_a_scale_of_images_up_to_1_is_refused_for_floats_up_to_255() -> None:
    stored = torch.zeros(400, 3, 2, 2)
    stored[200:] = 200.0  # the first images say nothing about the range
    floats = ArrayDataset(stored, torch.zeros(400, dtype=torch.int64))
    for name in ("0-1", "0-255", "imagenet"):
        contract = read_contract([name], is_bytes=False)
        assert contract is not None
        with pytest.raises(ValueError, match=r"stored as numbers from 0 to 200\. .* or stored if"):
            require_range(contract, floats)
        require_range(contract, ArrayDataset(stored / 255, floats.labels))
    for items in (["stored"], ["mean=0", "std=255"], ["mean=120", "std=60"]):
        allowed = read_contract(items, is_bytes=False)
        assert allowed is not None
        require_range(allowed, floats)


def test_weights_of_another_contract_are_refused() -> None:
    scale = find_scale(images(3))
    assert scale is not None
    one, two = (OwnInputs(nn.Conv2d(3, 2, 1), InputContract(size=(side, side)), scale) for side in (4, 5))
    one.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match=r'"size": \[4, 4\].* but the teacher has .*"size": \[5, 5\]'):
        two.load_state_dict(one.state_dict())


def test_grey_becomes_rgb_and_rgb_grey() -> None:
    grey, colour = images(1), images(3)
    repeated = prepare(grey, InputContract(MEAN, STD))
    back = repeated * torch.tensor(STD).reshape(3, 1, 1) + torch.tensor(MEAN).reshape(3, 1, 1)
    torch.testing.assert_close(back, (grey.inputs.float() / 255).expand(-1, 3, -1, -1))
    luma = prepare(colour, InputContract(channels=1))
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    torch.testing.assert_close(luma, (colour.inputs.float() / 255 * weights).sum(1, keepdim=True))
    flipped = prepare(colour, InputContract(bgr=True, channels=3))
    assert torch.equal(flipped, (colour.inputs.float() / 255).flip(1))


def test_the_contract_is_in_the_weights_and_in_the_keys() -> None:
    scale = find_scale(images(3))
    assert scale is not None
    network = nn.Conv2d(3, 2, 1)
    one, two = (OwnInputs(network, InputContract(size=(side, side)), scale) for side in (4, 5))
    assert json.loads(bytes(one.state_dict()["contract"].tolist()))["size"] == [4, 4]
    assert describe(one)["weights"] != describe(two)["weights"]
    assert contract_of(nn.Sequential(one)) == InputContract(size=(4, 4))
    assert contract_of(nn.Sequential(one, two)) is None


def test_layers_of_the_network_keep_their_names() -> None:
    scale = find_scale(images(3))
    assert scale is not None
    model = OwnInputs(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), InputContract(), scale)
    with capture(model, "0") as features:
        model(torch.zeros(1, 3, 9, 9))
    assert features["0"].shape == (1, 2, 9, 9)


@pytest.mark.parametrize(
    ("contract", "shape", "message"),
    [
        (InputContract(MEAN, STD), (2, 8, 8), "channels must be 2, like the data's"),
        (InputContract(MEAN, STD), (13,), "inputs that are not images"),
        (InputContract((0.5,), (0.5,)), (13,), "inputs that are not images"),
        (InputContract(size=(8, 8)), (13,), "inputs that are not images"),
    ],
)
def test_a_contract_that_does_not_fit_the_data_is_refused(
    contract: InputContract, shape: tuple[int, ...], message: str
) -> None:
    scale = InputScale(torch.zeros(()), torch.ones(()), is_bytes=False, is_image=len(shape) == 3)
    with pytest.raises(ValueError, match=message):
        require_contract_fits(contract, shape, scale)


class Shade(nn.Module):
    """Classifies images of one shade, stored as 40 · class + 20, from inputs of its own scale."""

    def __init__(self, contract: InputContract) -> None:
        super().__init__()
        self.contract = contract

    def forward(self, inputs: Tensor) -> Tensor:
        moments = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.contract.mean, self.contract.std))
        mean, std = moments
        shade = (255 * (inputs * std + mean)).mean(dim=(1, 2, 3), keepdim=True).flatten(1)
        return -((shade - (40 * torch.arange(5) + 20)) ** 2) / 400


def shades(channels: int, *, as_float: float = 0) -> ArrayDataset:
    labels = torch.arange(300) % 5
    noise = torch.randint(0, 9, (300, channels, 4, 4), generator=torch.Generator().manual_seed(2))
    stored = 40 * labels.reshape(-1, 1, 1, 1) + 16 + noise
    inputs = stored.float() * as_float if as_float else stored.to(torch.uint8)
    unit = as_float * 255 if as_float else 1.0
    return ArrayDataset(inputs, labels, mean=0.37 * unit, std=0.22 * unit)


CONTRACTS = {
    "0-1": InputContract(),
    "0.5": InputContract((0.5,), (0.5,)),
    "0-255": InputContract(std=(1 / 255,)),
    "imagenet": InputContract(MEAN, STD),
}


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("as_float", [0, 1, 1 / 255])
def test_the_scale_of_a_loaded_teacher_is_found(name: str, as_float: float) -> None:
    dataset, network = shades(3, as_float=as_float), Shade(CONTRACTS[name])
    choice = choose_scale(network, dataset)
    assert choice.contract is not None
    assert choice.accuracy == 1 > choice.own_accuracy
    scale = find_scale(dataset)
    assert scale is not None
    inputs = dataset.__getitems__(range(20)).tensors[0]
    right = OwnInputs(network, choice.contract, scale)(inputs).argmax(1) == dataset.labels[:20]
    assert right.all()


@pytest.mark.parametrize(("mean", "std"), [(0.1307, 0.3081), (0.286, 0.353)])
def test_the_scales_of_mnist_and_fashion_mnist_are_tried_on_images_with_one_channel(mean: float, std: float) -> None:
    contract = InputContract((mean,), (std,))
    assert choose_scale(Shade(contract), shades(1)).contract == contract


@pytest.mark.parametrize("white", [16.0, 4095.0])
def test_images_of_another_range_are_scaled_by_their_largest_value(white: float) -> None:
    dataset = shades(1, as_float=white / 184)  # the largest shade
    choice = choose_scale(Shade(InputContract(std=(184 / 255,))), dataset)
    assert choice.contract == InputContract(std=(white,), name=f"mean=0 std={white:g}")
    assert choice.accuracy == 1 > choice.own_accuracy


class Red(Shade):
    """Classifies images by their red, the last channel of BGR."""

    def forward(self, inputs: Tensor) -> Tensor:
        moments = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.contract.mean, self.contract.std))
        mean, std = moments
        shade = (255 * (inputs * std + mean))[:, 2].mean(dim=(1, 2))[:, None]
        return -((shade - (40 * torch.arange(5) + 20)) ** 2) / 400


@pytest.mark.parametrize(
    "contract",
    [InputContract(MEAN, STD), InputContract(MEAN[::-1], STD[::-1]), InputContract(), InputContract((0.37,), (0.22,))],
)
def test_the_order_bgr_of_a_loaded_teacher_is_found(contract: InputContract) -> None:
    grey = shades(3)
    dataset = ArrayDataset(grey.inputs.clone(), grey.labels, mean=0.37, std=0.22)
    dataset.inputs[:, 2] = 196 - dataset.inputs[:, 2]  # another class by its blue
    choice = choose_scale(Red(contract), dataset)
    assert choice.accuracy == 1 > choice.own_accuracy
    assert choice.contract is not None
    assert (choice.contract.bgr, choice.contract.mean) == (True, contract.mean) or choice.contract.mean[0] == 0.37
    used = read_contract(choice.contract.name.split())
    assert used is not None
    assert used.bgr


def test_a_teacher_of_the_datas_own_scale_is_left_alone() -> None:
    choice = choose_scale(Shade(InputContract((0.37,), (0.22,))), shades(1))
    assert choice.contract is None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    assert choose_scale(untrained, shades(1)).contract is None


def test_the_class_order_of_the_teacher_counts() -> None:
    network = Shade(InputContract())
    swapped = nn.Sequential(network, Flip())
    assert choose_scale(swapped, shades(1), members=[[4], [3], [2], [1], [0]]).accuracy == 1
    assert choose_scale(swapped, shades(1)).contract is None


class Flip(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.flip(1)


def test_a_teacher_of_a_table_as_it_is_stored() -> None:
    generator = torch.Generator().manual_seed(3)
    stored = torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 30.0, 0.1, 5.0]) + 50
    labels = (stored[:, 1] > 50).long()
    table = ArrayDataset(stored, labels, mean=stored.mean(0), std=stored.std(0))

    class Threshold(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.stack([50 - inputs[:, 1], inputs[:, 1] - 50], dim=1)

    choice = choose_scale(Threshold(), table)
    assert choice.contract == InputContract()
    assert choice.accuracy == 1
    assert "numbers, as they are stored (100.0% of 200 training items;" in choice.describe("training items")
