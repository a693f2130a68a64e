"""Models in Hugging Face's local cache; only with ``download`` is anything taken from the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kd.imports import import_extra

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def find_snapshot(name: str, patterns: Sequence[str], *, download: bool) -> Path:
    """Return the folder of a model's files in the local cache.

    Args:
        name: ``OWNER/NAME`` or ``NAME``.
        patterns: names of the files that are needed, with wildcards; no others are downloaded.
        download: download files that are not in the cache; otherwise the network is not used.

    Raises:
        OSError: the model is not in the cache, or cannot be downloaded.
        MissingExtraError: the extra ``hf`` is not installed.
    """
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(f"there is no folder {name}, and it is no name of a model. Check its path.")
    hub = import_extra("huggingface_hub", library="huggingface_hub", name="hf", needed_for=f"the model {name}")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(patterns), local_files_only=not download))
    except Exception as error:  # raised by the package or by its network library
        reason = " ".join(str(error).split())[:200].removesuffix(".") or type(error).__name__
        if download:
            raise FileNotFoundError(f"the model {name} cannot be downloaded ({reason}). Check its name.") from error
        raise FileNotFoundError(
            f"there is no model {name} in Hugging Face's local cache, and no folder of this name. Nothing was "
            "downloaded; --download allows it."
        ) from error
