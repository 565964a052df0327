"""Optional packages: imported where they are used; a missing one is an error that names the extra that brings it."""

from importlib import import_module
from typing import Any

from netbuild.errors import MissingExtraError


def package(name: str, extra: str | None = None) -> Any:
    """An optional package's module.

    Raises:
        MissingExtraError: if it is not installed, or was built for another torch.
    """
    top = name.split(".")[0]
    try:
        return import_module(name)
    except ImportError:
        hint = f"pip install {top} (or netbuild[{extra or top}])"
        raise MissingExtraError(f"it needs the package '{top}'", hint=hint) from None
    except RuntimeError as error:  # a torchvision built for another torch
        raise MissingExtraError(f"{top} does not load: {error}", hint="match its version to torch") from None


def cv2() -> Any:
    """OpenCV, which changes pictures several times faster than Pillow.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return package("cv2", "train")
    except MissingExtraError:
        message = "pictures are resized and videos read by OpenCV: pip install 'netbuild[train]'"
        raise MissingExtraError(message) from None
