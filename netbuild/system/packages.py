"""Import optional packages; the error for a missing one names the extra that installs it."""

from importlib import import_module
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
        hint = f"pip install {top} (or netbuild[{extra or top}])"
        raise MissingExtraError(f"the package '{top}' is not installed", hint=hint) from None
    except RuntimeError as error:  # a torchvision built for another torch
        raise MissingExtraError(f"{top} does not load: {error}", hint="match its version to torch") from None


def cv2() -> Any:
    """Import OpenCV, which resizes and transforms images several times faster than Pillow.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return package("cv2", "train")
    except MissingExtraError:
        message = (
            "images are resized and videos are read with OpenCV, which is not installed: pip install 'netbuild[train]'"
        )
        raise MissingExtraError(message) from None
