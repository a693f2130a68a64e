"""The user's folders for caches and for configuration, which environment variables replace.

platformdirs is imported when a folder is needed, which most commands do not.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``KD_CACHE_DIR``, or the user's cache folder."""
    import platformdirs

    return _chosen("KD_CACHE_DIR") or platformdirs.user_cache_path("kd", appauthor=False)


def configuration_folder() -> Path:
    """Return ``KD_CONFIG_DIR``, or the user's configuration folder."""
    import platformdirs

    return _chosen("KD_CONFIG_DIR") or platformdirs.user_config_path("kd", appauthor=False)


def _chosen(variable: str) -> Path | None:
    folder = os.environ.get(variable)
    return Path(folder) if folder else None
