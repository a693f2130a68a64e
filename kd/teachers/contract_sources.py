"""Input contracts from where they are written down: names of usual scales, timm, torchvision, Hugging Face, or values.

read_contract(["imagenet", "size=224", "crop=0.875"])
read_contract(["hf:folder"])                     # folder/preprocessor_config.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.checks import DamagedDataError, did_you_mean, require
from kd.imports import import_extra
from kd.teachers.contract import InputContract

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
USUAL: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0-1": ((0.0,), (1.0,)),
    "0.5": ((0.5,), (0.5,)),
    "0-255": ((0.0,), (1 / 255,)),
    "imagenet": IMAGENET,
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
GREY: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # of images with one channel
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
}
IN_WORDS = {
    "0-1": "numbers in [0, 1]",
    "0.5": "numbers in [-1, 1]",
    "0-255": "numbers in [0, 255]",
    "imagenet": "images of ImageNet",
    "cifar": "images of CIFAR-10",
    "clip": "images of CLIP",
    "mnist": "images of MNIST",
    "fashion-mnist": "images of Fashion-MNIST",
    "stored": "numbers, as they are stored",
}
DATA = "data"  # the data's own normalisation: no contract
CONFIG = "preprocessor_config.json"
_KEYS = ("mean", "std", "size", "crop", "channels", "interpolation", "order")
_ALLOWED = (
    f"data, stored, {', '.join([*USUAL, *GREY])}, timm:NAME, torchvision:NAME, hf:FOLDER, or values such as "
    "mean=0.5,0.5,0.5 std=0.25,0.25,0.25 size=224 crop=0.875 channels=3 interpolation=bicubic order=bgr"
)
# Image processors of Hugging Face whose files describe them completely (each one is tested).
# Others compute more: EfficientNet divides by image_std twice, LeViT scales by 256/224, PoolFormer crops otherwise.
PROCESSORS = ("ViT", "Beit", "DeiT", "ConvNext", "Bit", "Pvt", "CLIP", "MobileNetV2", "Siglip")
_CROPPING = ("DeiT", "CLIP", "Bit", "MobileNetV2")  # those that crop unless their file says otherwise
_MOST_BYTES = 1_000_000  # of the file of an image processor
_PIL_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of Pillow's filters in Hugging Face's files


def read_contract(items: Sequence[str], *, is_bytes: bool = True) -> InputContract | None:
    """Return the contract that these items describe; None for the data's own normalisation.

    Args:
        items: at most one name, and values that complete or replace parts of it; see ``docs/models.md``.
        is_bytes: whether the data are bytes, which ``stored`` then keeps as numbers from 0 to 255.

    Raises:
        ValueError: an unknown or repeated item, or a value outside its range.
        OSError, MissingExtraError: a file or a library is missing.
    """
    names = [item for item in items if "=" not in item]
    require(len(names) <= 1, "the teacher's inputs (--teacher-input)", " ".join(items), "one name, then NAME=VALUE")
    if names == [DATA]:
        require(len(items) == 1, "data (--teacher-input)", " ".join(items), "given alone", "it changes nothing")
        return None
    values: dict[str, Any] = _read_name(names[0], is_bytes=is_bytes) if names else {}
    for item in items:
        key, sign, text = item.partition("=")
        if sign:
            values |= _read_value(key, text)
    if values.get("bgr"):
        values.setdefault("channels", 3)  # an order is one of three
    shown = " ".join(items)
    is_cut = values.get("crop", 1.0) != 1.0 and values.get("size") is None
    require(
        not is_cut, "crop (--teacher-input)", values.get("crop"), "given with a size", "such as size=224 crop=0.875"
    )
    return InputContract(**values | {"name": shown})


def _read_name(name: str, *, is_bytes: bool) -> dict[str, Any]:
    kind, colon, rest = name.partition(":")
    if name == "stored":
        return {"mean": (0.0,), "std": (1 / 255 if is_bytes else 1.0,)}
    if name in USUAL or name in GREY:
        mean, std = (USUAL | GREY)[name]
        return {"mean": mean, "std": std}
    if colon and rest and kind in ("timm", "torchvision", "hf"):
        return {"timm": _read_timm, "torchvision": _read_torchvision, "hf": read_preprocessor}[kind](rest)
    hint = did_you_mean(name, [DATA, "stored", *USUAL, *GREY])
    raise ValueError(f"there are no teacher's inputs {name!r} (--teacher-input). {hint} Allowed: {_ALLOWED}.")


def _read_value(key: str, text: str) -> dict[str, Any]:
    try:
        match key:
            case "mean" | "std":
                return {key: tuple(float(part) for part in text.split(","))}
            case "size":
                sides = [int(side) for side in text.split("x")]
                require(len(sides) in (1, 2), "size", text, "SIDE or HEIGHTxWIDTH")
                return {"size": (sides[0], sides[-1])}
            case "crop":
                return {"crop": float(text)}
            case "channels":
                return {"channels": int(text)}
            case "interpolation":
                return {"interpolation": text}
            case "order" if text in ("rgb", "bgr"):
                return {"bgr": text == "bgr"}
    except ValueError as error:
        raise ValueError(f"{key}={text} (--teacher-input) must hold numbers, such as size=224: {error}.") from error
    hint = did_you_mean(key, _KEYS)
    raise ValueError(f"{key}={text} is no part of the teacher's inputs (--teacher-input). {hint} Allowed: {_ALLOWED}.")


def _read_timm(name: str) -> dict[str, Any]:
    """Return the contract in timm's ``pretrained_cfg`` of a model."""
    timm = import_extra("timm", library="timm", name="timm", needed_for=f"timm:{name}")
    model, _, tag = name.partition(".")
    known = timm.list_models()
    tags = timm.list_pretrained(f"{model}.*") if model in known else []
    if model not in known or (tag and name not in tags):
        hint = did_you_mean(name, tags) if tags else did_you_mean(model, known)
        listed = f" Its weights: {', '.join(tags[:8])}{' and others' if len(tags) > 8 else ''}." if tags else ""
        raise ValueError(f"timm has no model {name!r} with an input contract. {hint}{listed} Or give mean=… and std=….")
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ValueError(f"timm has no model {name!r} with an input contract. Give its mean=… and std=….")
    channels, height, width = config.input_size
    interpolation = config.interpolation if config.interpolation in ("bilinear", "bicubic", "nearest") else "bicubic"
    return {
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "size": (height, width),
        "crop": 1.0 if config.crop_mode == "squash" else float(config.crop_pct or 0.875),
        "channels": channels if channels in (1, 3) else 0,
        "interpolation": interpolation,
    }


