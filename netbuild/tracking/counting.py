"""Count tracked objects: over lines, by direction, and in zones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from netbuild.errors import NetbuildError

Point = tuple[float, float]
Shape = str | Sequence[float]  # numbers, or a text of them separated by commas


@dataclass(frozen=True)
class LineCount:
    """A line and how many objects crossed it.

    Attributes:
        ends: both ends in pixels.
        forward: crossings from the left to the right of one who looks from the first end to the second.
        backward: those in the other direction.
    """

    ends: tuple[Point, Point]
    forward: int = 0
    backward: int = 0

    def update(self, before: Mapping[int, Point], now: Mapping[int, Point]) -> "LineCount":
        """Return the count after objects (by their ids) moved from one place to another."""
        forward, backward = self.forward, self.backward
        for number, place in now.items():
            if number in before and (side := self._cross(before[number], place)):
                forward, backward = forward + (side > 0), backward + (side < 0)
        return replace(self, forward=forward, backward=backward)

    def _cross(self, start: Point, end: Point) -> int:
        """Return 1 for a way that crosses the line forward, -1 for one backward, and 0 otherwise."""
        before, after = _is_right(*self.ends, start), _is_right(*self.ends, end)
        if before == after or _is_right(start, end, self.ends[0]) == _is_right(start, end, self.ends[1]):
            return 0
        return 1 if after else -1


@dataclass(frozen=True)
class ZoneCount:
    """A polygon and which objects are in it.

    Attributes:
        corners: at least three, in pixels.
        inside: the ids of the objects that are in it now.
        entered: the ids of all objects that have been in it.
    """

    corners: tuple[Point, ...]
    inside: frozenset[int] = frozenset()
    entered: frozenset[int] = frozenset()

    def update(self, now: Mapping[int, Point]) -> "ZoneCount":
        """Return the count of a frame with objects (by their ids) at these places."""
        inside = frozenset(number for number, place in now.items() if self._contains(place))
        return replace(self, inside=inside, entered=self.entered | inside)

    def _contains(self, place: Point) -> bool:
        x, y = place
        is_inside = False
        for (x1, y1), (x2, y2) in zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True):
            if (y1 > y) != (y2 > y) and x < x1 + (x2 - x1) * (y - y1) / (y2 - y1):
                is_inside = not is_inside
        return is_inside


def _is_right(start: Point, end: Point, place: Point) -> bool:
    """Return whether a place is to the right of a line for one who looks from its start to its end; y points down."""
    (x1, y1), (x2, y2), (x, y) = start, end, place
    return (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 0


@dataclass(frozen=True)
class Marks:
    """The lines and zones of a video."""

    lines: tuple[LineCount, ...] = ()
    zones: tuple[ZoneCount, ...] = ()

    def update(self, before: Mapping[int, Point], now: Mapping[int, Point]) -> "Marks":
        """Return them with the counts after objects (by their ids) moved from one place to another."""
        return Marks(
            tuple(line.update(before, now) for line in self.lines),
            tuple(zone.update(now) for zone in self.zones),
        )

    def texts(self) -> list[str]:
        """Return a text for each line and zone."""
        return [
            *(f"line {i}: {line.forward} forward, {line.backward} backward" for i, line in enumerate(self.lines, 1)),
            *(
                f"zone {i}: {len(zone.inside)} inside, {len(zone.entered)} in all"
                for i, zone in enumerate(self.zones, 1)
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON data; of zones the numbers of objects."""
        lines = [
            {"line": _flatten(line.ends), "forward": line.forward, "backward": line.backward} for line in self.lines
        ]
        zones = [
            {"zone": _flatten(zone.corners), "inside": len(zone.inside), "entered": len(zone.entered)}
            for zone in self.zones
        ]
        return {**({"lines": lines} if lines else {}), **({"zones": zones} if zones else {})}


def _flatten(points: Iterable[Point]) -> list[float]:
    return [value for point in points for value in point]


def parse_marks(lines: Iterable[Shape], zones: Iterable[Shape]) -> Marks:
    """Parse lines and zones; see `parse_line` and `parse_zone`."""
    return Marks(tuple(map(parse_line, lines)), tuple(map(parse_zone, zones)))


def parse_line(text: Shape) -> LineCount:
    """Parse a line, ``x1,y1,x2,y2``.

    Raises:
        NetbuildError: for anything else, or a line without length.
    """
    points = _parse_points(text, lambda count: count == 4, "--line", "write --line x1,y1,x2,y2, in pixels")
    if points[0] == points[1]:
        raise NetbuildError(f"--line {_show(text)}: both ends are the same")
    return LineCount((points[0], points[1]))


def parse_zone(text: Shape) -> ZoneCount:
    """Parse a polygon, ``x1,y1,x2,y2,x3,y3,...``.

    Raises:
        NetbuildError: for anything else.
    """
    hint = "write --zone x1,y1,x2,y2,x3,y3,..., in pixels, with at least three corners"
    return ZoneCount(_parse_points(text, lambda count: count >= 6 and count % 2 == 0, "--zone", hint))


def _parse_points(text: Shape, fits: Callable[[int], bool], flag: str, hint: str) -> tuple[Point, ...]:
    try:
        values = [float(value) for value in (text.split(",") if isinstance(text, str) else text)]
    except (TypeError, ValueError):
        raise NetbuildError(f"{flag} {_show(text)}: not numbers separated by commas", hint=hint) from None
    if not fits(len(values)) or not all(map(isfinite, values)):
        raise NetbuildError(f"{flag} {_show(text)}: {len(values)} numbers", hint=hint)
    return tuple(zip(values[::2], values[1::2], strict=True))


def _show(text: Shape) -> str:
    return text if isinstance(text, str) else ",".join(map(str, text))
