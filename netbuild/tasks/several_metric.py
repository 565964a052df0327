"""The metric of several heads: that of each head on the pictures that have its truth, and one weighted fitness."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netbuild.tasks.metric import UNDEFINED, Batch, Metric

View = Callable[[str, Batch], tuple[list[int], Batch]]


class SeveralMetric(Metric):
    """The measures of each head, whose names begin with the head's: ``boxes/mAP50-95``, ``sem/mIoU``.

    The fitness is the mean of the heads' own, weighted as their losses are; heads without anything to measure do not
    count.

    Args:
        metrics: of each head, by its name.
        weights: of each head, by its name.
        view: returns the pictures of a batch that have the truth of a head, and their share of the batch.
    """

    lists = ("pictures",)

    def __init__(self, metrics: Mapping[str, Metric], weights: Mapping[str, float], view: View) -> None:
        self.metrics, self.weights, self.view = dict(metrics), dict(weights), view
        self.pictures: list[list[str]] = []  # for each picture the heads whose truth it has
        self.overlaps = tuple(dict.fromkeys(name for metric in self.metrics.values() for name in metric.overlaps))
        self.lower_is_better = tuple(
            f"{name}/{measure}" for name, metric in self.metrics.items() for measure in metric.lower_is_better
        )

    def choose_overlap(self, name: str) -> None:
        """Choose the main kind of overlap of the heads that have it."""
        for metric in self.metrics.values():
            if name in metric.overlaps:
                metric.choose_overlap(name)

    def update(self, predictions: Sequence[Mapping[str, Any]], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: for each picture the prediction of each head, by its name.
            batch: the batch with the targets of all heads.
        """
        known: list[list[str]] = [[] for _ in predictions]
        for name, metric in self.metrics.items():
            chosen, share = self.view(name, batch)
            for i in chosen:
                known[i].append(name)
            if chosen:
                metric.update(_gather([predictions[i][name] for i in chosen]), share)
        self.pictures += known

    def result(self) -> dict[str, float]:
        """Return the measures of all heads, and the weighted mean of their fitness."""
        seen = {name for names in self.pictures for name in names}
        found = {name: metric.result() for name, metric in self.metrics.items() if name in seen or not seen}
        fits = {name: measures["fitness"] for name, measures in found.items() if measures["fitness"] != UNDEFINED}
        total = sum(self.weights[name] for name in fits)
        fitness = sum(self.weights[name] * value for name, value in fits.items()) / max(total, 1e-12)
        named = {f"{name}/{key}": value for name, measures in found.items() for key, value in measures.items()}
        return {**named, "fitness": fitness}

    def classes(self) -> list[dict[str, Any]]:
        """Return the rows of all heads, each with the name of its head."""
        return [{"head": name, **row} for name, metric in self.metrics.items() for row in metric.classes()]

    def tables(self) -> dict[str, Any]:
        """Return the tables of all heads, by names that begin with the head's."""
        return {
            f"{name}-{key}": table for name, metric in self.metrics.items() for key, table in metric.tables().items()
        }

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the functions that draw the charts of all heads, by names that begin with the head's."""
        return {f"{name}-{key}": draw for name, metric in self.metrics.items() for key, draw in metric.plots().items()}

    def state(self) -> dict[str, Any]:
        """Return the states of all heads, and which pictures they are of."""
        return {"pictures": self.pictures, "metrics": {name: metric.state() for name, metric in self.metrics.items()}}

    def merge(self, states: Sequence[Mapping[str, Any]], indices: Sequence[Sequence[int]]) -> None:
        """Replace the state by that of several processes, see `Metric.merge`."""
        for name, metric in self.metrics.items():
            of_head = [
                [index for index, names in zip(numbers, state["pictures"], strict=True) if name in names]
                for state, numbers in zip(states, indices, strict=True)
            ]
            metric.merge([state["metrics"][name] for state in states], of_head)
        super().merge(states, indices)


def _gather(predictions: list[Any]) -> Any:
    """Return the predictions of several pictures as `Task.decode` does: stacked where they are tensors of one shape."""
    import torch

    if all(isinstance(item, torch.Tensor) for item in predictions) and len({item.shape for item in predictions}) == 1:
        return torch.stack(predictions)
    return predictions
