"""`Result`: what a network predicts for one picture, as arrays, as JSON data, and drawn."""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild import runtime
from netbuild.data.fitting import Image
from netbuild.drawing.encoding import encode, save
from netbuild.tasks.base import Task, View

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of a picture. As an array they are (N, 6): x1, y1, x2, y2, confidence, class.

    Attributes:
        xyxy: (N, 4) left, top, right, bottom in pixels of the picture.
        conf: (N,) confidences from 0 to 1.
        cls: (N,) numbers of the classes.
        id: (N,) numbers that a tracker gave, None without a tracker.
    """

    xyxy: Array
    conf: Array
    cls: Array
    id: Array | None = None

    @property
    def data(self) -> Array:
        """The boxes as one array (N, 6): x1, y1, x2, y2, confidence, class."""
        return np.concatenate((self.xyxy, self.conf[:, None], self.cls[:, None]), 1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.data if dtype is None else self.data.astype(dtype)

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, key: Any) -> Array:
        return self.data[key]  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Array]:
        return iter(self.data)


@dataclass(frozen=True, eq=False)
class OrientedBoxes(Boxes):
    """Boxes that are turned by an angle. ``xyxy`` is the upright box around each.

    Attributes:
        corners: (N, 4, 2) x and y of the four corners, in order, in pixels of the picture.
    """

    corners: Array = field(default_factory=lambda: np.zeros((0, 4, 2)))


@dataclass(frozen=True, eq=False)
class Result:
    """What a network predicts for a picture, or for a frame of a video.

    ``len`` is the number of records. Of a network with several heads, `heads` has a result for each. `boxes`,
    `masks`, `keypoints`, `obb` and `probs` are None where the task has none.

    Attributes:
        path: the picture's file; ``image-1``, ``image-2``, ... for pictures that were given as data.
        size: height and width in pixels of the upright picture (after its EXIF orientation).
        records: the predictions as JSON data; the task says what a record has. Of several heads a dict with the records
            of each by name.
        frame: number of the frame in its video, from 1; None for a picture.
        fps: frames per second of the video.
        prediction: the output of the task's ``decode``, in the coordinates of the network's input.
        view: the picture and where it lies in the network's input.
        task: the task that made the records.
    """

    path: Path
    size: tuple[int, int]
    records: Any
    frame: int | None
    fps: float | None
    prediction: Any = field(repr=False)
    view: View = field(repr=False)
    task: Task = field(repr=False)

    @property
    def image(self) -> Image:
        """The picture without annotations: uint8 (H, W, 3), RGB."""
        return self.view.image

    @property
    def names(self) -> list[str] | None:
        """The names of the classes, None where they are not known."""
        return self.task.names

    @cached_property
    def heads(self) -> dict[str, "Result"]:
        """The result of each of several heads, by its name; empty for a network with one."""
        return {
            name: replace(self, records=self.records[name], prediction=self.prediction[name], task=part)
            for name, part in self.task.parts.items()
        }

    @cached_property
    def boxes(self) -> Boxes | None:
        """The boxes, best first."""
        if "box" not in self.task.record_fields:
            return None
        return Boxes(*self._box_arrays())

    @cached_property
    def obb(self) -> OrientedBoxes | None:
        """The oriented boxes, best first."""
        if "corners" not in self.task.record_fields:
            return None
        return OrientedBoxes(*self._box_arrays(), corners=self._stack("corners", (4, 2)))

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """Masks (N, H, W) of the whole picture, in the order of the records."""
        if "mask" not in self.task.record_fields:
            return None
        masks = [runtime.mask_of(record["mask"]) for record in self.records]
        return np.array(masks, dtype=bool).reshape(-1, *self.size)

    @cached_property
    def keypoints(self) -> Array | None:
        """Keypoints (N, K, 2 or 3): x and y in pixels, and the probability that the point is visible."""
        if "keypoints" not in self.task.record_fields:
            return None
        return self._stack("keypoints", self.task.extra)

    @cached_property
    def probs(self) -> Array | None:
        """Probabilities (nc,) of the classes, from a classifier."""
        if not self.task.gives_probabilities:
            return None
        return np.asarray(self.prediction.cpu())

    def _box_arrays(self) -> tuple[Array, Array, Array, Array | None]:
        numbers = [record["id"] for record in self.records if "id" in record]
        return (
            self._stack("box", (4,)),
            np.array([record["confidence"] for record in self.records], dtype=float),
            np.array([record["class"] for record in self.records], dtype=int),
            np.array(numbers, dtype=int) if numbers and len(numbers) == len(self.records) else None,
        )

    def _stack(self, key: str, shape: Sequence[int]) -> Array:
        return np.array([record[key] for record in self.records], dtype=float).reshape(len(self.records), *shape)

    def plot(self) -> Image:
        """Draw the predictions on a copy of the picture: uint8 (H, W, 3), RGB; bars make it higher.

        Raises:
            MissingExtraError: if Pillow is not installed.
        """
        return self.task.draw_result(self.view.image, self.prediction, self.records).render()

    def save(self, path: str | Path) -> Path:
        """Write the annotated picture, as JPEG if the file's ending says so, else as PNG; return its path.

        Raises:
            NetbuildError: if the file cannot be written.
        """
        save(self.plot(), Path(path))
        return Path(path)

    def line(self) -> str:
        """Path, height x width, and a summary of the predictions, in one line of text."""
        frame = "" if self.frame is None else f" frame {self.frame}"
        text = f"{self.path}{frame} {self.size[0]}x{self.size[1]}: {self.task.line(self.records)}"
        # Names of files and classes may contain control characters, which must not reach the terminal.
        return "".join(c if c.isprintable() else " " for c in text)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data: path, frame (of a video), width, height and records."""
        frame = {} if self.frame is None else {"frame": self.frame}
        height, width = self.size
        return {"path": str(self.path), **frame, "width": width, "height": height, "records": self.records}

    def to_json(self, indent: int | None = None) -> str:
        """The result as JSON text; ``indent`` is that of `json.dumps`."""
        return json.dumps(self.to_dict(), indent=indent)

    def __len__(self) -> int:
        return sum(map(len, self.records.values())) if self.heads else len(self.records)

    def __bool__(self) -> bool:
        return True  # a result without predictions is still a result: `if result` must not depend on its length

    def __repr__(self) -> str:
        return f"Result({self.line()})"

    def _repr_html_(self) -> str:
        data = base64.b64encode(encode(self.plot())).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.line(), quote=True)}">'
