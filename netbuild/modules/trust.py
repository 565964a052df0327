"""Code files that the user has agreed to run, recorded by path and content hash in the user's settings folder."""

import json
from pathlib import Path

from netbuild.modules.source import read_code
from netbuild.system.files import make_folder, write_text
from netbuild.system.folders import old_settings_folder, settings_folder

FILE = "trusted.json"  # maps the path of each trusted file to its SHA-256


def _read(file: Path) -> dict[str, str]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}


def _read_trusted() -> dict[str, str]:
    """Read the hash of each trusted file by its path; earlier versions kept them in another folder on some systems."""
    return {**_read(old_settings_folder() / FILE), **_read(settings_folder() / FILE)}


def is_trusted(path: Path) -> bool:
    """Whether the user has agreed to run every code file of a path with its present content."""
    trusted = _read_trusted()
    fingerprints = read_code(path).fingerprints()
    return bool(fingerprints) and all(trusted.get(file) == digest for file, digest in fingerprints.items())


def add_trusted(path: Path) -> None:
    """Record that the user agreed to run the code of a path with its present content.

    Raises:
        NetbuildError: if the record cannot be written.
    """
    trusted = {**_read_trusted(), **read_code(path).fingerprints()}
    make_folder(settings_folder())
    write_text(settings_folder() / FILE, json.dumps(trusted, indent=1))