def _read_torchvision(name: str) -> dict[str, Any]:
    """Return the contract in the metadata of weights: the default ones of a model, or ``MODEL.WEIGHTS`` by name."""
    from torchvision import models  # slow, so only if needed

    model, _, entry = name.partition(".")
    if model not in models.list_models(module=models):
        hint = did_you_mean(model, models.list_models(module=models))
        raise ValueError(f"torchvision has no classifier {model!r}. {hint}".rstrip())
    weights = models.get_model_weights(model)
    known = [member.name for member in weights]
    require(entry in ("", "DEFAULT", *known), f"the weights of {model}", entry, f"one of {', '.join(known)}")
    transform = weights[entry or "DEFAULT"].transforms()
    crop, resize = int(transform.crop_size[0]), int(transform.resize_size[0])
    return {
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
        "size": (crop, crop),
        "crop": min(1.0, crop / resize),
        "interpolation": transform.interpolation.value,
    }


def read_preprocessor(folder: str) -> dict[str, Any]:
    """Return the contract in the ``preprocessor_config.json`` of a local folder, as arguments of ``InputContract``.

    Raises:
        DamagedDataError: there is no such file, or it is not JSON of an image processor.
    """
    file = Path(folder) / CONFIG
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it holds more than {_MOST_BYTES:,} bytes")
        config = json.loads(text.decode())
        if not isinstance(config, dict):
            raise ValueError("it should hold an object")
        values = _from_preprocessor(config)
        InputContract(**values)
        return values
    except OSError as error:
        raise DamagedDataError(f"cannot read {file}: {error.strerror}. Give the teacher's mean=… and std=….") from error
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise DamagedDataError(f"{file} is not the configuration of an image processor: {error}.") from error


def _require_processor(config: Mapping[str, Any]) -> str:
    """Return the name of the image processor, without its ending, if its file describes all that it computes."""
    name = str(config.get("image_processor_type", config.get("feature_extractor_type", "without a type")))
    stem = re.sub("(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", name)
    if stem not in PROCESSORS:
        raise ValueError(
            f"its image processor {name} is not one of those that are read: {', '.join(PROCESSORS)}. Give "
            "--teacher-input mean=… std=… size=… instead"
        )
    return stem


def _from_preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    processor = _require_processor(config)
    factor = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    moments: Any = config.get("image_mean"), config.get("image_std")
    if config.get("do_normalize", True) and None in moments:
        raise ValueError("image_mean and image_std are missing")
    mean, std = moments if config.get("do_normalize", True) else ([0.0], [1.0])
    mean, std = ([value] if isinstance(value, (int, float)) else value for value in (mean, std))
    # (255 v f − m) / s for stored values v in [0, 1]
    result: dict[str, Any] = {
        "mean": tuple(float(value) / (255 * factor) for value in mean),
        "std": tuple(float(value) / (255 * factor) for value in std),
        "interpolation": _PIL_FILTERS.get(config.get("resample", 2), "bicubic"),
        "channels": 3,
    }
    return result | _read_sizes(config, processor)


def _read_sizes(config: Mapping[str, Any], processor: str) -> dict[str, Any]:
    is_convnext = processor == "ConvNext"
    is_cropped = config.get("do_center_crop", processor in _CROPPING) and not is_convnext
    for name, is_needed in (("size", config.get("do_resize", True)), ("crop_size", is_cropped)):
        if is_needed and config.get(name) is None:
            raise ValueError(f"{name} is missing. Give --teacher-input mean=… std=… size=… instead")
    scaled = _read_size(config["size"]) if config.get("do_resize", True) else None
    cropped = _read_size(config["crop_size"]) if is_cropped else None
    size = cropped or scaled
    if size is None:
        return {}
    share = 1.0
    if is_convnext and max(size) < 384:  # larger images are not cropped
        share = max(size) / int(max(size) / float(config.get("crop_pct") or 224 / 256))
    if cropped:
        if scaled is None or any(side > whole for side, whole in zip(cropped, scaled, strict=True)):
            raise ValueError(f"a crop of {cropped} pixels needs images scaled to this size or more, not {scaled}")
        share = max(side / whole for side, whole in zip(cropped, scaled, strict=True))
    return {"size": size, "crop": share}


def _read_size(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        side = value.get("shortest_edge")
        value = (side, side) if side else (value["height"], value["width"])
    height, width = (value, value) if isinstance(value, int) else value
    if not all(isinstance(side, int) and not isinstance(side, bool) for side in (height, width)):
        raise ValueError(f"size should hold whole numbers, not {value!r}")
    return height, width
