"""Import optional packages; the error for a missing one names the packages of the extra that installs it."""

import re
import shlex
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from netbuild.errors import MissingExtraError


def package(name: str, extra: str | None = None) -> Any:
    """Import an optional package.

    Args:
        name: of the package or a module in it.
        extra: the extra of netbuild that installs it; by default it has the package's name.

    Raises:
        MissingExtraError: if it is not installed, or does not load.
    """
    top = name.split(".")[0]
    try:
        return import_module(name)
    except ImportError:
        hint = install_hint(extra or top, [top])
        raise MissingExtraError(f"the package '{top}' is not installed", hint=hint) from None
    except RuntimeError as error:  # a torchvision built for another torch
        hint = _matching_version() if "torchvision" in f"{top} {error}" else "match its version to torch"
        raise MissingExtraError(f"{top} does not load: {error}", hint=hint) from None


def _matching_version() -> str:
    """Return a hint with the torchvision of the installed torch: since torch 2.0 its minor version is 15 higher."""
    torch = metadata.version("torch")
    minor = re.match(r"2\.(\d+)", torch)
    wanted = f": pip install 'torchvision==0.{int(minor[1]) + 15}.*'" if minor else ""
    return f"install the torchvision that was built for torch {torch}{wanted}"


def install_hint(extra: str, packages: Sequence[str] = ()) -> str:
    """Return the command that installs an extra's packages, by their names: the extra itself may be on no index.

    Args:
        extra: the name of the extra.
        packages: the packages to name if the extra is not one of netbuild's own.
    """
    names = list_packages(extra) or list(packages)
    if not names:
        return f"pip install 'netbuild[{extra}]'"
    return f"pip install {' '.join(map(shlex.quote, names))} (the extra netbuild[{extra}])"


@cache
def list_packages(extra: str) -> tuple[str, ...]:
    """List the packages of an extra with their versions, as pip takes them; empty if it is unknown."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():  # a checkout, whose installed metadata may be out of date or missing
        try:
            return tuple(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"][extra])
        except (OSError, ValueError, LookupError, TypeError):  # another project's file, or another extra
            pass
    try:
        known = metadata.requires("netbuild") or []
    except metadata.PackageNotFoundError:
        return ()
    parts = (text.partition(";") for text in known)
    return tuple(
        name.strip() for name, _, marker in parts if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker)
    )


def least_versions(extra: str) -> dict[str, str]:
    """Return the least version that an extra states for each of its packages."""
    bounds = (re.match(r"([\w.-]+)>=([\d.]+)", requirement) for requirement in list_packages(extra))
    return {bound[1]: bound[2] for bound in bounds if bound}


def find_older_version(name: str, least: str) -> str:
    """Return the version of an installed package if it is older than the least one; else, or without it, nothing."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
    return version if _release(version) < _release(least) else ""


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without zeros at their end: (2, 8) for "2.8.0+cpu"."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0)+$", "", numbers[0]).split("."))) if numbers else ()


def cv2() -> Any:
    """Import OpenCV, which resizes and transforms images several times faster than Pillow.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return package("cv2", "train")
    except MissingExtraError:
        message = "images are resized and videos are read with OpenCV, which is not installed"
        raise MissingExtraError(message, hint=install_hint("train")) from None
