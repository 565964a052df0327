"""The user's folders: a cache that may be deleted at any time, and settings."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_config_path

CACHE_VARIABLE = "NETBUILD_CACHE"


def cache_folder() -> Path:
    """The folder of cached files: ``$NETBUILD_CACHE``, else the system's place for a user's caches.

    Nothing is cached beside the data, which may be read-only.
    """
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(user_cache_path("netbuild", appauthor=False))


def settings_folder() -> Path:
    """The folder of settings, in the system's place for a user's configuration."""
    return Path(user_config_path("netbuild", appauthor=False))


def old_settings_folder() -> Path:
    """Where netbuild kept its settings on every system before it asked the system: they are still read from there."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "netbuild"
