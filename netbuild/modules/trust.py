"""Code files that the user has agreed to run, recorded by path and content hash in the user's settings folder."""

import json
from pathlib import Path

from netbuild.errors import NetbuildError, shorten
from netbuild.modules.source import read_code
from netbuild.system.files import make_folder, refuse_special, write_text
from netbuild.system.folders import old_settings_folder, settings_folder

MAX_BYTES = 2**26  # of the record
FILE = "trusted.json"  # maps the path of each trusted file to its SHA-256


def _read(file: Path) -> dict[str, str]:
    """Read a record of trusted files; empty if there is none.

    Raises:
        NetbuildError: if it is damaged: writing it again would lose what it holds.
    """
    hint = "delete it; files that were trusted are asked about again"
    try:
        if reason := refuse_special(file, MAX_BYTES):
            raise NetbuildError(f"{file}: {reason}", hint=hint)
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (ValueError, RecursionError) as error:
        raise NetbuildError(f"{file}: not a record of trusted files: {shorten(error, 100)}", hint=hint) from None
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise NetbuildError(f"{file}: not a record of trusted files, which maps paths to SHA-256", hint=hint)
    return data


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
