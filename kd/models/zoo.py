"""Architectures of torchvision and timm, fitted to the data: classes, and channels of the first convolution.

Both packages are imported when one of their models is asked for. No pretrained weights, so no network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from kd.checks import did_you_mean
from kd.imports import import_extra
from kd.models.networks import require_images

SMALL = 64  # pixels; below, a network made for 224 × 224 has next to nothing left at its end

# In training these would answer with several outputs, and they warn unless told to draw weights as they always did.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_model(name: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    """A classifier of torchvision's with random weights, its head for these classes.

    Where the images do not have three channels, the first convolution is replaced by one that takes theirs, its weights
    drawn as ``nn.Conv2d`` draws them.

    Raises:
        ValueError: no such classifier, no image, or a first layer that cannot be replaced.
    """
    from torchvision import models  # here: only who asks for one pays for the import

    _require_known("torchvision", name, models.list_models(module=models))
    _require_large(f"torchvision:{name}", input_shape)
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **_SETTINGS.get(name, {}))
    if input_shape[0] != 3:
        _take_channels(model, name, input_shape[0])
    return model


def timm_model(name: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    """A model of timm's with random weights, for these channels and classes.

    Raises:
        MissingExtraError: timm is not installed.
        ValueError: no such model, or no image.
    """
    timm = import_extra("timm", library="timm", name="timm", needed_for=f"timm:{name}")
    # Its plain names only: timm also takes addresses, from which it would download.
    _require_known("timm", name, timm.list_models())
    _require_large(f"timm:{name}", input_shape)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=input_shape[0])
    return model


def _require_known(package: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        meant = did_you_mean(name, names, f"It has {', '.join(names[:3])} and others.")
        raise ValueError(f"{package} has no classifier {name!r} among its {len(names)}. {meant}")


def _require_large(spec: str, input_shape: Sequence[int]) -> None:
    require_images(spec, input_shape, side=1)
    height, width = input_shape[1:]
    if min(height, width) < SMALL:
        warnings.warn(
            f"{spec} is made for images of about 224 × 224 pixels; these have {height} × {width}. Most such networks "
            "shrink each side 32-fold, so little of the image is left at their end, and batch norm over a single pixel "
            "fails on a last batch of one image. cnn:32 keeps more of a small image.",
            stacklevel=5,  # whoever has called build()
        )


def _take_channels(model: nn.Module, name: str, channels: int) -> None:
    """Replace the first convolution by one of the same settings for so many channels."""
    path, first = next(((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if type(first) is not nn.Conv2d or first.in_channels != 3 or first.groups != 1:
        got = "none" if first is None else f"{type(first).__name__} at {path!r} with {first.in_channels} channels"
        raise ValueError(
            f"torchvision:{name} cannot be fitted to images of {channels} channels: its first convolution must be a "
            f"plain Conv2d on 3 channels. Got {got}. Give the images 3 channels, or choose another model."
        )
    replacement = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # declared as of any length; a Conv2d's has two
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)
