"""Callbacks whose errors do not end the run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from netbuild.errors import MissingExtraError, NetbuildError, shorten
from netbuild.training.callbacks import Callback


class TolerantCallback(Callback):
    """Base class of callbacks whose errors do not end the run, because hours of training weigh more than a plot."""

    has_warned = False

    @contextmanager
    def tolerate_errors(self) -> Iterator[None]:
        """Catch any exception raised in the block; the first one is printed as a note, later ones are dropped."""
        try:
            yield
        except Exception as error:  # a plotting library, a service, a plug-in task or a full disk may raise anything
            if not self.has_warned:
                print(describe_omission(error), file=sys.stderr, flush=True)
            self.has_warned = True


def describe_omission(error: Exception) -> str:
    """The line that says which error leaves a plot or a log out."""
    if isinstance(error, MissingExtraError):
        return f"note: plots are left out: {error.message}; {error.hint}"
    message = error.message if isinstance(error, NetbuildError) else f"{type(error).__name__}: {error}"
    return f"note: a plot or log is left out: {shorten(message, 200)}"
