"""BoT-SORT (Aharon et al. 2022, arXiv 2206.14651): ByteTrack with the camera's motion taken out."""

from dataclasses import dataclass
from typing import ClassVar

from netbuild.drawing.annotated import Image
from netbuild.prediction.trackers.box_tracker import Detections
from netbuild.prediction.trackers.bytetrack import ByteTrack, ByteTrackSettings
from netbuild.prediction.trackers.camera_motion import CameraMotion, is_available
from netbuild.settings import setting


@dataclass(frozen=True)
class BotSortSettings(ByteTrackSettings):
    """The settings of `BotSort`."""

    camera: str = setting(
        "auto", "the camera's motion, by optical flow; auto: if OpenCV is installed", choices="auto flow off"
    )


class BotSort(ByteTrack):
    """ByteTrack whose predicted boxes move with the camera. Appearance (the paper's re-identification) is not used."""

    name = "botsort"
    settings_class: ClassVar[type] = BotSortSettings
    settings: BotSortSettings

    def __init__(self, settings: BotSortSettings | None = None) -> None:
        super().__init__(settings or BotSortSettings())
        choice = self.settings.camera
        self.motion = CameraMotion() if choice == "flow" or (choice == "auto" and is_available()) else None

    def move_tracks(self, found: Detections, image: Image) -> None:
        """Move the predicted boxes with the camera."""
        # Every 64th pixel shows whether there is a picture: without one, as for a file of detections, it is blank.
        if self.motion and image[::64, ::64].any():
            self.tracks.filter.move(self.motion.estimate(image, found.boxes))
