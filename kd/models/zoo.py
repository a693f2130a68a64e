"""Models of torchvision and timm with random weights, adapted to the number of classes and input channels.

Each package is imported only to build one of its models. No pretrained weights are downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from kd.checks import did_you_mean
from kd.imports import import_extra
from kd.models.networks import require_images

SMALL = 64  # pixels; below, the last maps of a network designed for 224 × 224 have about one pixel

# By default, these models return several outputs in training and warn about a future change of initialisation.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_model(name: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Build a torchvision classifier with random weights and a head for these classes.

    If the images do not have three channels, the first convolution is replaced, with ``nn.Conv2d``'s initialisation.

    Raises:
        ValueError: torchvision has no such classifier, the input is not an image, or the first layer is not supported.
    """
    from torchvision import models  # slow, so only if needed

    require_known("torchvision", name, models.list_models(module=models))
    _check_image_size(f"torchvision:{name}", input_shape)
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **_SETTINGS.get(name, {}))
    if input_shape[0] != 3:
        _replace_first_convolution(model, name, input_shape[0])
    return model


def timm_model(name: str, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Build a timm model with random weights for these channels and classes.

    Raises:
        MissingExtraError: timm is not installed.
        ValueError: timm has no such model, or the input is not an image.
    """
    timm = import_extra("timm", library="timm", name="timm", needed_for=f"timm:{name}")
    # Only plain names: timm also accepts URLs and would download from them.
    require_known("timm", name, timm.list_models())
    _check_image_size(f"timm:{name}", input_shape)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=input_shape[0])
    return model


def require_known(package: str, name: str, known: Iterable[str]) -> None:
    """Raise ``ValueError`` unless the package has a classifier of this name."""
    names = list(known)
    if name not in names:
        hint = did_you_mean(name, names, f"It has {', '.join(names[:3])} and others.")
        raise ValueError(f"{package} has no classifier {name!r} among its {len(names)}. {hint}")


def _check_image_size(spec: str, input_shape: Sequence[int]) -> None:
    require_images(spec, input_shape, side=1)
    height, width = input_shape[1:]
    if min(height, width) < SMALL:
        warnings.warn(
            f"{spec} is designed for images of about 224 × 224 pixels. Got {height} × {width}. Most such networks "
            "shrink each side by a factor of 32, so little of the image remains. Batch norm over a single pixel fails "
            "on a last batch of one image. cnn:32 is better suited to small images.",
            stacklevel=5,  # the caller of build()
        )


def _replace_first_convolution(model: nn.Module, name: str, channels: int) -> None:
    """Replace the first convolution by one with the same settings for this number of input channels."""
    path, first = next(((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if type(first) is not nn.Conv2d or first.in_channels != 3 or first.groups != 1:
        got = "none" if first is None else f"{type(first).__name__} at {path!r} with {first.in_channels} channels"
        raise ValueError(
            f"torchvision:{name} cannot be adapted to images of {channels} channels: its first convolution must be a "
            f"plain Conv2d on 3 channels. Got {got}. Give the images 3 channels, or choose another model."
        )
    replacement = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # declared as a tuple of any length; Conv2d has two
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)
