"""Published weights of torchvision's and timm's classifiers, from the local caches; ``download`` allows the network.

teacher = load_published("timm:resnet18", classes=1000, channels=3)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd.console import say
from kd.imports import import_extra
from kd.models.zoo import require_known
from kd.storage.weights import load_weights
from kd.teachers.class_order import require_same_classes
from kd.teachers.hub import find_snapshot

_FILE = "model.safetensors"  # on the hub, for all of timm's own weights
# torchvision builds these for its weights with auxiliary heads, which are removed afterwards, and with a conversion
# from ImageNet's normalisation to the original networks' normalisation.
_WITH_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


def load_published(spec: str, *, classes: int | None, channels: int, download: bool = False) -> nn.Module:
    """Load a classifier with its published weights, on the CPU.

    Args:
        spec: ``timm:NAME``, also ``timm:NAME.TAG`` for one of several weights, or ``torchvision:NAME``, whose default
            weights are used.
        classes: number of classes of the data; None does not check it.
        channels: of the images. timm sums the first layer's weights over channels for grey images.
        download: download weights that are not in the cache; otherwise the network is not used.

    Raises:
        OSError: the weights are not in the cache, or cannot be downloaded.
        ValueError: there is no such model, it has no published weights that can be used, or it has other classes.
        MissingExtraError: timm is not installed.
    """
    kind, _, name = spec.partition(":")
    model, source, outputs = (_load_timm if kind == "timm" else _load_torchvision)(name, channels, download)
    say(f"{spec}: weights {source}, {outputs:,} classes")
    if classes is not None:
        require_same_classes(f"{spec}=pretrained", outputs, classes)
    return model


def _load_timm(name: str, channels: int, download: bool) -> tuple[nn.Module, str, int]:
    timm = import_extra("timm", library="timm", name="timm", needed_for=f"timm:{name}")
    architecture = name.partition(".")[0]
    require_known("timm", architecture, timm.list_models())
    published = timm.list_pretrained(f"{architecture}.*")
    config = timm.get_pretrained_cfg(name) if name in (architecture, *published) else None
    if config is None or not config.hf_hub_id or config.custom_load or not published:
        known = f"It has {', '.join(published[:3])}." if published else "It has none."
        raise ValueError(f"timm has no published weights for {name} that can be read here. {known}")
    folder = find_snapshot(config.hf_hub_id, (_FILE,), download=download)
    file = folder / _FILE
    if not file.is_file():
        raise ValueError(f"the published weights of timm:{name} must be in {_FILE}. Got none in {config.hf_hub_id}.")
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, in_chans=channels
        )
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{file} does not fit timm:{name} ({reason}). Delete it, and download it again.") from error
    return model, config.hf_hub_id, int(config.num_classes)


def _load_torchvision(name: str, channels: int, download: bool) -> tuple[nn.Module, str, int]:
    from torchvision import models  # slow, so only if needed

    require_known("torchvision", name, models.list_models(module=models))
    if channels != 3:
        raise ValueError(f"torchvision:{name}=pretrained takes images of 3 channels. Got {channels}.")
    weights: Any = models.get_model_weights(name).DEFAULT
    file = _find_checkpoint(name, weights.url, download)
    outputs, heads = len(weights.meta["categories"]), _WITH_HEADS.get(name, ())
    settings = {"aux_logits": True, "transform_input": True, "init_weights": False} if heads else {}
    model: Any = models.get_model(name, weights=None, num_classes=outputs, **settings)
    load_weights(model, file)
    for head in heads:
        setattr(model, head, None)
    if heads:
        model.aux_logits = False
    return model, str(weights), outputs


def _find_checkpoint(name: str, url: str, download: bool) -> Path:
    """Return the file of the weights in torch's cache, which may be downloaded first."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        return file
    if not download:
        raise FileNotFoundError(
            f"there is no file {file} with the published weights of torchvision:{name}. Nothing was downloaded; "
            "--download allows it."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    found = re.search(r"-([0-9a-f]{8,})\.", file.name)
    try:
        torch.hub.download_url_to_file(url, str(file), hash_prefix=found and found.group(1), progress=False)
    except Exception as error:  # of the network, or another hash
        raise FileNotFoundError(f"{url} cannot be downloaded ({error}). Check the connection.") from error
    return file
