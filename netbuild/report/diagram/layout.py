"""Where everything stands: rows in one column in the order of the file, skip connections in lanes beside it.

graphlay, a layered layout engine, finds the lanes: the side and the order in which long edges pass the column with few
crossings. Each row has a layer to itself and heavy edges keep the rows in one column, so that a label can be crossed by
nothing. All readers of a row share one lane, as a bus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from netbuild.errors import MissingExtraError
from netbuild.report.diagram.model import Band, Diagram, Edge

HEIGHT, GAP, BETWEEN = 26, 11, 9  # pixels: of a row, between rows, and what sections stand apart in addition
LANE, PORT, FIRST = 9, 6, 15  # pixels between lanes, between lines that end at a row, and of the first lane
MOST = 4000  # steps of lanes past rows: with more of them the engine takes seconds
COLOURS = 6  # that lanes have
HEAVY = 100.0  # the weight that keeps rows in one column

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A node's rectangle, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Stretch:
    """A piece of a source's lane: right (1) or left (-1) of the column, how far from it, past which nodes."""

    side: int
    distance: float
    first: int
    last: int


@dataclass(frozen=True)
class Route:
    """An edge as a line from box to box; ``lane`` is the colour of its bus, or None of a line to the next row."""

    edges: tuple[Edge, ...]
    points: tuple[Point, ...]
    lane: int | None = None
    branch: Point | None = None  # where it leaves its bus, if that goes on


@dataclass(frozen=True)
class Layout:
    """Boxes by node, routes, and bands with their top and bottom. ``left`` and ``right`` are the space for lanes."""

    boxes: dict[int, Box]
    routes: tuple[Route, ...]
    bands: tuple[tuple[Band, float, float], ...]
    left: float
    right: float
    bottom: float


def lay_out(diagram: Diagram, width: float) -> Layout:
    """Places for a diagram whose boxes have this width in pixels; the column's left edge is 0, its top 0.

    Raises:
        MissingExtraError: if graphlay is not installed.
    """
    place = {node.index: k for k, node in enumerate(diagram.nodes)}
    wires: dict[tuple[int, int], list[Edge]] = {}
    for edge in diagram.edges:
        wires.setdefault((place[edge.source], place[edge.target]), []).append(edge)
    spans: dict[int, int] = {}
    for source, target in wires:
        if target > source + 1:
            spans[source] = max(spans.get(source, 0), target)
    lanes = _lanes(len(place), spans)
    ports = _ports(list(wires), lanes)
    boxes = _boxes(diagram, width, [max(len(ports[k, -1]), len(ports[k, 1])) for k in range(len(place))])
    draw = _Lines(list(boxes.values()), lanes, ports)
    routes = tuple(draw.route(a, b, tuple(edges)) for (a, b), edges in sorted(wires.items()))
    bands = tuple(
        (band, boxes[band.first].y - 6, boxes[band.last].y + boxes[band.last].height + 6) for band in diagram.bands
    )
    left, right = (
        max((s.distance for run in lanes.values() for s in run if s.side == side), default=0) for side in (-1, 1)
    )
    return Layout(boxes, routes, bands, left, right, max(box.y + box.height for box in boxes.values()))


# -- lanes ------------------------------------------------------------------------------------------------------------


def _lanes(count: int, spans: dict[int, int]) -> dict[int, list[Stretch]]:
    """The lane of each source that is read beyond the next row, in stretches from top to bottom."""
    graphlay = engine()
    if sum(last - first for first, last in spans.items()) <= MOST:
        found = _engine_lanes(graphlay, count, spans)
        if all(found.values()):
            return found
    return _first_fit(spans)


