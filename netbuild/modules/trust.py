"""Which code a user has agreed to run: remembered by path and content, in the user's configuration folder."""

import json
import os
from pathlib import Path

from netbuild.modules.own import code_files, fingerprint
from netbuild.system.files import make_folder, write_text


def store() -> Path:
    """Where the answers are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "netbuild" / "trusted.json"


def _known() -> dict[str, str]:
    try:
        data = json.loads(store().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}


def is_remembered(path: Path) -> bool:
    """Whether every file of a path is known with its present content."""
    known = _known()
    files = code_files(path)
    return bool(files) and all(known.get(str(f.resolve())) == fingerprint(f) for f in files)


def remember(path: Path) -> None:
    """Note that the user agreed to run a path as it is now."""
    known = {**_known(), **{str(f.resolve()): fingerprint(f) for f in code_files(path)}}
    target = store()
    make_folder(target.parent)
    write_text(target, json.dumps(known, indent=1))
