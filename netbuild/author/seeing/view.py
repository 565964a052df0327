"""What a network sees: kernels of its convolutions, feature maps of its rows, its activation functions as curves."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netbuild.costs.outputs import tensors_of
from netbuild.data.fitting import FITTINGS
from netbuild.data.images import read_image
from netbuild.drawing import charts
from netbuild.drawing.annotated import Image, pillow
from netbuild.drawing.sheets import encoded, write
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.contract import facts, multiple_of, task_of
from netbuild.prediction.predictor import evaluating, trained_size
from netbuild.prediction.saving import check_folder
from netbuild.report.diagram import EVERY, save
from netbuild.report.diagram.layout import engine
from netbuild.report.diagram.page import Picture, Section, page
from netbuild.report.summary import summarize_graph
from netbuild.system.files import new_folder
from netbuild.system.packages import package

MOST = 64  # maps or kernels of a picture, unless told
SIDE = 128  # pixels of a map's tile, at most
KERNEL = 40  # pixels of a kernel's tile, about
PLANES = 16  # input channels of a kernel that are shown, each a tile
WIDEST = 1200  # pixels of a picture
GAP, TEXT = 2, 15
GREY = 90  # between kernels, in which white is 0
SPAN = 6.0  # curves go from minus this to this
KINDS = ("kernels", "maps", "curves")


@dataclass(frozen=True)
class Sight:
    """A picture of a part of a network.

    Args:
        row: its number; None of the curves, which are of the whole network.
        path: of the module inside the row, "" for the row itself.
        module: its name.
        kind: one of `KINDS`.
        title: what is shown, in a line.
        png: the picture.
    """

    row: int | None
    path: str
    module: str
    kind: str
    title: str
    png: bytes

    @property
    def name(self) -> str:
        """A file's name without its ending."""
        if self.row is None:
            return "activations"
        place = ".".join(filter(None, (f"{self.row:03d}", self.path)))
        return f"{place}-{self.module.rpartition('.')[2]}-{self.kind}"

    def facts(self) -> dict[str, Any]:
        """Without the picture, as JSON data."""
        return {"row": self.row, "path": self.path, "module": self.module, "kind": self.kind, "title": self.title}


@dataclass(frozen=True)
class Place:
    """A row, or a module inside one, as the user names it: ``p3``, ``4``, ``-1``, ``2.m.0.cv1``."""

    row: int
    path: str
    module: nn.Module
    label: str


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
        try:
            if self.path.suffix == ".html":
                return self._page(sights, graph)
            if self.path.suffix == ".png":
                return self._single(sights)
            return self._folder(sights)
        except OSError as error:
            raise NetbuildError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _page(self, sights: Sequence[Sight], graph: Graph) -> list[Path]:
        """In the panel of each row its pictures; the curves at the end."""
        rows: dict[int, list[Picture]] = {}
        for sight in sights:
            if sight.row is not None:
                rows.setdefault(sight.row, []).append(Picture(sight.title, sight.png))
        whole = [Picture(sight.title, sight.png) for sight in sights if sight.row is None]
        sections = [Section("Activation functions", whole)] if whole else []
        save(page(summarize_graph(graph, depth=EVERY), pictures=rows, sections=sections), self.path)
        return [self.path] * len(sights)

    def _single(self, sights: Sequence[Sight]) -> list[Path]:
        if len(sights) > 1:
            said = f"{self.path}: there are {len(sights)} pictures for one file"
            raise NetbuildError(said, hint="name a folder, or one --row and one of --what")
        write(self.path, sights[0].png)
        return [self.path]

    def _folder(self, sights: Sequence[Sight]) -> list[Path]:
        self.path.mkdir(parents=True, exist_ok=True)
        files = [self.path / f"{sight.name}.png" for sight in sights]
        for file, sight in zip(files, sights, strict=True):
            write(file, sight.png)
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
            engine()  # says at once if the layout library is missing
    elif path.suffix and not path.is_dir():
        raise NetbuildError(f"{path}: is neither a folder's name, .png, nor .html")
    else:
        check_folder(path)
    return Target(path)


# -- places -----------------------------------------------------------------------------------------------------------


def all_rows(network: Network) -> list[Place]:
    """Every row as a place."""
    return [place_of(network, str(i)) for i in range(len(network.model))]


