"""What all tasks that find boxes share when they predict: which boxes are kept, and how they are told and shown."""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netbuild.drawing.annotated import Colour, Drawing, Image, class_colour
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.layers.heads.base import traits
from netbuild.tasks.base import Record, Task, View, refuse
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.nms import Filter, best_rows, suppress


class BoxTask(Task):
    """Boxes with classes, and what a head tells of each beside them.

    Args:
        head: with the attribute ``nc`` and the method ``ranks``; its ``stride``, if it has that, must be known.
        names: names of the classes.

    Raises:
        NetbuildError: if the head is none of these.
    """

    fitting = "letterbox"
    record_fields: ClassVar[tuple[str, ...]] = ("box",)
    saves: ClassVar[tuple[str, ...]] = ("pictures", "txt", "json", "crops")

    def __init__(self, head: nn.Module, names: list[str] | None = None) -> None:
        super().__init__(head, names)
        kind, has = type(head).__name__, traits(head)
        if has.nc is None or not has.box_form:
            hint = "the task needs a head that lists boxes, such as Detect; see netbuild.layers.heads.base.Head"
            raise NetbuildError(f"the task '{self.name}' cannot read the head {kind}", hint=hint)
        if has.stride == ():
            raise NetbuildError(f"the strides of the head {kind}'s sources are not known")

    @property
    def nc(self) -> int:
        """Number of classes of the head."""
        return int(traits(self.head).nc or 0)

    def placed(self, outputs: Any, canvas: Sequence[int]) -> Any:
        """With corners in pixels for the boxes of a head that gives centres and sizes in parts of the image."""
        if traits(self.head).box_form != "parts":
            return outputs
        y = outputs[0] if isinstance(outputs, tuple | list) else outputs
        sides = y.new_tensor([canvas[1], canvas[0]] * 2)
        return torch.cat((to_corners(y[..., :4]) * sides, y[..., 4:]), -1)

    def decode(self, outputs: Any, **options: Any) -> Any:
        """Detections of each image, best first: (n, 6+extra) corners in pixels of the input, score, class, extra.

        Args:
            outputs: the head's in eval, with or without the raw ones.
            options: fields of `Filter`.
        """
        return self.chosen(outputs[0] if isinstance(outputs, tuple | list) else outputs, Filter(**options))

    def chosen(self, y: Tensor, wanted: Filter) -> list[Tensor]:
        """The rows of each image that are kept, of a head's prediction (B, 4+nc+extra, A), or (B, k, 6+extra)."""
        return best_rows(y, wanted) if traits(self.head).ranks else suppress(y, wanted, self.nc)

    @property
    def stride(self) -> int:
        """That of the head."""
        return stride_of(self.head)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of `Filter`; ``classes`` as numbers and names, in a list or with commas between.

        Raises:
            NetbuildError: for any other, for those of suppression where the head needs none, or a wrong value.
        """
        if traits(self.head).ranks:
            refuse({k: v for k, v in given.items() if k in ("iou", "agnostic", "multi_label")}, "without suppression")
        super().options({k: v for k, v in given.items() if k not in Filter.__dataclass_fields__})
        for name in ("conf", "iou"):
            if not 0 <= given.get(name, 0) <= 1:
                raise NetbuildError(f"--{name} {given[name]}: must be from 0 to 1")
        if given.get("max_det", 1) < 1:
            raise NetbuildError(f"--max-det {given['max_det']}: must be at least 1")
        wanted = given.get("classes")
        return {**given, **({} if wanted is None else {"classes": self.numbers(wanted)})}

    def suppression(self, given: Mapping[str, Any]) -> Filter:
        """None: a file that chooses boxes gives nothing beside them.

        Raises:
            NetbuildError: always.
        """
        said = f"--nms has no effect for the task '{self.name}': suppression inside a file is for boxes alone"
        raise NetbuildError(said, hint="leave it out: netbuild predict and netbuild.runtime suppress what overlaps")

    def numbers(self, wanted: str | Sequence[str | int]) -> tuple[int, ...]:
        """Classes by number or name, where a text of digits is a number unless a class is named so.

        Raises:
            NetbuildError: for one that there is not.
        """
        texts = wanted.split(",") if isinstance(wanted, str) else wanted
        known = [self.class_name(i) for i in range(self.nc)]
        return tuple(_number(str(text).strip(), known) for text in texts)

    def records(self, prediction: Any, view: View) -> list[Record]:
        """For each box class, name, confidence, and corners [x1, y1, x2, y2] in pixels of the picture."""
        corners = view.place.undo(prediction[:, :4]).tolist()
        return [
            {
                "class": int(row[5]),
                "name": self.class_name(int(row[5])),
                "confidence": round(row[4], 5),
                "box": [round(x, 3) for x in box],
            }
            for box, row in zip(corners, prediction.tolist(), strict=True)
        ]

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """``class cx cy w h confidence``, the four as parts of the picture's size."""
        h, w = size
        lines = []
        for record in records:
            x1, y1, x2, y2 = record["box"]
            parts = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h, record["confidence"])
            lines.append(" ".join([str(record["class"]), *(f"{part:.6f}" for part in parts)]))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Boxes with name and score."""
        return Drawing(image, *self.labelled(records))

    def labelled(self, records: Sequence[Record]) -> tuple[NDArray[Any], list[str], list[Colour]]:
        """Boxes (n, 4), and the label (with the number that a tracker gave) and the colour of each."""
        boxes = np.array([r["box"] for r in records]).reshape(-1, 4)
        labels = [f"{'#{} '.format(r['id']) if 'id' in r else ''}{r['name']} {r['confidence']:.2f}" for r in records]
        return boxes, labels, [class_colour(r["class"]) for r in records]

    def crops(self, image: Image, records: Sequence[Record]) -> list[tuple[str, Image]]:
        """The part of the picture in each box, with all pixels that it touches."""
        parts = []
        for record in records:
            x1, y1, x2, y2 = record["box"]
            parts.append((record["name"], image[floor(y1) : ceil(y2), floor(x1) : ceil(x2)]))
        return [(name, part) for name, part in parts if part.size]


def stride_of(head: nn.Module) -> int:
    """Return the pixels that both sides of a letterboxed picture are multiples of: the largest stride, at least 32."""
    return max([32, *map(int, traits(head).stride or ())])


def _number(text: str, known: Sequence[str]) -> int:
    if text in known:
        return known.index(text)
    if text.isdecimal() and int(text) < len(known):
        return int(text)
    hint = did_you_mean(text, known) or f"there is 0 to {len(known) - 1}: {', '.join(known[:20])}"
    raise NetbuildError(f"--classes: there is no class '{text}'", hint=hint)
