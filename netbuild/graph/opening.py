"""From a file's name to a resolved graph: packaged networks, YAML files, checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path

from netbuild.grammar.locate import locate
from netbuild.grammar.spec import load
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolve import resolve
from netbuild.modules.gather import gather

Size = int | tuple[int, int] | None


def open_graph(
    file: str | Path,
    *,
    scale: str | None = None,
    nc: int | None = None,
    ch: int | None = None,
    imgsz: Size = None,
    modules: Sequence[str | Path] = (),
    trusted: bool | Callable[[Path], bool] = False,
    set: Sequence[str] = (),
) -> Graph:
    """Load and resolve a network: no weights yet.

    Args:
        file: a YAML file, the name of a packaged architecture (``yolo11n.yaml`` is ``yolo11.yaml`` at scale n), or a
            checkpoint.
        scale: the entry of the file's ``scales``.
        nc: number of classes, instead of the file's.
        ch: image channels, instead of the file's.
        imgsz: side, or (height, width), in pixels.
        modules: Python files or folders whose module classes the rows may use; their code is run.
        trusted: whether code that the file imports or carries may run, or a function that tells it of a path.
        set: values of the file's ``params``, such as ``reduction=8``.

    Raises:
        NetbuildError: with the place of every mistake in the file.
    """
    path, letter = locate(str(file))
    spec = load(path, set)
    own = gather(spec, modules, trusted if callable(trusted) else lambda _: bool(trusted))
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    return resolve(spec, Options(scale, letter, nc, ch, size, own))
