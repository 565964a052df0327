"""Cameras: devices and streams of the network, of which the newest frame is taken, with reconnection."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from netbuild.data.fitting import Image
from netbuild.data.images import UnreadableImageError, is_picture
from netbuild.system.packages import cv2

SCHEMES = ("rtsp://", "rtsps://", "http://", "https://")
MAX_DEVICE = 99
OPEN_TIMEOUT = 10.0  # seconds until a connection or a frame is given up
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between attempts to connect again; each is twice as long
PATIENCE = 30.0  # seconds without a frame after which a camera is given up


@dataclass(frozen=True)
class Camera:
    """A camera, or a stream of the network.

    Args:
        address: the number of a device, or a URL.
    """

    address: int | str

    @property
    def path(self) -> Path:
        """A name for messages, results and files: without a password that the URL may contain."""
        if isinstance(self.address, int):
            return Path(f"camera-{self.address}")
        parts = urlsplit(self.address)
        host = parts.netloc.rpartition("@")[2]
        # Without dots: they would begin the ending of a file's name.
        return Path(re.sub(r"\W+", "-", f"{host}{parts.path}").strip("-") or "stream")


def find_camera(name: str) -> Camera | None:
    """Return the camera that a name means, None for other names.

    It is a number that is no file, or a URL (`SCHEMES`) that does not end like a picture or a video.
    """
    if name.isdecimal() and int(name) <= MAX_DEVICE and not Path(name).exists():
        return Camera(int(name))
    if name.lower().startswith(SCHEMES):
        path = Path(urlsplit(name).path)
        if not (is_picture(path) or path.suffix.lower() in (".mp4", ".avi", ".mov", ".mkv", ".webm")):
            return Camera(name)
    return None


class Stream:
    """An open camera, which a thread reads all the time; frames that nobody took are dropped.

    Args:
        camera: the camera.

    Attributes:
        fps: frames per second that it states; None if it does not.

    Raises:
        UnreadableImageError: if it cannot be opened.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.news = threading.Condition()
        self.frame: Image | None = None  # the newest, BGR, if it was not taken yet
        self.is_stopped = False
        self.error = ""
        self.video = self._open()
        if not self.video.isOpened():
            hint = "is it switched on, and does another program use it?"
            raise UnreadableImageError(f"{camera.path}: OpenCV cannot open this camera", hint=hint)
        rate = self.video.get(cv2().CAP_PROP_FPS)
        self.fps = rate if isfinite(rate) and 0 < rate <= 1000 else None
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self.thread.start()

    def _open(self) -> Any:
        """Open the camera by OpenCV; the result may be closed."""
        address, cv = self.camera.address, cv2()
        if isinstance(address, int):
            video = cv.VideoCapture(address)
            video.set(cv.CAP_PROP_BUFFERSIZE, 1)
            return video
        wait = int(OPEN_TIMEOUT * 1000)
        limits = [cv.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv.CAP_PROP_READ_TIMEOUT_MSEC, wait]
        return cv.VideoCapture(address, cv.CAP_FFMPEG, limits)

    def _run(self) -> None:
        """Read frames until the stream is stopped or given up; connect again where reading fails."""
        last, pause = monotonic(), FIRST_PAUSE
        while not self.is_stopped:
            is_read, pixels = self.video.read()
            if is_read:
                last, pause = monotonic(), FIRST_PAUSE
                with self.news:
                    self.frame = pixels
                    self.news.notify_all()
                continue
            if monotonic() - last > PATIENCE:
                self.error = f"{self.camera.path}: no frame for {PATIENCE:.0f} seconds"
                break
            self.video.release()
            with self.news:
                self.news.wait_for(lambda: self.is_stopped, pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self.video = self._open()
        self.video.release()
        self.stop()

    def take(self) -> Image | None:
        """Wait for a frame that was not taken yet and return the newest, RGB; None once the stream is stopped.

        Raises:
            UnreadableImageError: if the camera was given up.
        """
        with self.news:
            # With a time limit, so that Ctrl-C is handled while nothing arrives.
            while self.frame is None and not self.is_stopped:
                self.news.wait(0.2)
            pixels, self.frame = self.frame, None
        if pixels is not None and not self.is_stopped:
            return cv2().cvtColor(pixels, cv2().COLOR_BGR2RGB)  # type: ignore[no-any-return]
        if self.error:
            raise UnreadableImageError(self.error)
        return None

    def stop(self) -> None:
        """End the stream; `take` returns None from now on."""
        self.is_stopped = True


def read_camera(camera: Camera) -> Iterator[tuple[Image, float | None]]:
    """Yield the newest frame of a camera each time, and its frames per second, until Ctrl-C.

    Raises:
        UnreadableImageError: if it cannot be opened, or gives no frame for `PATIENCE` seconds.
    """
    stream = Stream(camera)
    try:
        with stop_at_interrupt(stream.stop):
            while (pixels := stream.take()) is not None:
                yield pixels, stream.fps
    finally:
        stream.stop()
        stream.thread.join(2 * OPEN_TIMEOUT)


@contextmanager
def stop_at_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C, so that what was saved is complete; the second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
