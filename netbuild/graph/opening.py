"""Open a network by name: a YAML file, a packaged architecture or a checkpoint becomes a resolved graph."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from netbuild.errors import check_keywords
from netbuild.grammar.locate import locate
from netbuild.grammar.spec import load
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules.loading import load_custom_modules

Size = int | tuple[int, int] | None


class NetworkOptions(TypedDict, total=False):
    """The keywords of every function that opens a network file; what is left out comes from the file or a default.

    Attributes:
        scale: an entry of the file's ``scales``.
        nc: number of classes.
        ch: image channels.
        imgsz: image side, or (height, width), in pixels.
        modules: Python files or folders whose module classes the rows may use; their code is run.
        kpt_shape: number of keypoints of an object and of values of each, for a file with the key ``kpt_shape``.
        head_nc: numbers of classes of heads, by name, for a file with several heads.
        trusted: whether to run code that the file imports or a checkpoint carries, or a function that decides by path.
        set: new values of the file's ``params``, such as ``reduction=8``.
        task: another task than the file's; ``multilabel`` and ``regress`` of networks that classify.
    """

    scale: str | None
    nc: int | None
    ch: int | None
    imgsz: Size
    kpt_shape: tuple[int, int] | None
    head_nc: Mapping[str, int]
    modules: Sequence[str | Path]
    trusted: bool | Callable[[Path], bool]
    set: Sequence[str]
    task: str | None


def open_graph(file: str | Path, **options: Unpack[NetworkOptions]) -> Graph:
    """Load and resolve a network: no weights yet.

    Args:
        file: a YAML file, a packaged architecture (``yolo11n.yaml`` means ``yolo11.yaml`` at scale n) or a checkpoint.
        options: see `NetworkOptions`.

    Raises:
        KeywordError: for an unknown keyword.
        NetbuildError: with the place of every mistake in the file.
    """
    check_keywords(options, NetworkOptions.__annotations__)
    path, letter = locate(str(file))
    spec = load(path, options.get("set", ()))
    trusted = options.get("trusted", False)
    may_run = trusted if callable(trusted) else lambda _: bool(trusted)
    custom = load_custom_modules(spec, options.get("modules", ()), may_run)
    size = expand_size(options.get("imgsz"))
    scale, nc, ch, shape = options.get("scale"), options.get("nc"), options.get("ch"), options.get("kpt_shape")
    head_nc = options.get("head_nc") or {}
    return resolve(spec, Options(scale, letter, nc, ch, size, custom, shape, options.get("task"), head_nc))


def expand_size(size: Size) -> tuple[int, int] | None:
    """Return (height, width) of a size that is one side, both sides, or None."""
    return (size, size) if isinstance(size, int) else size
