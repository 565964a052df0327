"""The base class of tasks that predict boxes: decoding, records, label files and drawing."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netbuild import runtime
from netbuild.drawing.annotated import Colour, Drawing, Image, class_colour
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.layers.heads.base import traits
from netbuild.tasks.base import Record, Task, View, refuse_options
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.nms import Filter, filter_rows, suppress


class BoxTask(Task):
    """Boxes with classes, and further values of each box where the head has them (`Task.extra`).

    Args:
        head: a head with ``nc`` and ``box_form``, see `netbuild.layers.heads.base.Head`; its ``stride`` must be known
            unless it is None.
        names: names of the classes.

    Raises:
        NetbuildError: if the head has no boxes or its strides are unknown.
    """

    fitting = "letterbox"
    record_fields: ClassVar[tuple[str, ...]] = ("box",)
    saves: ClassVar[tuple[str, ...]] = ("pictures", "txt", "labels", "json", "crops")

    def __init__(self, head: nn.Module, names: list[str] | None = None) -> None:
        super().__init__(head, names)
        kind, read = type(head).__name__, traits(head)
        if read.nc is None or not read.box_form:
            hint = "the task needs a head that lists boxes, such as Detect; see netbuild.layers.heads.base.Head"
            raise NetbuildError(f"the task '{self.name}' cannot read the head {kind}", hint=hint)
        if read.stride == ():
            raise NetbuildError(f"the strides of the head {kind}'s sources are not known")

    @property
    def nc(self) -> int:
        """Number of the head's classes."""
        return int(traits(self.head).nc or 0)

    def scale_to_pixels(self, outputs: Any, size: Sequence[int]) -> Any:
        """Convert the boxes of a head with ``box_form = "parts"`` (fractions of the image) to corners in pixels."""
        if traits(self.head).box_form != "parts":
            return outputs
        y = outputs[0] if isinstance(outputs, tuple | list) else outputs
        sides = y.new_tensor([size[1], size[0]] * 2)
        return torch.cat((to_corners(y[..., :4]) * sides, y[..., 4:]), -1)

    def decode(self, outputs: Any, **options: Any) -> Any:
        """Return the detections (n, 6+extra) of each image, best first: corners in pixels, score, class, extra values.

        Args:
            outputs: the head's prediction in eval, or a tuple that begins with it.
            options: fields of `Filter`.
        """
        return self.select_rows(outputs[0] if isinstance(outputs, tuple | list) else outputs, Filter(**options))

    def select_rows(self, y: Tensor, options: Filter) -> list[Tensor]:
        """Filter a head's prediction: (B, 4+nc+extra, A), which needs suppression, or detections (B, k, 6+extra)."""
        return filter_rows(y, options) if traits(self.head).ranks else suppress(y, options, self.nc)

    @property
    def stride(self) -> int:
        """The head's largest stride, at least 32."""
        return max([super().stride, *map(int, traits(self.head).stride or ())])

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options and return them as fields of `Filter`.

        Args:
            given: fields of `Filter`; ``classes`` as numbers or names, in a list or separated by commas.

        Raises:
            NetbuildError: for any other option, for one of suppression if the head needs none, and for a wrong value.
        """
        if traits(self.head).ranks:
            unused = {name: value for name, value in given.items() if name in runtime.NMS_OPTIONS}
            refuse_options(unused, "without suppression")
        super().options({name: value for name, value in given.items() if name not in Filter.__dataclass_fields__})
        options = {**given}
        if given.get("classes") is not None:
            options["classes"] = self.class_numbers(given["classes"])
        try:
            Filter(**options)
        except runtime.RunError as error:
            raise NetbuildError(f"--{error.message.replace('max_det', 'max-det')}") from None
        return options

    def make_nms_filter(self, given: Mapping[str, Any]) -> Filter:
        """Refuse suppression inside an exported file, which only detection supports.

        Raises:
            NetbuildError: always.
        """
        # A file with suppression inside gives boxes, scores and classes alone: masks, keypoints and angles are lost.
        message = f"--nms has no effect for the task '{self.name}': only files of 'detect' suppress boxes themselves"
        hint = "leave it out: netbuild predict and netbuild.runtime suppress overlapping boxes"
        raise NetbuildError(message, hint=hint)

    def class_numbers(self, wanted: str | Sequence[str | int]) -> tuple[int, ...]:
        """Return the numbers of classes that are given by number or name; digits are a number unless a class's name.

        Raises:
            NetbuildError: for a class that does not exist.
        """
        known = [self.class_name(i) for i in range(self.nc)]
        numbers = []
        for text, number in runtime.find_classes(wanted, known):
            if number is None:
                hint = did_you_mean(text, known) or f"there is 0 to {len(known) - 1}: {', '.join(known[:20])}"
                raise NetbuildError(f"--classes: there is no class '{text}'", hint=hint)
            numbers.append(number)
        return tuple(numbers)

    def records(self, prediction: Any, view: View) -> list[Record]:
        """Return class, name, confidence and box of each detection: [x1, y1, x2, y2] in pixels of the picture."""
        corners = view.letterbox.undo(prediction[:, :4]).tolist()
        return [
            {
                "class": int(row[5]),
                "name": self.class_name(int(row[5])),
                "confidence": round(row[4], 5),
                "box": [round(x, 3) for x in box],
            }
            for box, row in zip(corners, prediction.tolist(), strict=True)
        ]

    @staticmethod
    def add_fields(records: Sequence[Record], fields: Iterable[Record]) -> list[Record]:
        """Return the records with further fields, given for each in order."""
        return [{**record, **more} for record, more in zip(records, fields, strict=True)]

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class cx cy w h confidence``, the box in fractions of the picture's size."""
        h, w = size
        lines = []
        for record in records:
            x1, y1, x2, y2 = record["box"]
            parts = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h, record["confidence"])
            lines.append(" ".join([str(record["class"]), *(f"{part:.6f}" for part in parts)]))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw boxes with name and score."""
        return Drawing(image, *self.label_boxes(records))

    def label_boxes(self, records: Sequence[Record]) -> tuple[NDArray[Any], list[str], list[Colour]]:
        """Return the boxes (n, 4), and the label (with a tracker's number) and colour of each."""
        boxes = np.array([r["box"] for r in records]).reshape(-1, 4)
        labels = [f"{'#{} '.format(r['id']) if 'id' in r else ''}{r['name']} {r['confidence']:.2f}" for r in records]
        return boxes, labels, [class_colour(r["class"]) for r in records]

    def crops(self, image: Image, records: Sequence[Record]) -> list[tuple[str, Image]]:
        """Cut out each box, with all pixels that it touches."""
        parts = []
        for record in records:
            x1, y1, x2, y2 = record["box"]
            parts.append((record["name"], image[floor(y1) : ceil(y2), floor(x1) : ceil(x2)]))
        return [(name, part) for name, part in parts if part.size]
