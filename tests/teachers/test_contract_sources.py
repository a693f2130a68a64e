"""Input contracts from flags, Hugging Face, timm and torchvision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset
from kd.teachers.contract import (
    InputContract,
)
from kd.teachers.contract_sources import PROCESSORS, read_contract
from tests.teachers.contracts import MEAN, STD, prepare


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["imagenet"], InputContract(MEAN, STD)),
        (["0.5"], InputContract((0.5,), (0.5,))),
        (["stored"], InputContract(std=(1 / 255,))),
        (["imagenet", "size=224", "crop=0.875"], InputContract(MEAN, STD, size=(224, 224), crop=0.875)),
        (["mean=0.1,0.2,0.3", "std=0.5", "size=3x4"], InputContract((0.1, 0.2, 0.3), (0.5,), size=(3, 4))),
        (["0-1", "channels=3", "order=bgr"], InputContract(channels=3, bgr=True)),
        (["data"], None),
    ],
)
def test_contracts_are_read_from_flags(items: list[str], expected: InputContract | None) -> None:
    assert read_contract(items) == expected


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["imagnet"], r"no teacher's inputs 'imagnet' \(--teacher-input\). Did you mean imagenet\?"),
        (["imagenet", "0.5"], "one name, then NAME=VALUE"),
        (["sise=3"], r"sise=3 is no part .* Did you mean size"),
        (["size=big"], "size=big .* must hold numbers"),
        (["size=0"], "size must be pixels per side from 1"),
        (["size=224", "crop=0.001"], "crop must be at least 0.0224 for this size"),
        (["imagenet", "crop=0.875"], "must be given with a size"),
        (["size=9", "crop=2"], r"crop must be in \(0, 1\]"),
        (["mean=1,2"], "mean must be one finite number, or one per channel"),
        (["std=0"], "std must be numbers above 0"),
        (["imagenet", "channels=1"], "channels must be 3, the number of values"),
        (["0.5", "channels=2"], "channels must be 1 or 3"),
        (["interpolation=cubic"], "interpolation must be one of bilinear"),
        (["data", "size=3"], "given alone"),
        (["torchvision:resnet1"], "no classifier 'resnet1'"),
        (["hf:nowhere"], "cannot read nowhere/preprocessor_config.json"),
    ],
)
def test_a_wrong_contract_is_refused(items: list[str], message: str) -> None:
    with pytest.raises((ValueError, DamagedDataError), match=message):
        read_contract(items)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}, "resample": 3},
            InputContract((0.5,) * 3, (0.5,) * 3, size=(224, 224), channels=3, interpolation="bicubic"),
        ),
        (
            {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 256}, "crop_size": 224},
            InputContract(MEAN, STD, size=(256, 256), channels=3),  # of BEiT, which crops only if its file says so
        ),
        (
            {"do_normalize": False, "do_center_crop": True, "size": 256, "crop_size": {"height": 224, "width": 224}},
            InputContract(size=(224, 224), channels=3, crop=0.875),
        ),
        ({"do_normalize": False, "size": 96}, InputContract((0.0,), (1.0,), size=(96, 96), channels=3)),
        (
            {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            InputContract(MEAN, STD, size=(224, 224), channels=3, crop=0.875),
        ),
    ],
)
def test_a_preprocessor_of_hugging_face_is_read(
    config: dict[str, Any], expected: InputContract, tmp_path: Path
) -> None:
    kind = "ConvNext" if "crop_pct" in config else "Beit"
    config = {"image_processor_type": f"{kind}ImageProcessor", **config}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    read = read_contract([f"hf:{tmp_path}"])
    assert read is not None
    torch.testing.assert_close((*read.mean, *read.std), (*expected.mean, *expected.std))
    assert (read.size, read.channels, read.crop) == (expected.size, expected.channels, expected.crop)
    assert read.interpolation == expected.interpolation


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("changes", [{}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"resample": 0}])
def test_the_processors_of_hugging_face_prepare_the_same(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{name}ImageProcessor")(**changes)
    processor.save_pretrained(tmp_path)
    contract = read_contract([f"hf:{tmp_path}"])
    assert contract is not None
    generator = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(2, 3, 40, 40, generator=generator), (300, 300), mode="bicubic")
    dataset = ArrayDataset((255 * smooth.clamp(0, 1)).to(torch.uint8), torch.zeros(2, dtype=torch.int64))
    expected = processor(list(dataset.inputs), return_tensors="pt")["pixel_values"]
    own = prepare(dataset, contract)
    assert own.shape == expected.shape
    step = 1 / 255 / min(contract.std)
    assert float((own - expected).abs().max()) < 2.5 * step  # processors round to bytes after scaling
    assert float((own - expected).abs().mean()) < 0.5 * step


@pytest.mark.parametrize("name", ["EfficientNetImageProcessor", "MobileViTImageProcessor", "LevitImageProcessor", None])
def test_other_processors_are_refused_by_name(name: str | None, tmp_path: Path) -> None:
    config = {"image_mean": MEAN, "image_std": STD, "size": 9} | ({"image_processor_type": name} if name else {})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(DamagedDataError, match=f"{name or 'without a type'} is not one of .* mean=… std=… size=…"):
        read_contract([f"hf:{tmp_path}"])


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"image_processor_type": "ViTImageProcessor", "do_normalize": false, "size": "large"}',
        '{"image_processor_type": "ViTImageProcessor", "do_normalize": false, "size": true}',
        '{"image_processor_type": "ViTImageProcessor", "do_normalize": false, "rescale_factor": 0}',
        '{"image_processor_type": "ViTImageProcessor", "image_mean": ["a"], "image_std": [1]}',
        '{"image_processor_type": "ViTImageProcessor"}',
        '{"image_processor_type": "ViTImageProcessor", "do_normalize": false}',
        '{"image_processor_type": "CLIPImageProcessor", "do_normalize": false, "size": 224}',
        '{"image_processor_type": "ConvNextImageProcessor", "do_normalize": false, "size": 224, "crop_pct": 0.001}',
        '{"image_processor_type": "ConvNextImageProcessor", "do_normalize": false, "size": 224, "crop_pct": 1e-320}',
        " " * 1_000_001,
    ],
)
def test_a_damaged_preprocessor_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(DamagedDataError, match="not the configuration of an image processor"):
        read_contract([f"hf:{tmp_path}"])


def test_timm_and_torchvision_state_their_contracts() -> None:
    weights = read_contract(["torchvision:resnet50.IMAGENET1K_V2"])
    assert weights == InputContract(MEAN, STD, size=(224, 224), crop=224 / 232)
    pytest.importorskip("timm")
    config = read_contract(["timm:vit_tiny_patch16_224"])
    assert config is not None
    assert (config.mean, config.size, config.channels) == ((0.5,) * 3, (224, 224), 3)
    with pytest.raises(ValueError, match=r"no model 'vit_tiny_patch16_224\.a1'.* Its weights: vit_tiny_patch16_224\."):
        read_contract(["timm:vit_tiny_patch16_224.a1"])
