"""Lays out a diagram: rows in one column in the order of the file, skip connections in lanes beside it.

graphlay, a layered layout engine, chooses the lanes: on which side and in which order long edges pass the column, with
few crossings. Each row has a layer of its own, and heavy edges keep the rows in one column, so that no line crosses a
label. All readers of a row share one lane, like a bus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from netbuild.errors import MissingExtraError
from netbuild.report.diagram.model import Band, Diagram, Edge
from netbuild.system.packages import install_hint

HEIGHT, GAP, BETWEEN = 26, 11, 9  # in pixels: height of a row, gap between rows, further gap between sections
LANE, PORT, FIRST = 9, 6, 15  # in pixels: between lanes, between lines that end at a row, column to first lane
MAX_STEPS = 4000  # rows passed by all lanes together; beyond it the engine takes seconds
COLOURS = 6  # number of colours for lanes
HEAVY = 100.0  # weight of the edges that keep rows in one column

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A node's rectangle, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class LaneSegment:
    """A straight piece of a source's lane.

    Args:
        side: 1 to the right of the column, -1 to the left.
        distance: pixels from the column.
        first, last: the range of nodes that it passes.
    """

    side: int
    distance: float
    first: int
    last: int


@dataclass(frozen=True)
class Route:
    """The line of an edge; ``lane`` is the number of its lane's colour, None for a line to the next row."""

    edges: tuple[Edge, ...]
    points: tuple[Point, ...]
    lane: int | None = None
    branch: Point | None = None  # the point where the line leaves its lane, if the lane continues


@dataclass(frozen=True)
class Layout:
    """Boxes by node index, routes, bands with top and bottom; ``left`` and ``right`` are the lanes' widths."""

    boxes: dict[int, Box]
    routes: tuple[Route, ...]
    bands: tuple[tuple[Band, float, float], ...]
    left: float
    right: float
    bottom: float


def lay_out(diagram: Diagram, width: float) -> Layout:
    """Lay out a diagram whose boxes have the given width in pixels; the origin is the column's top left corner.

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
    lanes = _find_lanes(len(place), spans)
    ports = _assign_ports(list(wires), lanes)
    boxes = _place_boxes(diagram, width, [max(len(ports[k, -1]), len(ports[k, 1])) for k in range(len(place))])
    router = _Router(list(boxes.values()), lanes, ports)
    routes = tuple(router.route(a, b, tuple(edges)) for (a, b), edges in sorted(wires.items()))
    bands = tuple(
        (band, boxes[band.first].y - 6, boxes[band.last].y + boxes[band.last].height + 6) for band in diagram.bands
    )
    left, right = (
        max((s.distance for run in lanes.values() for s in run if s.side == side), default=0) for side in (-1, 1)
    )
    return Layout(boxes, routes, bands, left, right, max(box.y + box.height for box in boxes.values()))


# -- lanes ------------------------------------------------------------------------------------------------------------


def _find_lanes(count: int, spans: dict[int, int]) -> dict[int, list[LaneSegment]]:
    """Return the lane of each source that is read beyond the next row, as segments from top to bottom.

    Args:
        count: number of nodes.
        spans: the last reader of each source, by the source.
    """
    graphlay = import_graphlay()
    if sum(last - first for first, last in spans.items()) <= MAX_STEPS:
        found = _layout_lanes(graphlay, count, spans)
        if all(found.values()):
            return found
    return _first_fit(spans)


def import_graphlay() -> Any:
    """Import the layout library.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import graphlay
    except ImportError:
        hint = f"{install_hint('graph')}; .mmd and .dot do not need it"
        raise MissingExtraError("a picture needs the layout library graphlay", hint=hint) from None
    return graphlay


def _layout_lanes(graphlay: Any, count: int, spans: dict[int, int]) -> dict[int, list[LaneSegment]]:
    graph = graphlay.Graph()
    for k in range(count):
        graph.node(k, width=100.0, height=20.0, rank={"fixed": k})
    # These edges are not in the network: they only keep the rows in one column.
    for k in range(count - 1):
        graph.edge(k, k + 1, weight=HEAVY)
    for first, last in spans.items():
        graph.edge(first, last)
    spacing = {"layer_gap": 12, "node_gap": FIRST, "dummy_gap": LANE, "port_gap": 6, "port_stroke_clear": 4, "stub": 6}
    options = {"direction": "topbottom", "spacing": spacing, "routing": {"port_sides": "any"}}
    drawing = graphlay.layout(graph, preset="layered", options=options)
    centers = [(node["center"]["x"], node["center"]["y"]) for node in drawing.nodes]
    if max(x for x, _ in centers) - min(x for x, _ in centers) > 1:
        return {source: [] for source in spans}  # the engine did not keep the rows in one column
    lines = [[(p["x"], p["y"]) for p in edge["points"]] for edge in drawing.edges[count - 1 :]]
    return {
        first: _find_segments(line, centers, first, last)
        for (first, last), line in zip(spans.items(), lines, strict=True)
    }


