"""The base class of metrics: measures of a whole data set, whose shares several processes can merge."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

UNDEFINED = -1.0  # a measure of nothing, such as COCO's mAP of large objects where there are none
Batch = Mapping[str, Any]  # "images" (B, C, H, W), and the keys that the task's class docstring lists


class Metric(ABC):
    """A measure of a whole data set, updated batch by batch.

    To merge the metrics of several processes, a subclass names its attributes: ``lists`` are lists with one entry per
    picture, in the order of `update`; ``counts`` are numbers or arrays that are summed. ``lower_is_better``
    names the measures of which a smaller value is better, ``overlaps`` the kinds of overlap of which `choose_overlap`
    makes one the main one.
    """

    lists: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()

    @abstractmethod
    def update(self, predictions: Any, batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: the return value of `Task.decode`.
            batch: the batch with its targets.
        """

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return the measures by name; "fitness" (larger is better) selects the best epoch."""

    def choose_overlap(self, name: str) -> None:  # noqa: B027  most metrics have no choice
        """Measure by one of ``overlaps`` what is measured by the first one otherwise, before any result is taken."""

    def classes(self) -> list[dict[str, Any]]:
        """Return one row of measures per class; empty for a metric without classes."""
        return []

    def tables(self) -> dict[str, Any]:
        """Return what the charts show as JSON data, by the names of the charts; empty for a metric without any."""
        return {}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return functions that draw charts (figures of `netbuild.drawing.charts`), by the name of the chart's file."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return all that was added so far, as data that another process can `merge`."""
        return {name: getattr(self, name) for name in (*self.lists, *self.counts)}

    def merge(self, states: Sequence[Mapping[str, Any]], indices: Sequence[Sequence[int]]) -> None:
        """Replace the state by that of several processes, as if this metric had been given all pictures in order.

        Args:
            states: the `state` of each process.
            indices: for each process, the indices of its pictures in the data set.
        """
        order = [index for of_process in indices for index in of_process]
        for name in self.lists:
            entries = [entry for state in states for entry in state[name]]
            setattr(self, name, [e for _, e in sorted(zip(order, entries, strict=True), key=lambda pair: pair[0])])
        for name in self.counts:
            setattr(self, name, sum(state[name] for state in states))


def main_measures(names: Sequence[str], found: Mapping[str, float], count: int = 1) -> dict[str, float]:
    """Return the first measures that are not undefined; of several heads, named ``boxes/mAP50``, those of each.

    Args:
        names: the task's measures, the main one first, see `Task.measures`.
        found: all measures of a data set by name.
        count: how many are returned at most, of each head.
    """
    chosen: dict[str, dict[str, float]] = {}
    for name in names:
        of_head = chosen.setdefault(name.rpartition("/")[0], {})
        if len(of_head) < count and found.get(name, UNDEFINED) != UNDEFINED:
            of_head[name] = found[name]
    return {name: value for of_head in chosen.values() for name, value in of_head.items()}