def place_of(network: Network, text: str) -> Place:
    """A row by number or name, or a module inside it by its path.

    Raises:
        NetbuildError: if there is none.
    """
    names = {name: i for i, (_, name) in enumerate(network.facts["rows"]) if name}
    first, _, path = text.strip().removeprefix("model.").partition(".")
    count = len(network.model)
    if first in names:
        row = names[first]
    elif first.lstrip("-").isdecimal() and -count <= int(first) < count:
        row = int(first) % count
    else:
        said = f"--row {text}: there is no such row; the network has rows 0 to {count - 1}"
        raise NetbuildError(said, hint=did_you_mean(first, names))
    module = network.model[row]
    try:
        module = module.get_submodule(path)
    except AttributeError:
        inside = [name for name, _ in network.model[row].named_modules() if name]
        hint = did_you_mean(path, inside) or (f"it has {', '.join(inside[:8])}, ..." if inside else "it has none")
        raise NetbuildError(f"--row {text}: row {row} has no module '{path}'", hint=hint) from None
    called = network.facts["rows"][row][0] if not path else type(module).__name__
    return Place(row, path, module, str(called))


# -- kernels ----------------------------------------------------------------------------------------------------------


def kernels(place: Place, most: int = MOST) -> Iterator[Sight]:
    """The kernels of the first convolution at a place, white where a weight is 0; none where there is none."""
    for name, module in place.module.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weight = module.weight.detach().float().cpu()
            # A transposed convolution has its input channels first.
            weight = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
            path = ".".join(filter(None, (place.path, name)))
            image, said = kernel_image(weight.numpy(), most)
            title = f"row {place.row} {place.label}{' ' + path if path else ''}: {said}"
            yield Sight(place.row, place.path, place.label, "kernels", title, encoded(titled(image, title)))
            return


