"""What need not be worked out twice, kept in the user's cache folder; never beside the data, which may be read-only."""

import os
import sys
from pathlib import Path

VARIABLE = "NETBUILD_CACHE"


def cache_folder() -> Path:
    """The folder for netbuild's files: ``$NETBUILD_CACHE``, else the system's place for caches."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "netbuild" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "netbuild"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "netbuild"
