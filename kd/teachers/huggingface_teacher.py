"""Image classifiers of Hugging Face's ``transformers`` as teachers, from a local folder or by name; extra ``hf``.

    teacher = load_huggingface("vit-photos", class_names=("ant", "bee"))

Only weights in the safetensors format are read, and no code of the folder is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kd.checks import similar_paths
from kd.console import say
from kd.imports import import_extra
from kd.seeding import seeded
from kd.teachers.class_order import Reordered, match_names, require_same_classes
from kd.teachers.hub import find_snapshot

_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")


class HuggingFaceTeacher(nn.Module):
    """An image classifier of ``transformers``: inputs [B, C, H, W] to logits [B, K].

    Args:
        model: whose output has an attribute ``logits``.
        class_names: names of its outputs.
        version: of the library, for the keys of steps.
    """

    def __init__(self, model: nn.Module, class_names: Sequence[str], *, version: str = "") -> None:
        super().__init__()
        self.model, self.class_names, self.version = model, tuple(class_names), version

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=inputs).logits
        return logits


def find_folder(where: Path | str, *, download: bool = False) -> Path:
    """Return the folder of a model: the folder itself, or the cached one of a name on Hugging Face's Hub.

    Args:
        download: download a model that is not in the cache; otherwise the network is not used.

    Raises:
        OSError: there is no such folder, and no model of this name in the cache.
        MissingExtraError: the extra ``hf`` is not installed.
    """
    folder, name = Path(where), str(where)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise FileNotFoundError(
            f"there is no folder {folder} with a model. {similar_paths(folder) or 'Check its path.'}"
        )
    return find_snapshot(name, _FILES, download=download)


def load_huggingface(
    where: Path | str, *, class_names: Sequence[str] | None, download: bool = False, needs_head: bool = True
) -> nn.Module:
    """Load an image classifier with outputs in the class order of the data, as float32, on the CPU.

    Args:
        where: folder written by ``save_pretrained``, or a name.
        class_names: of the data, in label order. The model's own names (``id2label``) are matched with them, in any
            order; None does not compare them.
        download: see ``find_folder``.
        needs_head: False also loads a backbone whose last layer has no weights, for a head that is fitted
            (``kd.teachers.fitted_head``).

    Raises:
        OSError: there is no such model on this disk.
        ValueError: the model is no image classifier that ``transformers`` itself contains, lacks weights or has them in
            another format, or its classes differ from the data's.
        MissingExtraError: the extra ``hf`` is not installed.
    """
    folder = find_folder(where, download=download)
    library = import_extra("transformers", library="transformers", name="hf", needed_for="--teacher hf:FOLDER")
    model, own_names = _read(folder, library, needs_head)
    say(f"hf:{where}: {type(model).__name__} with {len(own_names):,} classes")
    teacher = HuggingFaceTeacher(model, own_names, version=str(library.__version__))
    if class_names is None:
        return teacher
    require_same_classes(f"hf:{where}", len(own_names), len(class_names))
    columns = match_names(f"hf:{where}", own_names, class_names)
    return teacher if columns is None else Reordered(teacher, columns)


def _read(folder: Path, library: Any, needs_head: bool) -> tuple[nn.Module, list[str]]:
    """Return the model of a folder and the names of its classes."""
    _require_safetensors(folder)
    try:
        with seeded(0):  # weights that the folder lacks are random
            model, info = library.AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:  # raised by the package, its file formats or a model's own code
        reason = " ".join(str(error).split())[:300].removesuffix(".")
        raise ValueError(
            f"transformers cannot load an image classifier from {folder} ({reason}). The folder must be one that "
            "save_pretrained() wrote, of a model that transformers itself contains."
        ) from error
    lacking = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if lacking and (needs_head or not _are_one_head(model, lacking)):
        raise ValueError(
            f"{folder} has no weights for {len(lacking)} tensors of its model, such as {lacking[0]!r}: it holds no "
            "trained classifier. Use the folder of a fine-tuned model, or fit a head with --teacher-head fit."
        )
    config: Any = model.config
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    config._name_or_path = ""  # the place of the folder must not change any key
    model.float().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model, names


def _are_one_head(model: nn.Module, names: Sequence[str]) -> bool:
    """Return whether tensors belong to one layer outside of the model's backbone."""
    backbone = f"{getattr(model, 'base_model_prefix', '')}."
    return len({name.rpartition(".")[0] for name in names}) == 1 and not names[0].startswith(backbone)


def _require_safetensors(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json. Give the folder that save_pretrained() wrote.")
    if any(folder.glob("*.safetensors")):
        return
    others = sorted(path.name for pattern in ("*.bin", "*.h5", "*.msgpack") for path in folder.glob(pattern))
    found = f"only {', '.join(others)}" if others else "none"
    raise ValueError(
        f"{folder} must hold weights as .safetensors. Got {found}. Save it again where it was trained: "
        "model.save_pretrained(FOLDER, safe_serialization=True)."
    )
