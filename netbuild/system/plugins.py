"""What installed packages offer by entry points: loaded, and held to the class that is wanted."""

from typing import Any

from netbuild.errors import NetbuildError, shorten


def load(point: Any, what: str, base: type, wanted: str) -> type:
    """The class that an entry point names.

    Args:
        point: the entry point.
        what: how messages call it.
        base: what it must be a class of; ``wanted`` is how messages call that.

    Raises:
        NetbuildError: if it does not load, or is another thing.
    """
    try:
        cls = point.load()
    except Exception as error:  # whatever the package's code says
        text = shorten(str(error) or type(error).__name__)
        raise NetbuildError(f"{what} '{point.name}' = {point.value} does not load: {text}") from None
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise NetbuildError(f"{what} '{point.name}' = {point.value} is no {wanted} class")
    return cls
