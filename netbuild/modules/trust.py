"""Code that the user has agreed to run, remembered by path and content in the user's settings folder."""

import json
from pathlib import Path

from netbuild.modules.own import code_files, fingerprint
from netbuild.system.files import make_folder, write_text
from netbuild.system.folders import old_settings_folder, settings_folder

FILE = "trusted.json"  # path to SHA-256 of every file that may run


def _read(file: Path) -> dict[str, str]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}


def _known() -> dict[str, str]:
    """The fingerprint of each trusted file, by its path."""
    return {**_read(old_settings_folder() / FILE), **_read(settings_folder() / FILE)}


def is_remembered(path: Path) -> bool:
    """Whether every code file of a path is known with its present content."""
    known = _known()
    files = code_files(path)
    return bool(files) and all(known.get(str(f.resolve())) == fingerprint(f) for f in files)


def remember(path: Path) -> None:
    """Note that the user agreed to run the code of a path as it is now.

    Raises:
        NetbuildError: if the note cannot be written.
    """
    known = {**_known(), **{str(f.resolve()): fingerprint(f) for f in code_files(path)}}
    make_folder(settings_folder())
    write_text(settings_folder() / FILE, json.dumps(known, indent=1))
