"""Per-user folders: the cache, which may be deleted at any time, and the settings."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_config_path

CACHE_VARIABLE = "NETBUILD_CACHE"


def cache_folder() -> Path:
    """Return the folder for cached files: ``$NETBUILD_CACHE``, else the system's folder for user caches.

    Nothing is cached beside a data set, which may be on a read-only disk.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) if folder else Path(user_cache_path("netbuild", appauthor=False))


def settings_folder() -> Path:
    """Return the folder for settings, in the system's folder for user configuration."""
    return Path(user_config_path("netbuild", appauthor=False))


def old_settings_folder() -> Path:
    """Return the settings folder of versions before 0.1, which used ~/.config on every system; it is still read."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "netbuild"
