"""What a network sees: kernels of its convolutions, feature maps of its rows, its activation functions as curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netbuild.author.seeing.activations import activations
from netbuild.author.seeing.kernels import kernels
from netbuild.author.seeing.maps import feature_maps
from netbuild.author.seeing.places import Sight, all_rows, place_of
from netbuild.author.seeing.tiles import MOST
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.predictor import trained_size
from netbuild.prediction.saving import check_folder
from netbuild.report.diagram import ALL_LEVELS, save
from netbuild.report.diagram.layout import import_graphlay
from netbuild.report.diagram.page import Picture, Section, page
from netbuild.report.summary import summarize_graph
from netbuild.system.files import make_folder, new_folder, write_bytes

KINDS = ("kernels", "maps", "curves")


def look(
    network: Network,
    image: str | Path | None = None,
    rows: Sequence[str] = (),
    kinds: Sequence[str] = (),
    most: int = MOST,
    step: Callable[[], object] = lambda: None,
) -> list[Sight]:
    """Pictures of a network: what was asked for, in the order of the rows.

    Args:
        network: as `netbuild.build` gives it; seen in eval, left as it was.
        image: the picture whose feature maps are wanted; without it there are none.
        rows: numbers, names, or paths into them such as ``2.m.0.cv1``; all rows unless given.
        kinds: of `KINDS`; all that there are unless given.
        most: maps or kernels a picture.
        step: called after each row.

    Raises:
        NetbuildError: for rows that there are not, a picture that cannot be read, or kinds that need what is missing.
        MissingExtraError: if Pillow or matplotlib is not installed.
    """
    wanted = _kinds(kinds, image)
    places = [place_of(network, text) for text in rows] if rows else all_rows(network)
    found: list[Sight] = []
    if "kernels" in wanted:
        found += [sight for place in places for sight in kernels(place, most)]
    if "maps" in wanted and image is not None:
        found += feature_maps(network, image, places, most, step)
    if "kernels" in kinds and not any(s.kind == "kernels" for s in found):
        raise NetbuildError("none of these rows has a convolution", hint="name one, or a path such as 2.cv1.conv")
    found.sort(key=lambda sight: sight.row if sight.row is not None else -1)
    return [*found, *(activations(network) if "curves" in wanted else [])]


def _kinds(kinds: Sequence[str], image: object) -> Sequence[str]:
    for kind in kinds:
        if kind not in KINDS:
            raise NetbuildError(f"'{kind}' is nothing to show", hint=did_you_mean(kind, KINDS) or ", ".join(KINDS))
    if "maps" in kinds and image is None:
        raise NetbuildError("maps are of a picture", hint="name one by --image")
    if image is not None and kinds and "maps" not in kinds:
        raise NetbuildError("--image has no effect without maps", hint="leave it out, or add maps to --what")
    return kinds or KINDS


def open_for(file: str | Path, size: tuple[int, int] | None, **opening: Any) -> Graph:
    """A network's graph at the size that pictures are fitted into: as asked for, else as it was trained."""
    graph = open_graph(file, imgsz=size, **opening)
    trained = trained_size(graph)
    if size is None and trained and trained != graph.imgsz:
        return open_graph(file, imgsz=trained, **opening)
    return graph


# -- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Where pictures go: a new folder, one PNG file, or the page; see `target`."""

    path: Path

    def write(self, sights: Sequence[Sight], graph: Graph) -> list[Path]:
        """Write all; of each picture the file that it is in.

        Raises:
            NetbuildError: if there are several for one PNG file, or the disk refuses.
        """
        if self.path.suffix == ".html":
            return self._page(sights, graph)
        if self.path.suffix == ".png":
            return self._single(sights)
        return self._folder(sights)

    def _page(self, sights: Sequence[Sight], graph: Graph) -> list[Path]:
        """In the panel of each row its pictures; the curves at the end."""
        rows: dict[int, list[Picture]] = {}
        for sight in sights:
            if sight.row is not None:
                rows.setdefault(sight.row, []).append(Picture(sight.title, sight.png))
        whole = [Picture(sight.title, sight.png) for sight in sights if sight.row is None]
        sections = [Section("Activation functions", whole)] if whole else []
        save(page(summarize_graph(graph, depth=ALL_LEVELS), pictures=rows, sections=sections), self.path)
        return [self.path] * len(sights)

    def _single(self, sights: Sequence[Sight]) -> list[Path]:
        if len(sights) > 1:
            said = f"{self.path}: there are {len(sights)} pictures for one file"
            raise NetbuildError(said, hint="name a folder, or one --row and one of --what")
        write_bytes(self.path, sights[0].png)
        return [self.path]

    def _folder(self, sights: Sequence[Sight]) -> list[Path]:
        make_folder(self.path)
        files = [self.path / f"{sight.name}.png" for sight in sights]
        for file, sight in zip(files, sights, strict=True):
            write_bytes(file, sight.png)
        return files


def target(out: Path | None) -> Target:
    """Where pictures go, checked before they are made.

    Raises:
        NetbuildError: for another ending, a folder with something in it, or one that is not there.
    """
    path = out or new_folder("view")
    if path.suffix in (".png", ".html"):
        if not path.parent.is_dir():
            raise NetbuildError(f"{path}: there is no folder {path.parent}")
        if path.is_dir():
            raise NetbuildError(f"{path}: is a folder")
        if path.suffix == ".html":
            import_graphlay()  # says at once if the layout library is missing
    elif path.suffix and not path.is_dir():
        raise NetbuildError(f"{path}: is neither a folder's name, .png, nor .html")
    else:
        check_folder(path)
    return Target(path)
