"""Input contract of a teacher: the size, channels, mean and standard deviation of the images that it was trained on.

    scale = find_scale(dataset)                       # how the data's own inputs were normalised
    teacher = OwnInputs(network, InputContract((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=(224, 224)), scale)

Datasets yield inputs normalised for the student. ``OwnInputs`` restores the stored values from them and prepares these
for the teacher, so that every part of the toolkit can treat it like any other model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from operator import mul
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.checks import require
from kd.data.datasets import ArrayDataset, unwrap_subsets

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's mode L


class InputScale(NamedTuple):
    """How a dataset normalises its stored inputs: ``(stored − mean) / std``, with bytes scaled to [0, 1] first.

    Attributes:
        mean, std: float64, broadcastable to one input.
        is_bytes: whether the stored inputs are bytes.
        is_image: whether an input is an image [C, H, W].
    """

    mean: Tensor
    std: Tensor
    is_bytes: bool
    is_image: bool


def find_scale(dataset: Dataset[Any]) -> InputScale | None:
    """Return how a dataset normalises its inputs; None for tokens and datasets that do not store arrays."""
    base, _ = unwrap_subsets(dataset)
    if not isinstance(base, ArrayDataset) or base.inputs.dtype == torch.int64:
        return None
    mean, std = 0.0 if base.mean is None else base.mean, 1.0 if base.std is None else base.std
    moments = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64)
    return InputScale(*moments, is_bytes=base.inputs.dtype == torch.uint8, is_image=base.inputs.ndim == 4)


@dataclasses.dataclass(frozen=True)
class InputContract:
    """The inputs that a network was trained on.

    Attributes:
        mean, std: of each channel, or one number for all. Inputs are ``(stored − mean) / std``, with bytes scaled to
            [0, 1] first.
        size: height and width of an image; None keeps the size.
        crop: fraction of the scaled image that remains after the centre crop, in (0, 1].
        channels: 1 or 3; 0 is the number of means, or the data's if there is only one.
        interpolation: of the scaling, one of ``INTERPOLATIONS``.
        bgr: whether the channels are in the order blue, green, red.
        name: where the contract comes from, for messages.

    Raises:
        ValueError: a value is outside these ranges.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    crop: float = 1.0
    channels: int = 0
    interpolation: str = "bilinear"
    bgr: bool = False
    name: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        finite = all(abs(value) < 1e6 for value in (*self.mean, *self.std))
        require(finite and len(self.mean) in (1, 3), "mean", self.mean, "one finite number, or one per channel")
        positive = all(value > 0 for value in self.std)
        require(finite and positive and len(self.std) in (1, 3), "std", self.std, "numbers above 0, as many as means")
        require(len({len(self.mean), len(self.std)} - {1}) < 2, "std", self.std, "numbers above 0, as many as means")
        sides = self.size or (1, 1)
        require(all(1 <= side <= 10_000 for side in sides), "size", self.size, "pixels per side from 1 to 10,000")
        require(0 < self.crop <= 1, "crop", self.crop, "in (0, 1]", "0.875 scales to 256 pixels and keeps 224")
        most = max(sides) / 10_000  # of the scaled image, 10,000 pixels per side
        require(
            self.crop >= most, "crop", self.crop, f"at least {most:g} for this size", "it enlarges the scaled image"
        )
        require(self.channels in (0, 1, 3), "channels", self.channels, "1 or 3")
        means = max(len(self.mean), len(self.std))
        fits = means == 1 or self.channels in (0, means)
        require(fits, "channels", self.channels, f"{means}, the number of values of mean and std")
        require(not self.bgr or 3 in (self.channels, means), "bgr", self.bgr, "used with 3 channels")
        known = ", ".join(INTERPOLATIONS)
        require(self.interpolation in INTERPOLATIONS, "interpolation", self.interpolation, f"one of {known}")

    @property
    def scaled_size(self) -> tuple[int, int] | None:
        """Height and width before the centre crop."""
        return None if self.size is None else (round(self.size[0] / self.crop), round(self.size[1] / self.crop))

    def shape_for(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the network's inputs for data of this shape."""
        if len(shape) != 3:
            return tuple(shape)
        means = max(len(self.mean), len(self.std))
        channels = self.channels or (means if means > 1 else shape[0])
        return (channels, *(self.size or shape[1:]))

    def describe(self) -> str:
        """Return the contract as text for messages."""
        numbers = [" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std)]
        parts = [f"mean {numbers[0]}, std {numbers[1]}"]
        if self.size:
            parts.append(f"{self.size[0]} × {self.size[1]} pixels")
        if self.crop < 1 and self.size:
            parts.append(f"the centre {self.crop:.1%} of each side")
        parts += [f"{self.channels} channels"] if self.channels else []
        parts += ["in the order BGR"] if self.bgr else []
        return ", ".join(parts) + (f" ({self.name})" if self.name else "")


def require_contract_fits(contract: InputContract, shape: Sequence[int], scale: InputScale) -> None:
    """Check that inputs of this shape can be prepared for the contract.

    Raises:
        ValueError: the contract is for images but the inputs are not, or their channels cannot be converted.
    """
    if not scale.is_image:
        plain = InputContract(std=contract.std, interpolation=contract.interpolation)
        fits = contract == plain and len(contract.std) == 1
        allowed = "data, stored, 0-1 or 0-255 for inputs that are not images [C, H, W]"
        require(fits, "the teacher's inputs", contract.describe(), allowed, f"the data's have the shape {list(shape)}")
        return
    channels, wanted = shape[0], contract.shape_for(shape)[0]
    convertible = channels == wanted or {channels, wanted} == {1, 3}
    advice = "grey images become RGB and RGB images grey; nothing else is converted"
    require(convertible, "the teacher's channels", wanted, f"{channels}, like the data's, or 1 ↔ 3", advice)


def with_normalisation_of(scale: InputScale, contract: InputContract, shape: Sequence[int]) -> InputContract:
    """Return the contract with the data's own mean and standard deviation, for the network's channels and their order.

    Args:
        scale: of the data, which are images.
        contract: of the network, with the number and order of its channels.
        shape: of one input of the data.

    Raises:
        ValueError: the data have other numbers of channels than 1 and 3, each with its own mean.
    """
    moments = [tuple(values.flatten().tolist()) for values in (scale.mean, scale.std)]
    if contract.shape_for(shape)[0] == 1:
        moments = [(sum(map(mul, values, _LUMA)),) if len(values) == 3 else values for values in moments]
    if not all(len(values) in (1, 3) for values in moments):
        raise ValueError(
            f"it must also say how the inputs were normalised, because the data's own {len(moments[0])} channels have "
            "a mean each. Add mean=… and std=…, one number for all."
        )
    mean, std = (values[::-1] if contract.bgr else values for values in moments)
    return dataclasses.replace(contract, mean=mean, std=std)


def require_range(contract: InputContract, dataset: Dataset[Any]) -> None:
    """Refuse a mean and standard deviation of images in [0, 1] for float images stored as numbers of another range.

    Raises:
        ValueError: some of at most 256 samples are outside [0, 1], and the contract is not ``stored``.
    """
    base, rows = unwrap_subsets(dataset)
    scale = find_scale(dataset)
    is_checked = scale is not None and scale.is_image and not scale.is_bytes and "stored" not in contract.name.split()
    if not is_checked or not isinstance(base, ArrayDataset) or max(*contract.mean, *contract.std) > 1:
        return
    stored = base.inputs[torch.as_tensor(rows)[:: max(1, len(rows) // 256)][:256]]
    low, high = float(stored.min()), float(stored.max())
    if low < -0.01 or high > 1.01:
        raise ValueError(
            f"its mean {contract.mean} and standard deviation {contract.std} are of images in [0, 1], but this data's "
            f"are stored as numbers from {low:.3g} to {high:.3g}. Store them as bytes, give mean=… and std=… of these "
            "numbers, or stored if the teacher takes them unchanged."
        )


class OwnInputs(nn.Module):
    """A network behind its input contract: takes the data's normalised inputs and gives the network its own.

    Images of any size are accepted, so that the same model takes the student's images and images decoded at the
    network's own size. All values are buffers, or part of the buffer ``contract``, and therefore saved
    with the weights.

    Args:
        network: the network, which returns logits [B, K].
        contract: the inputs that it was trained on.
        scale: how the given inputs were normalised, from ``find_scale``.
    """

    wraps = "network"  # see kd.models.features.find_network

    def __init__(self, network: nn.Module, contract: InputContract, scale: InputScale) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.network, self.own, self.is_bytes, self.is_image = network, contract, scale.is_bytes, scale.is_image
        text = json.dumps(dataclasses.asdict(contract) | {"name": ""}, sort_keys=True).encode()
        self.register_buffer("contract", torch.tensor(list(text), dtype=torch.uint8))
        shape = (-1, 1, 1) if scale.is_image else (-1,)
        largest = 255 if scale.is_bytes else 1
        # stored = given · scale + shift, computed in double precision once
        self._register("scale", largest * scale.std)
        self._register("shift", largest * scale.mean)
        self._register("mean", torch.tensor(contract.mean, dtype=torch.float64).reshape(shape))
        self._register("std", torch.tensor(contract.std, dtype=torch.float64).reshape(shape))

    def _register(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}contract")
        own: Any = self.contract
        if isinstance(saved, Tensor) and not torch.equal(saved.cpu(), own.cpu()):
            texts = [bytes(text.tolist()).decode(errors="replace") for text in (saved, own)]
            raise ValueError(
                f"the weights were saved with the input contract {texts[0]}, but the teacher has {texts[1]}. Build it "
                "with the contract of the weights."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's logits [B, K] for inputs [B, ...] as the data yield them."""
        output: Tensor = self.network(self.prepare(inputs))
        return output

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return the network's own inputs [B, ...] float32."""
        values = self.restore(inputs)
        if self.is_image:
            values = _convert_channels(values, self.own.shape_for(inputs.shape[1:])[0])
            values = _scale_and_crop(values, self.own, is_bytes=self.is_bytes)
            values = values.flip(1) if self.own.bgr else values
        return (values - self.mean) / self.std

    def restore(self, inputs: Tensor) -> Tensor:
        """Return the stored values; bytes exactly, as k / 255."""
        stored = inputs.float() * self.scale + self.shift
        return stored.round().clamp(0, 255) / 255 if self.is_bytes else stored


def contract_of(model: nn.Module) -> InputContract | None:
    """Return the contract of a single teacher, also inside another wrapper; None if there is none, or more than one."""
    contracts = [module.own for module in model.modules() if isinstance(module, OwnInputs)]
    return contracts[0] if len(contracts) == 1 else None


def _convert_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    return (images * images.new_tensor(_LUMA).reshape(3, 1, 1)).sum(dim=1, keepdim=True)


def _scale_and_crop(images: Tensor, contract: InputContract, *, is_bytes: bool) -> Tensor:
    """Scale images to cover ``scaled_size``, with their aspect ratio kept, and crop the centre of ``size``."""
    scaled, size, interpolation = contract.scaled_size, contract.size, contract.interpolation
    if scaled is None or size is None:
        return images
    height, width = images.shape[2:]
    factor = max(scaled[0] / height, scaled[1] / width)
    covering = (max(scaled[0], round(factor * height)), max(scaled[1], round(factor * width)))
    if covering != (height, width):
        is_nearest = interpolation == "nearest"
        mode = "nearest-exact" if is_nearest else interpolation  # torch's "nearest" is half a pixel off Pillow's
        smooth: dict[str, Any] = {} if is_nearest else {"antialias": True, "align_corners": False}
        # Bicubic scaling overshoots. Bounds of each image, not of the batch, so that other images change nothing.
        low, high = (0.0, 1.0) if is_bytes else (images.amin((1, 2, 3), True), images.amax((1, 2, 3), True))
        images = F.interpolate(images, covering, mode=mode, **smooth).clamp(low, high)  # type: ignore[arg-type]
    top, left = ((whole - side) // 2 for whole, side in zip(covering, size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]