def _find_segments(line: Sequence[Point], centers: Sequence[Point], first: int, last: int) -> list[LaneSegment]:
    """Return the vertical pieces of a line beside the column, each with the range of rows that it passes."""
    middle = centers[0][0]
    pieces = [(x1 - middle, x2 - middle, y2) for (x1, _), (x2, y2) in pairwise(line)]
    down = [(x1, y2) for x1, x2, y2 in pieces if abs(x1 - x2) < 0.01 and abs(x1) > 50]
    found: list[LaneSegment] = []
    for i, (x, end) in enumerate(down):
        start = found[-1].last + 1 if found else first
        passed = [k for k in range(start, last + 1) if centers[k][1] <= end]
        if i == len(down) - 1:
            passed = [last]  # the piece may end above the last row, if the line enters that row from above
        if passed:
            found.append(LaneSegment(1 if x > 0 else -1, abs(x) - 50 + FIRST - LANE, start, passed[-1]))
    return found


def _first_fit(spans: dict[int, int]) -> dict[int, list[LaneSegment]]:
    """Choose lanes for a network too large for the engine: shortest first, innermost free lane, sides in turn."""
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
    found = {}
    for first, last in sorted(spans.items(), key=lambda span: (span[1] - span[0], span[0])):
        number = 0
        while any(a <= last and first <= b for a, b in taken.get((number // 2, number % 2), ())):
            number += 1
        taken.setdefault((number // 2, number % 2), []).append((first, last))
        found[first] = [LaneSegment(1 if number % 2 else -1, FIRST + LANE * (number // 2), first, last)]
    return found


# -- boxes and lines --------------------------------------------------------------------------------------------------


def _segment_at(run: Sequence[LaneSegment], node: int) -> LaneSegment:
    return next(stretch for stretch in run if stretch.first <= node <= stretch.last)


def _assign_ports(wires: Sequence[tuple[int, int]], lanes: dict[int, list[LaneSegment]]) -> "_Ports":
    """Return the sources of the lines at each side of each node from top to bottom; the node's own lane is the last."""
    ports = _Ports()
    for source, run in lanes.items():
        ports.setdefault((source, run[0].side), []).append((float("inf"), source))
    for source, target in wires:
        if target > source + 1:
            stretch = _segment_at(lanes[source], target)
            # Inner lanes end above outer ones, so that lines into a row do not cross.
            ports.setdefault((target, stretch.side), []).append((stretch.distance, source))
    for ends in ports.values():
        ends.sort()
    return ports


class _Ports(dict[tuple[int, int], list[tuple[float, int]]]):
    def __missing__(self, key: tuple[int, int]) -> list[tuple[float, int]]:
        return []


def _place_boxes(diagram: Diagram, width: float, ports: Sequence[int]) -> dict[int, Box]:
    starts = {band.first for band in diagram.bands}
    boxes: dict[int, Box] = {}
    y = 0.0
    for node, count in zip(diagram.nodes, ports, strict=True):
        if boxes:
            y += GAP + (BETWEEN if node.index in starts else 0)
        height = max(HEIGHT, PORT * (count + 1))  # a row with many sources needs room for their lines
        boxes[node.index] = Box(0, y, width, height)
        y += height
    return boxes


def _choose_colours(lanes: dict[int, list[LaneSegment]]) -> dict[int, int]:
    """Choose the number of a colour for each source's lane: in turn, avoiding those of lanes beside it if possible."""
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


class _Router:
    """Routes lines between boxes, which are numbered from top to bottom."""

    def __init__(self, boxes: Sequence[Box], lanes: dict[int, list[LaneSegment]], ports: _Ports) -> None:
        self.boxes, self.lanes, self.ports = boxes, lanes, ports
        self.colours = _choose_colours(lanes)

    def route(self, source: int, target: int, edges: tuple[Edge, ...]) -> Route:
        """Return the route of the edges from one box to another."""
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

    def _x(self, stretch: LaneSegment) -> float:
        box = self.boxes[stretch.first]
        return box.x - stretch.distance if stretch.side < 0 else box.x + box.width + stretch.distance

    def _port(self, node: int, side: int, source: int) -> Point:
        box, ends = self.boxes[node], [end for _, end in self.ports[node, side]]
        step = min(2 * PORT, box.height / (len(ends) + 1))
        y = box.y + box.height / 2 + step * (ends.index(source) - (len(ends) - 1) / 2)
        return (box.x if side < 0 else box.x + box.width), y
