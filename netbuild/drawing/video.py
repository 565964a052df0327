"""Videos written frame by frame with OpenCV."""

import os
from pathlib import Path
from typing import Any

from netbuild.drawing.annotated import Image
from netbuild.errors import NetbuildError
from netbuild.system.files import make_folder, writing
from netbuild.system.packages import cv2


class VideoWriter:
    """Writes an .mp4 file frame by frame; its size is that of the first frame.

    Args:
        file: the file to write.
        fps: frames per second.
        hint: of the error if OpenCV has no codec for it.
    """

    def __init__(self, file: Path, fps: float, hint: str = "") -> None:
        self.file, self.fps, self.hint = file, fps, hint
        self.draft = file.with_name(f".{file.stem}.{os.getpid()}.new.mp4")  # OpenCV chooses the format by the ending
        self.writer: Any = None
        self.count = 0

    def add(self, image: Image) -> None:
        """Write a frame (H, W, 3); odd sides are padded by one pixel, because the codec needs even ones."""
        h, w = image.shape[:2]
        even = cv2().copyMakeBorder(image, 0, h % 2, 0, w % 2, cv2().BORDER_REPLICATE)
        if self.writer is None:
            self.writer = self._open(even)
        self.writer.write(cv2().cvtColor(even, cv2().COLOR_RGB2BGR))
        self.count += 1

    def _open(self, image: Image) -> Any:
        """Open OpenCV's writer for frames of an image's size.

        Raises:
            NetbuildError: if OpenCV has no codec for it.
        """
        make_folder(self.file.parent)
        code = cv2().VideoWriter.fourcc(*"mp4v")
        writer = cv2().VideoWriter(str(self.draft), code, self.fps, (image.shape[1], image.shape[0]))
        if not writer.isOpened():
            raise NetbuildError(f"{self.file}: OpenCV cannot write this video", hint=self.hint)
        return writer

    def close(self, complete: bool) -> None:
        """Close the file; remove it if it is not complete.

        Raises:
            NetbuildError: if OpenCV did not write all frames.
        """
        if self.writer is None:
            return
        self.writer.release()
        is_good = complete and self._is_readable()
        with writing(self.file):
            if is_good:
                self.draft.replace(self.file)
            else:
                self.draft.unlink(missing_ok=True)
        if complete and not is_good:
            raise NetbuildError(f"{self.file}: cannot be written: frames are missing in it", hint="is the disk full?")

    def _is_readable(self) -> bool:
        """Whether the file has all frames; it is opened again, because OpenCV reports no errors of writing."""
        video = cv2().VideoCapture(str(self.draft))
        try:
            return bool(video.isOpened() and video.get(cv2().CAP_PROP_FRAME_COUNT) >= self.count)
        finally:
            video.release()
