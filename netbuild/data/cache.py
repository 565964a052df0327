"""What need not be worked out twice, kept in the user's cache folder; never beside the data, which may be read-only."""

import contextlib
import os
import sys
import tempfile
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
