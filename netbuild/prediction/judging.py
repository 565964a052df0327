"""Judge samples by an independent classifier: how sure it is of them, and how far their features are from real ones."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.costs.outputs import first_tensor
from netbuild.data import open_data
from netbuild.data.fitting import center_crop
from netbuild.drawing.annotated import Image
from netbuild.errors import NetbuildError
from netbuild.prediction.in_memory import collect
from netbuild.prediction.predictor import prepare
from netbuild.tasks.frechet import frechet_distance

BATCH = 64
SURE = 0.9  # a probability above it counts as sure
Array = NDArray[Any]


@dataclass(frozen=True)
class ClassVerdict:
    """The samples that the classifier takes for one class.

    Attributes:
        name: of the class.
        share: of all samples, those that it takes for this class.
        sure: of all samples, those that it takes for this class with a probability above `SURE`.
    """

    name: str
    share: float
    sure: float


@dataclass(frozen=True)
class Verdict:
    """What a classifier says of samples.

    Attributes:
        count: number of samples.
        sure: share of the samples of which it is sure.
        as_asked: share of the samples that it takes for the class that they should be of; None without classes.
        classes: the shares by class.
        frechet: Fréchet distance of the samples' features to those of one half of the real pictures; None without data.
        frechet_real: that between the two halves.
    """

    count: int
    sure: float
    as_asked: float | None
    classes: tuple[ClassVerdict, ...]
    frechet: float | None = None
    frechet_real: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the verdict as lines of text."""
        asked = "" if self.as_asked is None else f", {self.as_asked:.1%} are of the class asked for"
        found = [f"the classifier is more than {SURE:.0%} sure of {self.sure:.1%} of {self.count} pictures{asked}"]
        found += [f"  {one.name}: {one.share:.1%}, sure of {one.sure:.1%}" for one in self.classes]
        if self.frechet is not None and self.frechet_real is not None:
            ratio = self.frechet / self.frechet_real if self.frechet_real else float("inf")
            text = f"Fréchet distance to real pictures {self.frechet:.4g}, {ratio:.2f} times that between their halves"
            found.append(f"{text} ({self.frechet_real:.4g})")
        return found


class Judge:
    """A classifier that did not see the samples before.

    Args:
        file: its checkpoint, or a built network.
        device: where it runs; a built network stays on its device.
        modules, trusted: custom modules, as for `netbuild.build`.

    Raises:
        NetbuildError: if it cannot be opened, or is no classifier.
    """

    def __init__(
        self,
        file: str | Path | Any,
        device: str | None = None,
        modules: Sequence[str | Path] = (),
        trusted: bool | Callable[[Path], bool] = False,
    ) -> None:
        self.predictor = prepare(file, batch=BATCH, device=device, modules=modules, trusted=trusted)
        if not self.predictor.task.gives_probabilities:
            task = self.predictor.task.name
            raise NetbuildError(f"{file}: judges are classifiers, its task is '{task}'", hint="train lenet5.yaml on it")
        self.names = self.predictor.task.names or []

    def look(self, pictures: Sequence[Image]) -> tuple[Array, Array]:
        """Return probabilities (N, nc), and features (N, D): the output of the row before the last, averaged over maps.

        Raises:
            NetbuildError: if the network has no such row.
        """
        rows = self.predictor.network.model
        if len(rows) < 2:
            raise NetbuildError("the classifier has a single row, so there is no row before the last")
        features: list[Array] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            found = first_tensor(output)
            assert isinstance(found, torch.Tensor)
            values = found.flatten(2).mean(2) if found.ndim > 2 else found
            features.append(values.double().cpu().numpy())

        handle = rows[len(rows) - 2].register_forward_hook(keep)
        try:
            found = [result.probs for result in self.predictor.run(collect(list(pictures)))]
        finally:
            handle.remove()
        return np.stack([one for one in found if one is not None]), np.concatenate(features)

    def judge(
        self, pictures: Sequence[Image], classes: Array | None = None, real: Sequence[Image] | None = None
    ) -> Verdict:
        """Judge samples.

        Args:
            pictures: the samples, each (H, W, 3).
            classes: the numbers of the classes that they should be of; None without.
            real: real pictures of the same size, of which the features are compared; None for no comparison. As many
                samples are compared as half of them has, if there are as many.

        Raises:
            NetbuildError: if there are too few samples or real pictures to compare.
        """
        probabilities, features = self.look(pictures)
        chosen, certain = probabilities.argmax(1), probabilities.max(1) > SURE
        count = probabilities.shape[1]
        names = self.names if len(self.names) == count else [str(number) for number in range(count)]
        verdicts = tuple(
            ClassVerdict(name, float((chosen == i).mean()), float(((chosen == i) & certain).mean()))
            for i, name in enumerate(names)
        )
        asked = None if classes is None or classes.max() >= count else float((chosen == classes).mean())
        distances = (None, None) if real is None else self._compare(features, real)
        return Verdict(len(pictures), float(certain.mean()), asked, verdicts, *distances)

    def _compare(self, features: Array, real: Sequence[Image]) -> tuple[float, float]:
        """Return the distance of features to those of one half of real pictures, and that between the halves."""
        if len(features) < 2 or len(real) < 4:
            raise NetbuildError("the distance needs at least two samples and four real pictures", hint="-n 500")
        known = self.look(real)[1]
        first, second = known[::2], known[1::2]
        return frechet_distance(features[: len(first)], first), frechet_distance(second, first)


def read_real(data: str | Path, size: tuple[int, int], split: str | None = None) -> list[Image]:
    """Return the pictures of a data set's held-out split, each (H, W, 3) in the size of the samples.

    Raises:
        NetbuildError: if the data set or a picture cannot be read.
    """
    dataset = open_data(data)
    found = dataset.splits[split or dataset.held_out()]().samples
    return [center_crop(sample.image(3), size) for sample in found]
