"""Draws a network's kernels, feature maps and activation functions, and writes the pictures into files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netbuild.author.seeing.activations import draw_activations
from netbuild.author.seeing.kernels import draw_kernels
from netbuild.author.seeing.maps import draw_feature_maps
from netbuild.author.seeing.places import View, find_place, list_rows
from netbuild.author.seeing.tiles import MAX_TILES
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


def draw_views(
    network: Network,
    image: str | Path | None = None,
    rows: Sequence[str] = (),
    kinds: Sequence[str] = (),
    limit: int = MAX_TILES,
    step: Callable[[], object] = lambda: None,
) -> list[View]:
    """Draw views of a network and return them in the order of its rows.

    Args:
        network: a network as built by `netbuild.build`; it is run in eval mode and left as it was.
        image: the picture for feature maps; without it there are none.
        rows: numbers or names of rows, or paths such as ``2.m.0.cv1`` into them; all rows unless given.
        kinds: some of `KINDS`; all unless given.
        limit: the largest number of maps or kernels in a view.
        step: called after each row.

    Raises:
        NetbuildError: for a row that does not exist, a picture that cannot be read, feature maps without a picture,
            or kernels without a convolution.
        MissingExtraError: if Pillow or matplotlib is not installed.
    """
    chosen = _check_kinds(kinds, image)
    places = [find_place(network, text) for text in rows] if rows else list_rows(network)
    found: list[View] = []
    if "kernels" in chosen:
        found += [view for place in places for view in draw_kernels(place, limit)]
    if "maps" in chosen and image is not None:
        found += draw_feature_maps(network, image, places, limit, step)
    if "kernels" in kinds and not any(v.kind == "kernels" for v in found):
        raise NetbuildError("none of these rows has a convolution", hint="name one, or a path such as 2.cv1.conv")
    found.sort(key=lambda view: view.row if view.row is not None else -1)
    return [*found, *(draw_activations(network) if "curves" in chosen else [])]


def _check_kinds(kinds: Sequence[str], image: object) -> Sequence[str]:
    for kind in kinds:
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS) or f"kinds: {', '.join(KINDS)}"
            raise NetbuildError(f"--what: there is no kind '{kind}'", hint=hint)
    if "maps" in kinds and image is None:
        raise NetbuildError("feature maps need a picture", hint="give one by --image")
    if image is not None and kinds and "maps" not in kinds:
        raise NetbuildError("--image has no effect without maps", hint="leave it out, or add maps to --what")
    return kinds or KINDS


def open_at_trained_size(file: str | Path, size: tuple[int, int] | None, **opening: Any) -> Graph:
    """Open a network's graph at the given size, else at the size that it was trained at."""
    graph = open_graph(file, imgsz=size, **opening)
    trained = trained_size(graph)
    if size is None and trained and trained != graph.imgsz:
        return open_graph(file, imgsz=trained, **opening)
    return graph


# -- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Destination:
    """The output for pictures, as checked by `check_destination`: a new folder, one PNG file, or an HTML page."""

    path: Path

    def write(self, views: Sequence[View], graph: Graph) -> list[Path]:
        """Write all views and return the file of each.

        Raises:
            NetbuildError: if there are several for one PNG file, or if a file cannot be written.
        """
        if self.path.suffix == ".html":
            return self._write_page(views, graph)
        if self.path.suffix == ".png":
            return self._write_single(views)
        return self._write_folder(views)

    def _write_page(self, views: Sequence[View], graph: Graph) -> list[Path]:
        """Write a page with the views of each row in its panel, and the curves at the end."""
        rows: dict[int, list[Picture]] = {}
        for view in views:
            if view.row is not None:
                rows.setdefault(view.row, []).append(Picture(view.title, view.png))
        curves = [Picture(view.title, view.png) for view in views if view.row is None]
        sections = [Section("Activation functions", curves)] if curves else []
        save(page(summarize_graph(graph, depth=ALL_LEVELS), pictures=rows, sections=sections), self.path)
        return [self.path] * len(views)

    def _write_single(self, views: Sequence[View]) -> list[Path]:
        if len(views) > 1:
            message = f"{self.path}: there are {len(views)} pictures for one file"
            raise NetbuildError(message, hint="name a folder, or one --row and one of --what")
        write_bytes(self.path, views[0].png)
        return [self.path]

    def _write_folder(self, views: Sequence[View]) -> list[Path]:
        make_folder(self.path)
        files = [self.path / f"{view.name}.png" for view in views]
        for file, view in zip(files, views, strict=True):
            write_bytes(file, view.png)
        return files


def check_destination(out: Path | None) -> Destination:
    """Check the output for pictures before they are drawn; a new folder unless given.

    Raises:
        NetbuildError: for an unknown ending, a folder that is not empty, or a missing parent folder.
    """
    path = out or new_folder("view")
    if path.suffix in (".png", ".html"):
        if not path.parent.is_dir():
            raise NetbuildError(f"{path}: there is no folder {path.parent}")
        if path.is_dir():
            raise NetbuildError(f"{path} is a folder")
        if path.suffix == ".html":
            import_graphlay()  # fails now, not after drawing, if the layout library is missing
    elif path.suffix and not path.is_dir():
        raise NetbuildError(f"{path}: the output must be a folder, or a file that ends in .png or .html")
    else:
        check_folder(path)
    return Destination(path)
