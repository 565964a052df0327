"""The metric of regression: R2, mean absolute error and root mean squared error of each number."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from netbuild.drawing.numbers import plot_scatter
from netbuild.tasks.average_precision import Floats
from netbuild.tasks.base import Batch, Metric


class RegressionMetric(Metric):
    """R2, MAE and RMSE of each number, in the data's units; NaN in the truth do not count.

    Args:
        names: names of the numbers.
    """

    lists = ("predictions", "truths")
    lower_is_better = ("MAE", "RMSE")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.predictions: list[Floats] = []  # (n,) of each picture
        self.truths: list[Floats] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch: numbers (B, n), and "numbers" (B, n)."""
        self.predictions += list(predictions.detach().cpu().double().numpy())
        self.truths += list(batch["numbers"].detach().cpu().double().numpy())

    def result(self) -> dict[str, float]:
        """Return the means over the numbers; "fitness" is R2."""
        rows = self.classes()
        means = {name: float(np.mean([row[name] for row in rows])) if rows else 0.0 for name in ("R2", "MAE", "RMSE")}
        return {**means, "fitness": means["R2"]}

    def classes(self) -> list[dict[str, Any]]:
        """Return a row of measures for each number that is known for some picture.

        R2 is 1 - (sum of squared errors) / (sum of squared differences from the mean of the truth): 1 is best, 0 what
        the mean itself would reach. It is 0 if the truth is always the same.
        """
        p, truth = self.stack()
        rows = []
        for name, predicted, real in zip(self.names, p.T, truth.T, strict=True):
            known = np.isfinite(real)
            if not known.any():
                continue
            error, centred = predicted[known] - real[known], real[known] - real[known].mean()
            spread = float((centred**2).sum())
            measures = {
                "R2": 1 - float((error**2).sum()) / spread if spread > 0 else 0.0,
                "MAE": float(np.abs(error).mean()),
                "RMSE": float(np.sqrt((error**2).mean())),
            }
            rows.append({"class": name, "images": int(known.sum()), **measures})
        return rows

    def tables(self) -> dict[str, Any]:
        """Return the truth and the prediction of each picture; null where the truth is not known."""
        p, truth = self.stack()
        found = {
            name: {"true": [None if np.isnan(x) else x for x in real.tolist()], "predicted": predicted.tolist()}
            for name, predicted, real in zip(self.names, p.T, truth.T, strict=True)
        }
        return {"scatter": found}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the chart of predictions against truth."""
        p, truth = self.stack()
        return {"scatter": partial(plot_scatter, truth, p, self.names)}

    def stack(self) -> tuple[Floats, Floats]:
        """Return predictions and truth of all pictures, (N, n) each."""
        shape = (-1, len(self.names))
        return np.array(self.predictions).reshape(shape), np.array(self.truths).reshape(shape)
