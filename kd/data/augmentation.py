"""Reproducible random augmentation: each augmented view is a function of seed, sample and view number.

Example:

    transform = augmentation(["flip", "crop:4"], (3, 32, 32))
    views = AugmentedImages(training, transform, views=8)         # few views: teacher logits can be cached
    fresh = AugmentedImages(training, transform, views=EVERY)     # views rarely repeat: run the teacher at every step
    loader = one_view_each(views, views.views, batch_size=128)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from kd.checks import did_you_mean, require
from kd.data.datasets import ArrayDataset, Gathered, unwrap_subsets
from kd.imports import is_plugin, load_plugin
from kd.seeding import seeded_torch

_TRIED = 8  # views that are drawn twice, before the training
EVERY = 2**20  # views per sample; training rarely draws the same view twice

Transform = Callable[[Tensor], Tensor]  # maps an image [C, H, W] uint8 to an image of the same shape


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Augmented views of images; item ``sample · views + view`` is (augmented image, label).

    Views are normalised like the samples of ``dataset``.

    Args:
        dataset: images stored as uint8, or a subset of such a dataset, normalised or not.
        transform: random transform that draws from torch's global generator only. It receives the stored image
            [C, H, W] uint8 and returns an image of that shape, uint8 or floats in [0, 1].
        views: views per sample, at least 1.
        seed: seed of all views, at least 0.

    Raises:
        ValueError: the dataset does not store uint8 images.
    """

    def __init__(self, dataset: Dataset[Any], transform: Transform, *, views: int, seed: int = 0) -> None:
        require(views >= 1, "views", views, "an integer of at least 1")
        self.transform, self.views, self.seed = transform, views, seed
        base, rows = unwrap_subsets(dataset)
        if not isinstance(base, ArrayDataset) or base.inputs.dtype != torch.uint8 or base.inputs.ndim != 4:
            raise ValueError(
                "augmentation needs images stored as uint8: MNIST, image files or arrays [N, C, H, W]. For other data, "
                "augment in your own Dataset and run the teacher at every step with kd.live_teacher."
            )
        self.base, self.rows = base, rows
        self._require_repeatable()

    def __len__(self) -> int:
        return len(self.rows) * self.views

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.__getitems__([index])[0]
        return image, int(label)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        items = torch.as_tensor(indices)
        rows = self.rows[items // self.views]
        stored = self.base.inputs.index_select(0, rows)
        with seeded_torch(0):  # restores the caller's random state; each view sets its own seed
            views = [self._draw_view(image, item) for image, item in zip(stored, items.tolist(), strict=True)]
        return Gathered(self._normalise(torch.stack(views)), self.base.labels.index_select(0, rows))

    def _require_repeatable(self) -> None:
        rows = torch.arange(min(_TRIED, len(self)))
        first, again = (self.__getitems__(rows).tensors[0] for _ in range(2))
        if not torch.allclose(first, again, rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                "an augmentation must return the same view for the same seed, so that teacher, control and distilled "
                "student see the same images. It does not: draw from torch's global generator, as torch.rand() does, "
                "not from Python's, NumPy's or one of its own, and count no calls."
            )

    def _draw_view(self, image: Tensor, item: int) -> Tensor:
        view_hash = hashlib.blake2b(f"{self.seed} {item // self.views} {item % self.views}".encode(), digest_size=7)
        torch.default_generator.manual_seed(int.from_bytes(view_hash.digest(), "big"))
        view = self.transform(image)
        if not isinstance(view, Tensor):
            raise ValueError(f"an augmentation must return a tensor. Got a {type(view).__name__} instead.")
        if view.shape != image.shape:
            raise ValueError(
                f"an augmentation must keep the image's shape {list(image.shape)}. Got {list(view.shape)} instead."
            )
        scaled: Tensor = view.float().div(255) if view.dtype == torch.uint8 else view
        return scaled

    def _normalise(self, images: Tensor) -> Tensor:
        mean, std = self.base.mean, self.base.std
        if mean is None or std is None:
            return images
        normalised: Tensor = (images - mean) / std
        return normalised.float()


def augmentation(specs: Sequence[str], shape: Sequence[int]) -> Transform:
    """Return the named transforms, composed in the given order.

    Args:
        specs: any of the following.

            - ``flip``: flip horizontally with probability ½.
            - ``crop:P``: pad with P black pixels, fewer than the image has, then crop at random.
            - ``rotate:D``: rotate by up to D degrees in either direction.
            - ``zoom:S``: crop at least the fraction S of the area, then resize to the original size.
            - ``colour:X``: change brightness, contrast and saturation by up to the fraction X.
            - ``randaugment``: two random operations of moderate strength.
            - ``trivialaugment``: one random operation of random strength.
            - ``erasing:P``: blacken a random rectangle with probability P, by default ½.
            - ``FILE.py:NAME``: a transform, or a class to instantiate. The file's code is run.
        shape: [C, H, W] of the images.

    Raises:
        ValueError: unknown name, or a number outside its range.
        OSError: a file cannot be read.
    """
    composed: Transform = v2.Compose([_build_transform(spec, shape) for spec in specs])
    return composed


def _build_transform(spec: str, shape: Sequence[int]) -> Any:
    if is_plugin(spec):
        plugin = load_plugin(spec)
        return plugin() if isinstance(plugin, type) else plugin
    require(len(shape) == 3, "--augment", spec, "omitted", f"the inputs are not images but have shape {list(shape)}")
    size = list(shape[1:])
    name, _, text = spec.partition(":")
    plain = (lambda _: not text, "given without a number")
    makers: dict[str, tuple[Callable[[float], bool], str, Callable[[float], Any]]] = {
        "flip": (*plain, lambda _: v2.RandomHorizontalFlip()),
        "crop": (
            lambda x: 1 <= x < min(size) and x == int(x),  # with more, some crops lie beside the image
            f"given a whole number of pixels from 1 to {min(size) - 1}, below the images' sides",
            lambda x: v2.RandomCrop(size, padding=int(x)),
        ),
        "rotate": (lambda x: 0 < x <= 180, "given degrees in (0, 180]", lambda x: v2.RandomRotation(x, _BILINEAR)),
        "zoom": (lambda x: 0 < x < 1, "given a fraction in (0, 1)", lambda x: v2.RandomResizedCrop(size, scale=(x, 1))),
        "colour": (
            lambda x: 0 < x <= 1,
            "given a fraction in (0, 1]",
            lambda x: v2.ColorJitter(x, x, x if shape[0] == 3 else 0),
        ),
        "randaugment": (*plain, lambda _: v2.RandAugment()),
        "trivialaugment": (*plain, lambda _: v2.TrivialAugmentWide()),
        "erasing": (
            lambda x: not text or 0 < x <= 1,
            "given no number or a probability in (0, 1]",
            lambda x: v2.RandomErasing(x or 0.5),  # 0.5 is torchvision's default
        ),
    }
    if name not in makers:
        known = ", ".join([*makers, "FILE.py:NAME"])
        raise ValueError(
            f"unknown augmentation {spec!r} (--augment). {did_you_mean(name, makers, f'Allowed: {known}.')}"
        )
    in_range, allowed, make = makers[name]
    try:
        number = float(text) if text else 0.0
    except ValueError:
        number = float("nan")
    require(in_range(number), f"--augment {name}", spec, allowed)
    grey_or_colour = name not in _COLOUR or shape[0] in {1, 3}
    require(grey_or_colour, f"--augment {name}", f"{shape[0]} channels", "used with images of 1 or 3 channels")
    return make(number)


_BILINEAR = v2.InterpolationMode.BILINEAR
_COLOUR = frozenset({"colour", "randaugment", "trivialaugment"})  # change colours: torchvision defines these channels
