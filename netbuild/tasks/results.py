"""What prediction reads of a task: records of a picture, texts and drawings of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from netbuild.drawing.annotated import Drawing, Image
from netbuild.errors import NetbuildError, shorten
from netbuild.graph.network import Network
from netbuild.layers.heads.base import traits
from netbuild.tasks.options import refuse_options
from netbuild.tasks.sampling import Sampler
from netbuild.tasks.view import FrameState, Record, View


class TaskResults:
    """The part of a `netbuild.tasks.base.Task` that prediction reads; all of it has defaults."""

    name: str
    head: nn.Module
    names: list[str] | None

    @property
    def extra(self) -> tuple[int, ...]:
        """The shape of the values that follow each box's classes, e.g. (17, 3) for 17 keypoints; see `Head.extra`."""
        return traits(self.head).extra

    @property
    def stride(self) -> int:
        """The number of pixels that both sides of a letterboxed picture must be a multiple of."""
        return 32

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options that a user gave for prediction and return them as keywords of `decode`.

        Raises:
            NetbuildError: for an option without effect for this task or head, or a value out of range.
        """
        return refuse_options(given, f"for the task '{self.name}'")

    def make_nms_filter(self, given: Mapping[str, Any]) -> Any:
        """Return the `netbuild.tasks.nms.Filter` of these options, for a file with suppression inside.

        Raises:
            NetbuildError: for a task or head without suppression.
        """
        message = f"--nms has no effect for the task '{self.name}': nothing is suppressed"
        raise NetbuildError(message, hint="leave it out")

    def records(self, prediction: Any, view: View) -> list[Record]:
        """Convert a picture's prediction to JSON data, in pixels of the original picture.

        Raises:
            NetbuildError: if the prediction is no tensor and the task does not override this.
        """
        if not isinstance(prediction, Tensor):
            hint = "implement Task.records in the task"
            raise NetbuildError(f"the task '{self.name}' cannot convert its predictions to records", hint=hint)
        return [{"value": prediction.tolist()}]

    def line(self, records: Sequence[Record]) -> str:
        """Summarise the records of a picture in a few words."""
        ordered = sorted((record for record in records if "name" in record), key=lambda record: record["class"])
        counts = Counter(str(record["name"]) for record in ordered)
        values = [shorten(record["value"]) for record in records if "value" in record]
        return ", ".join([*(f"{count} {name}" for name, count in counts.items()), *values]) or "nothing"

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return the lines of a picture's label file; ``size`` is the picture's height and width."""
        return []

    def label_rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return the lines of a label file to train on: those of `rows` without the confidence, which is last."""
        return [row.rpartition(" ")[0] for row in self.rows(records, size)]

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw the records into a copy of the picture."""
        return Drawing(image)

    def draw_result(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw what `netbuild predict` saves of a picture; by default as `draw`."""
        return self.draw(image, prediction, records)

    def sampler(self, network: Network) -> Sampler | None:
        """Return what makes new pictures with the network, in eval mode on its device; None if the task makes none."""
        return None

    def crops(self, image: Image, records: Sequence[Record]) -> list[tuple[str, Image]]:
        """Cut out the objects: (class name, part of the picture) for each."""
        return []

    def frame_state(self) -> FrameState | None:
        """Return new state for the frames of one video; None if the frames are independent."""
        return None

    def start_video(self, tracker: Callable[[], FrameState] | None) -> FrameState | None:
        """Return new state for the frames of one video: that of a tracker, if there is one, else `frame_state`."""
        return tracker() if tracker else self.frame_state()

    def select_confident(self, records: Any, confidence: float) -> Any:
        """Return the records above a confidence, and those without one."""
        return [record for record in records if record.get("confidence", 1.0) > confidence]

    def class_name(self, number: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return self.names[number] if self.names and number < len(self.names) else str(number)
