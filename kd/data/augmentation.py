"""Random views of images that come out the same again: each is a function of its seed, its sample and its number.

transform = augmentation(["flip", "crop:4"], (3, 32, 32))
views = AugmentedImages(training, transform, views=8)         # drawn once: the teacher's answers can be kept
fresh = AugmentedImages(training, transform, views=EVERY)     # hardly one comes twice: ask the teacher live
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
from kd.data.datasets import ArrayDataset, Gathered, Raw, unwrapped
from kd.imports import is_plugin, load_plugin
from kd.seeding import seeded

EVERY = 2**20  # views of each sample, so many that a training does not meet one twice

Transform = Callable[[Tensor], Tensor]  # of one image [C, H, W] uint8, to one of that shape


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Item ``sample · views + view`` is (view of the sample's image, its label), normalised as the sample is.

    Args:
        dataset: images kept as bytes, or rows of such a dataset, normalised or not.
        transform: draws from torch's global generator alone. It gets the image as it is stored, [C, H, W] of uint8, and
            returns one of that shape, of uint8 or of floats in [0, 1].
        views: of each sample, at least 1.
        seed: of all views, at least 0.

    Raises:
        ValueError: the dataset holds no images as bytes.
    """

    def __init__(self, dataset: Dataset[Any], transform: Transform, *, views: int, seed: int = 0) -> None:
        require(views >= 1, "views", views, "a whole number of at least 1")
        self.transform, self.views, self.seed = transform, views, seed
        base, rows = unwrapped(dataset)
        stored = isinstance(base, (ArrayDataset, Raw)) and self._raw(base, rows[:1])
        if not isinstance(stored, Tensor) or stored.dtype != torch.uint8 or stored.ndim != 4:
            raise ValueError(
                "only images kept as bytes can be augmented: MNIST, image files, arrays [N, C, H, W] of uint8. Augment "
                "in a Dataset of your own, and ask the teacher with kd.live_teacher."
            )
        self.base, self.rows = base, rows

    def __len__(self) -> int:
        return len(self.rows) * self.views

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.__getitems__([index])[0]
        return image, int(label)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        items = torch.as_tensor(indices)
        rows = self.rows[items // self.views]
        stored: Tensor = self._raw(self.base, rows)
        with seeded(0):
            views = [self._view(image, item) for image, item in zip(stored, items.tolist(), strict=True)]
        labels: Tensor = self.base.labels.index_select(0, rows)  # type: ignore[attr-defined]  # both kinds have them
        return Gathered(self._normalised(torch.stack(views)), labels)

    def _view(self, image: Tensor, item: int) -> Tensor:
        number = hashlib.blake2b(f"{self.seed} {item // self.views} {item % self.views}".encode(), digest_size=7)
        torch.default_generator.manual_seed(int.from_bytes(number.digest(), "big"))
        view = self.transform(image)
        if view.shape != image.shape:
            raise ValueError(
                f"an augmentation must leave the image's shape {list(image.shape)}. Got {list(view.shape)} instead."
            )
        scaled: Tensor = view.float().div(255) if view.dtype == torch.uint8 else view
        return scaled

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = (getattr(self.base, name, None) for name in ("mean", "std"))
        if mean is None or std is None:
            return images
        normalised: Tensor = (images - mean) / std
        return normalised.float()

    @staticmethod
    def _raw(base: Any, rows: Tensor) -> Tensor:
        stored: Tensor = base.inputs.index_select(0, rows) if isinstance(base, ArrayDataset) else base.raw(rows)
        return stored


def augmentation(specs: Sequence[str], shape: Sequence[int]) -> Transform:
    """The transforms of these names, one after another.

    Args:
        specs: ``flip`` (left and right); ``crop:P`` (at random from the image with P black pixels around it);
            ``rotate:D`` (up to D degrees either way); ``zoom:S`` (a part of at least the share S of the image, at the
            image's size); ``colour:X`` (brightness, contrast and saturation by up to the share X);
            or ``FILE.py:NAME``, a transform or a function that makes one, whose file is run as code.
        shape: [C, H, W] of the images.

    Raises:
        ValueError: no such name, or a number outside its range.
        OSError: a file cannot be read.
    """
    composed: Transform = v2.Compose([_one(spec, shape) for spec in specs])
    return composed


def _one(spec: str, shape: Sequence[int]) -> Any:
    if is_plugin(spec):
        found = load_plugin(spec)
        return found() if isinstance(found, type) else found
    require(len(shape) == 3, "--augment", spec, "left out", f"the data are no images, but of shape {list(shape)}")
    size = list(shape[1:])
    name, _, text = spec.partition(":")
    makers: dict[str, tuple[Callable[[float], bool], str, Callable[[float], Any]]] = {
        "flip": (lambda _: not text, "without a number", lambda _: v2.RandomHorizontalFlip()),
        "crop": (lambda x: x >= 1 and x == int(x), "pixels, at least 1", lambda x: v2.RandomCrop(size, padding=int(x))),
        "rotate": (lambda x: 0 < x <= 180, "degrees, in (0, 180]", lambda x: v2.RandomRotation(x, _BILINEAR)),
        "zoom": (lambda x: 0 < x < 1, "a share in (0, 1)", lambda x: v2.RandomResizedCrop(size, scale=(x, 1))),
        "colour": (
            lambda x: 0 < x <= 1,
            "a share in (0, 1]",
            lambda x: v2.ColorJitter(x, x, x if shape[0] == 3 else 0),
        ),
    }
    if name not in makers:
        known = ", ".join([*makers, "FILE.py:NAME"])
        raise ValueError(f"there is no augmentation {spec!r}. {did_you_mean(name, makers, f'There is {known}.')}")
    holds, allowed, make = makers[name]
    try:
        number = float(text) if text else 0.0
    except ValueError:
        number = float("nan")
    require(holds(number), f"--augment {name}", spec, allowed)
    return make(number)


_BILINEAR = v2.InterpolationMode.BILINEAR
