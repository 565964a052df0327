"""From a file's name to a resolved graph: packaged networks, YAML files, checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from netbuild.errors import check_keywords
from netbuild.grammar.locate import locate
from netbuild.grammar.spec import load
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules.gather import gather

Size = int | tuple[int, int] | None


class NetworkOptions(TypedDict, total=False):
    """The keywords of every function that opens a network's file; those left out are the file's own, or the default.

    Attributes:
        scale: the entry of the file's ``scales``.
        nc: number of classes, instead of the file's.
        ch: image channels, instead of the file's.
        imgsz: side, or (height, width), in pixels.
        modules: Python files or folders whose module classes the rows may use; their code is run.
        trusted: whether code that the file imports or carries may run, or a function that decides for each path.
        set: values of the file's ``params``, such as ``reduction=8``.
    """

    scale: str | None
    nc: int | None
    ch: int | None
    imgsz: Size
    modules: Sequence[str | Path]
    trusted: bool | Callable[[Path], bool]
    set: Sequence[str]


def open_graph(file: str | Path, **options: Unpack[NetworkOptions]) -> Graph:
    """Load and resolve a network: no weights yet.

    Args:
        file: a YAML file, the name of a packaged architecture (``yolo11n.yaml`` is ``yolo11.yaml`` at scale n), or a
            checkpoint.
        options: see `NetworkOptions`.

    Raises:
        KeywordError: for a keyword that is none of them.
        NetbuildError: with the place of every mistake in the file.
    """
    check_keywords(options, NetworkOptions.__annotations__)
    path, letter = locate(str(file))
    spec = load(path, options.get("set", ()))
    trusted = options.get("trusted", False)
    own = gather(spec, options.get("modules", ()), trusted if callable(trusted) else lambda _: bool(trusted))
    given = Options(options.get("scale"), letter, options.get("nc"), options.get("ch"), pair(options.get("imgsz")), own)
    return resolve(spec, given)


def pair(size: Size) -> tuple[int, int] | None:
    """(height, width) of a size that is given as one side, as both, or not at all."""
    return (size, size) if isinstance(size, int) else size