def engine() -> Any:
    """The layout library.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import graphlay
    except ImportError:
        hint = "pip install 'netbuild[graph]'; .mmd and .dot need nothing"
        raise MissingExtraError("a picture needs the layout library graphlay", hint=hint) from None
    return graphlay


def _engine_lanes(graphlay: Any, count: int, spans: dict[int, int]) -> dict[int, list[Stretch]]:
    graph = graphlay.Graph()
    for k in range(count):
        graph.node(k, width=100.0, height=20.0, rank={"fixed": k})
    for k in range(count - 1):
        graph.edge(k, k + 1, weight=HEAVY)
    for first, last in spans.items():
        graph.edge(first, last)
    spacing = {"layer_gap": 12, "node_gap": FIRST, "dummy_gap": LANE, "port_gap": 6, "port_stroke_clear": 4, "stub": 6}
    options = {"direction": "topbottom", "spacing": spacing, "routing": {"port_sides": "any"}}
    drawing = graphlay.layout(graph, preset="layered", options=options)
    centers = [(node["center"]["x"], node["center"]["y"]) for node in drawing.nodes]
    if max(x for x, _ in centers) - min(x for x, _ in centers) > 1:
        return {source: [] for source in spans}  # rows beside each other: the engine gave up on the column
    lines = [[(p["x"], p["y"]) for p in edge["points"]] for edge in drawing.edges[count - 1 :]]
    return {
        first: _stretches(line, centers, first, last) for (first, last), line in zip(spans.items(), lines, strict=True)
    }


def _stretches(line: Sequence[Point], centers: Sequence[Point], first: int, last: int) -> list[Stretch]:
    """The pieces of a line that run down beside the column, each with the rows that it passes."""
    middle = centers[0][0]
    pieces = [(x1 - middle, x2 - middle, y2) for (x1, _), (x2, y2) in pairwise(line)]
    down = [(x1, y2) for x1, x2, y2 in pieces if abs(x1 - x2) < 0.01 and abs(x1) > 50]
    found: list[Stretch] = []
    for i, (x, end) in enumerate(down):
        start = found[-1].last + 1 if found else first
        passed = [k for k in range(start, last + 1) if centers[k][1] <= end]
        if i == len(down) - 1:
            passed = [last]  # it may end above the last row, where the line turns to enter that from above
        if passed:
            found.append(Stretch(1 if x > 0 else -1, abs(x) - 50 + FIRST - LANE, start, passed[-1]))
    return found


def _first_fit(spans: dict[int, int]) -> dict[int, list[Stretch]]:
    """Lanes for a net too large for the engine: shortest first, each the innermost free one, sides in turn."""
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
    found = {}
    for first, last in sorted(spans.items(), key=lambda span: (span[1] - span[0], span[0])):
        number = 0
        while any(a <= last and first <= b for a, b in taken.get((number // 2, number % 2), ())):
            number += 1
        taken.setdefault((number // 2, number % 2), []).append((first, last))
        found[first] = [Stretch(1 if number % 2 else -1, FIRST + LANE * (number // 2), first, last)]
    return found


# -- boxes and lines --------------------------------------------------------------------------------------------------


def _stretch(run: Sequence[Stretch], node: int) -> Stretch:
    return next(stretch for stretch in run if stretch.first <= node <= stretch.last)


def _ports(wires: Sequence[tuple[int, int]], lanes: dict[int, list[Stretch]]) -> "_Ports":
    """The sources of the lines that end at each side of each node, from top to bottom; its own bus leaves below."""
    ports = _Ports()
    for source, run in lanes.items():
        ports.setdefault((source, run[0].side), []).append((float("inf"), source))
    for source, target in wires:
        if target > source + 1:
            stretch = _stretch(lanes[source], target)
            # Inner lanes end above outer ones: so lines into a row do not cross.
            ports.setdefault((target, stretch.side), []).append((stretch.distance, source))
    for ends in ports.values():
        ends.sort()
    return ports


class _Ports(dict[tuple[int, int], list[tuple[float, int]]]):
    def __missing__(self, key: tuple[int, int]) -> list[tuple[float, int]]:
        return []


def _boxes(diagram: Diagram, width: float, ports: Sequence[int]) -> dict[int, Box]:
    starts = {band.first for band in diagram.bands}
    boxes: dict[int, Box] = {}
    y = 0.0
    for node, count in zip(diagram.nodes, ports, strict=True):
        if boxes:
            y += GAP + (BETWEEN if node.index in starts else 0)
        height = max(HEIGHT, PORT * (count + 1))
        boxes[node.index] = Box(0, y, width, height)
        y += height
    return boxes


def _colours(lanes: dict[int, list[Stretch]]) -> dict[int, int]:
    """A colour for each source's lane, in turn, but while there are enough none that a lane beside it has."""
    found: dict[int, int] = {}
    near: list[int] = []
    turn = 0
    for source in sorted(lanes):
        near = [other for other in near if lanes[other][-1].last >= source]
        taken = {found[other] for other in near}
        free = [c % COLOURS for c in range(turn, turn + COLOURS) if c % COLOURS not in taken]
        found[source] = free[0] if free else turn % COLOURS
        near.append(source)
        turn = found[source] + 1
    return found


class _Lines:
    """Lines between boxes that are numbered from top to bottom."""

    def __init__(self, boxes: Sequence[Box], lanes: dict[int, list[Stretch]], ports: _Ports) -> None:
        self.boxes, self.lanes, self.ports = boxes, lanes, ports
        self.colours = _colours(lanes)

    def route(self, source: int, target: int, edges: tuple[Edge, ...]) -> Route:
        a, b = self.boxes[source], self.boxes[target]
        if target == source + 1:
            x = a.x + a.width / 2
            return Route(edges, ((x, a.y + a.height), (x, b.y)))
        run = [s for s in self.lanes[source] if s.first <= target]
        points = [self._port(source, run[0].side, source)]
        points.append((self._x(run[0]), points[0][1]))
        for before, after in pairwise(run):
            y = self.boxes[after.first].y - GAP / 2
            points += [(self._x(before), y), (self._x(after), y)]
        end = self._port(target, run[-1].side, source)
        points += [(self._x(run[-1]), end[1]), end]
        goes_on = self.lanes[source][-1].last > target
        return Route(edges, tuple(points), self.colours[source], points[-2] if goes_on else None)

    def _x(self, stretch: Stretch) -> float:
        box = self.boxes[stretch.first]
        return box.x - stretch.distance if stretch.side < 0 else box.x + box.width + stretch.distance

    def _port(self, node: int, side: int, source: int) -> Point:
        box, ends = self.boxes[node], [end for _, end in self.ports[node, side]]
        step = min(2 * PORT, box.height / (len(ends) + 1))
        y = box.y + box.height / 2 + step * (ends.index(source) - (len(ends) - 1) / 2)
        return (box.x if side < 0 else box.x + box.width), y