def kernel_image(weight: np.ndarray, most: int = MOST) -> tuple[Image, str]:
    """A picture of weights (O, I, kh, kw), and what is in it.

    Kernels over three channels are colours, of 1x1 kernels the matrix is shown; else a line a kernel, a tile a channel.
    """
    out, channels, kh, kw = weight.shape
    large = float(np.abs(weight).max()) or 1.0
    scale = f"blue -{large:.2g}, white 0, red {large:.2g}"
    size = f"{out} kernels of {kh}x{kw} over {channels} channel{'s' if channels > 1 else ''}"
    if kh == kw == 1:
        shown = coloured(weight[:, :, 0, 0] / large, "RdBu_r")
        return enlarged(shown, _cell(out), _cell(channels)), f"{size}: a line each, {scale}"
    if channels == 3:
        tiles = [(0.5 + k.transpose(1, 2, 0) / (2 * (np.abs(k).max() or 1))) * 255 for k in weight[:most]]
        cells = [enlarged(tile.astype(np.uint8), *_tile((kh, kw))) for tile in tiles]
        return grid(cells, ground=GREY), _first(size, out, most) + " as red, green and blue, grey 0"
    if channels == 1:
        cells = [enlarged(coloured(k[0] / large, "RdBu_r"), *_tile((kh, kw))) for k in weight[:most]]
        return grid(cells, ground=GREY), f"{_first(size, out, most)}, {scale}"
    lines, planes = min(out, max(most // 2, 1)), min(channels, PLANES)
    cells = [enlarged(coloured(k / large, "RdBu_r"), *_tile((kh, kw), 24)) for o in weight[:lines] for k in o[:planes]]
    left = f", of it {lines} x {planes}" if (lines, planes) != (out, channels) else ""
    return grid(cells, planes, GREY), f"{size}: a line each{left}, {scale}"


def _first(text: str, count: int, most: int) -> str:
    return text if count <= most else f"{text}, the first {most},"


def _tile(shape: Sequence[int], side: int = KERNEL) -> tuple[int, int]:
    times = max(round(side / max(shape)), 2)
    return shape[0] * times, shape[1] * times


def _cell(count: int) -> int:
    """Pixels of a matrix's side: some a value, or fewer than values where it is large."""
    return min(count * min(max(480 // count, 1), 12), WIDEST)


# -- feature maps -----------------------------------------------------------------------------------------------------


def feature_maps(
    network: Network, image: str | Path, places: Sequence[Place], most: int, step: Callable[[], object]
) -> list[Sight]:
    """What a picture becomes at each place: a tile a channel, each from its own least (dark) to its largest (light).

    Raises:
        NetbuildError: if the picture cannot be read, the network takes something else, or fails.
    """
    found: list[Sight] = []

    def seer(place: Place) -> Callable[..., None]:
        def see(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.extend(_maps(place, output, most))
            step()

        return see

    handles = [place.module.register_forward_hook(seer(place)) for place in places]
    try:
        with torch.no_grad(), evaluating(network):
            network(fitted(network, image))
    except RuntimeError as error:
        raise NetbuildError(
            f"the network fails on {image}: {shorten(error, 200)}", hint="try another --imgsz"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list({(s.row, s.path, s.title): s for s in found}.values())  # a module may be called more than once


def _maps(place: Place, output: Any, most: int) -> Iterator[Sight]:
    tensors = [x for x in tensors_of(output) if isinstance(x, Tensor) and x.is_floating_point()]
    for number, tensor in enumerate(tensors):
        image, said = map_image(tensor[0].detach().float().cpu().numpy(), most)
        which = f" output {number}" if len(tensors) > 1 else ""
        inner = f" {place.path}" if place.path else ""
        title = f"row {place.row} {place.label}{inner}{which}: {said}"
        kind = f"maps{f'-{number}' if number else ''}"
        yield Sight(place.row, place.path, place.label, kind, title, encoded(titled(image, title)))


def map_image(values: np.ndarray, most: int = MOST) -> tuple[Image, str]:
    """A picture of an output without its batch axis, and what is in it: (C, H, W) as tiles, else as a matrix."""
    if values.ndim != 3 or min(values.shape[1:]) == 1:
        matrix = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
        low, high = _ends(matrix)
        pixels = coloured(np.stack([_stretched(line) for line in matrix]), "viridis")
        size = "x".join(map(str, values.shape)) or "1"
        said = f"{size}, a line each, from {low:.3g} to {high:.3g} in all"
        return enlarged(pixels, _cell(len(matrix)), _cell(matrix.shape[1])), said
    count, h, w = values.shape
    times = max(SIDE // max(h, w), 1)
    ratio = min(SIDE / max(h, w), 1) if times == 1 else times
    side = max(round(h * ratio), 1), max(round(w * ratio), 1)
    shown = [enlarged(coloured(_stretched(channel), "viridis"), *side) for channel in values[:most]]
    flat = sum(low == high for low, high in map(_ends, values))
    said = f"{count} map{'s' if count > 1 else ''} of {h}x{w}" + (f", the first {most}" if count > most else "")
    return grid(shown), said + (f"; {flat} the same everywhere" if flat else "")


def _ends(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _stretched(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; what is the same everywhere, or not finite, is 0."""
    low, high = _ends(values)
    return np.nan_to_num((values - low) / ((high - low) or 1.0), posinf=0.0, neginf=0.0)


def fitted(network: Network, image: str | Path) -> Tensor:
    """The picture as the network sees it: (1, C, H, W), from 0 to 1.

    Raises:
        NetbuildError: if it cannot be read, or the network takes something else than one image.
    """
    known = network.facts
    inputs, channels = known.get("inputs") or (), known["ch"]
    if len(inputs) > 1 or any(len(shape) != 3 for _, shape in inputs):
        raise NetbuildError("maps are of networks that take one image", hint="--what kernels,curves needs no picture")
    if channels not in (1, 3, 4):
        raise NetbuildError(f"pictures have 1, 3 or 4 channels, the network's image has {channels}")
    size = tuple(known["imgsz"])
    how = FITTINGS[facts(network, size, task_of(network))["fitting"]]
    pixels, _ = how(read_image(Path(image), channels), size, multiple_of(network), True)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255


# -- activation functions ---------------------------------------------------------------------------------------------


def activations(network: Network) -> list[Sight]:
    """The activation functions that the network uses, as curves with their derivatives; none if it has none."""
    found = functions(network)
    if not found:
        return []
    drawn = curves({f"{name}: {_listed(rows)}": module for name, (module, rows) in found.items()})
    title = f"activation functions: {', '.join(found)}"
    return [Sight(None, "", "", "curves", title, charts.encoded(drawn))]


def functions(network: Network) -> dict[str, tuple[nn.Module, list[int]]]:
    """Activation functions by how they are written, and the rows that have them.

    Whatever gives every number its own, not as a straight line, is one: by trial, so that own modules count too.
    """
    found: dict[str, tuple[nn.Module, list[int]]] = {}
    tried: dict[int, bool] = {}
    for row in range(len(network.model)):
        for module in network.model[row].modules():
            if next(module.children(), None) is None and tried.setdefault(id(module), is_function(module)):
                rows = found.setdefault(written(module), (module, []))[1]
                if row not in rows:
                    rows.append(row)
    return found


def is_function(module: nn.Module) -> bool:
    """Whether a module gives each number its own, whatever is beside it, and bends."""
    if any(p.numel() > 1 for p in module.parameters()):
        return False
    x = torch.linspace(-3, 3, 32).reshape(1, 2, 4, 4)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), evaluating(module):
            y, z = module(x), module(x.reshape(-1)[order].reshape(x.shape))
            zero = module(torch.zeros_like(x))
            twice, back = module(2 * x) - zero, module(-x) - zero
            straight = torch.allclose(twice, 2 * (y - zero)) and torch.allclose(back, zero - y)
    except Exception:  # it wants something else than a picture
        return False
    alike = isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point()
    return bool(alike and torch.allclose(y.reshape(-1)[order], z.reshape(-1), atol=1e-6) and not straight)


def written(module: nn.Module) -> str:
    """A module as its class and what it was given: LeakyReLU(0.1)."""
    given = ", ".join(part for part in module.extra_repr().split(", ") if part and "inplace" not in part)
    return type(module).__name__ + (f"({given})" if given else "")


def _listed(rows: Sequence[int]) -> str:
    """Numbers with runs as 0-3."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(texts)}"


def curves(named: dict[str, nn.Module]) -> charts.Figure:
    """A panel a function: its value, and its derivative dashed."""
    columns = min(len(named), 3)
    rows = math.ceil(len(named) / columns)
    drawn = charts.figure(max(3.6 * columns, 4.5), 3.0 * rows)
    x = torch.linspace(-SPAN, SPAN, 1201)
    for i, (title, module) in enumerate(named.items()):
        given = x.clone().requires_grad_()
        with torch.enable_grad(), evaluating(module):
            y = module(given.reshape(1, 1, 1, -1)).reshape(-1)
            slope = torch.autograd.grad(y.sum(), given)[0] if y.requires_grad else torch.zeros_like(x)
        charts.curve(drawn.add_subplot(rows, columns, i + 1), title, x.numpy(), y.detach().numpy(), slope.numpy())
    return drawn


# -- pictures ---------------------------------------------------------------------------------------------------------


def coloured(values: np.ndarray, name: str) -> Image:
    """Numbers as colours of a map of matplotlib's: of viridis from 0 to 1, of RdBu_r from -1 to 1; (H, W, 3)."""
    scale = package("matplotlib", "train").colormaps[name]
    shown = (values + 1) / 2 if name == "RdBu_r" else values
    return np.asarray(scale(shown, bytes=True)[..., :3])


def enlarged(image: Image, height: int, width: int) -> Image:
    """A picture in another size; values stay visible as squares."""
    pil = pillow()[0]
    larger = height >= image.shape[0] and width >= image.shape[1]
    how = pil.Resampling.NEAREST if larger else pil.Resampling.BOX
    return np.asarray(pil.fromarray(np.ascontiguousarray(image)).resize((width, height), how))


def grid(tiles: Sequence[Image], columns: int | None = None, ground: int = 255) -> Image:
    """Tiles of one size, line by line, on white or a grey."""
    h, w = tiles[0].shape[:2]
    columns = columns or min(max(math.ceil(math.sqrt(len(tiles) * h / w)), 1), max(WIDEST // (w + GAP), 1))
    lines = math.ceil(len(tiles) / columns)
    canvas = np.full((lines * (h + GAP) + GAP, columns * (w + GAP) + GAP, 3), ground, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        canvas[top : top + h, left : left + w] = tile
    return canvas


def titled(image: Image, title: str) -> Image:
    """A picture with a line of text above it, wrapped where it is too long."""
    pil, draws, fonts = pillow()
    font, width = fonts.load_default(TEXT - 2), max(image.shape[1], 320)
    lines = _wrapped(title, font, width - 2 * GAP)
    top = len(lines) * (TEXT + 3) + GAP
    canvas = pil.new("RGB", (width, top + image.shape[0]), (255, 255, 255))
    canvas.paste(pil.fromarray(np.ascontiguousarray(image)), (0, top))
    pen = draws.Draw(canvas)
    for i, line in enumerate(lines):
        pen.text((GAP, GAP + i * (TEXT + 3)), line, fill=(20, 20, 20), font=font)
    return np.asarray(canvas)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
