"""Output of commands: data to stdout, messages to stderr, spinners on terminals only."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class State:
    """Global options of this process."""

    debug = bool(os.environ.get("NETBUILD_DEBUG"))
    only_printed = False  # nothing is left that an orderly exit would finish


state = State()


def say(text: str) -> None:
    """Print a message to stderr."""
    print(_encodable(text, sys.stderr), file=sys.stderr)


def write(text: str) -> None:
    """Print data to stdout."""
    print(_encodable(text.rstrip("\n"), sys.stdout))


def write_json(data: Any) -> None:
    """Print data as JSON to stdout."""
    import json

    write(json.dumps(data, indent=1))


def show(renderable: Any) -> None:
    """Print a rich renderable to stdout: in colour on a terminal, plain and unwrapped elsewhere."""
    from netbuild.system.tables import to_text

    if not sys.stdout.isatty():
        write(to_text(renderable))
        return
    from rich.console import Console

    Console(soft_wrap=False).print(renderable)


def redraw(renderables: Sequence[Any], title: str, foot: Callable[[], str]) -> None:
    """Clear a terminal and print there; elsewhere print below a title. `foot` is called after rendering."""
    from netbuild.system.tables import to_text

    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(soft_wrap=False)
        with console.capture() as drawn:
            console.print(*renderables, sep="\n")
        # In one piece, so that it does not flicker.
        sys.stdout.write(f"\x1b[2J\x1b[H{drawn.get()}{foot()}\n")
    else:
        text = "\n".join(map(to_text, renderables))
        write(f"--- {title} ---\n{text}\n{foot()}")
    sys.stdout.flush()


def spinner(what: str) -> AbstractContextManager[Any]:
    """Return a context that shows a spinner on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


def resolving_spinner(file: str) -> AbstractContextManager[Any]:
    """Return a context that shows a spinner while a file of thousands of rows is resolved."""
    if not os.path.isfile(file) or os.path.getsize(file) < 50_000:
        return nullcontext()
    return spinner(f"resolving {file}")


def _encodable(text: str, stream: Any) -> str:
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
