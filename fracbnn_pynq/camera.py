"""Cameras, videos and network streams through OpenCV. All pictures are OpenCV's: uint8 [H, W, 3], BGR."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .errors import CameraError, PictureError
from .opencv import Image as Image  # noqa: PLC0414 - for who takes its frames
from .opencv import opencv, quiet, unless_stopped

log = logging.getLogger(__name__)

ASSUMED_FPS = 30.0
"""Frames/s of a source that does not say, or says nonsense (network streams often give the clock of their protocol)."""

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
NETWORK_TIMEOUT_MS = 5000
RELEASE_TIMEOUT_S = 1.0
"""How long a source is waited for that is to be given back while it is being read."""

SLOWEST_FPS, FASTEST_FPS = 0.01, 1000.0
"""Frames/s that are believed: of a time lapse, and of a slow-motion camera."""


@dataclass(frozen=True)
class Frame:
    """A frame: ``image`` uint8 [H, W, 3] BGR, ``index`` counted from 0, ``time`` in seconds since the first frame.

    Of a video file ``time`` is the position in the video, also where frames do not come at a constant rate.
    """

    image: Image
    index: int
    time: float


class Camera:
    """A source of frames: iterate over it, once; a context manager.

    ``source``: a camera's number (also as text) or device (``/dev/video0``), a video file, or a URL (``rtsp://``,
    ``http://``). A camera or stream that disappears is opened again until it is back; a file, and a URL that has an
    end, ends. Files come at their own rate, or with ``fast`` as fast as they are taken. ``width``, ``height``
    (pixels), ``fps`` (frames/s) and ``fourcc`` (such as ``MJPG``, which many USB cameras need for their highest rates)
    are asked of a camera, which may choose others.

    With ``wait`` the source is opened by the iteration, and a camera or stream that is not there is waited for like one
    that has disappeared; until it has been opened, :attr:`fps` is an assumption.

    Raises :class:`CameraError`, or :class:`~fracbnn_pynq.errors.PictureError` for a file that is no video.
    """

    def __init__(
        self,
        source: int | str | os.PathLike[str],
        *,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        fourcc: str | None = None,
        fast: bool = False,
        wait: bool = False,
    ) -> None:
        text = os.fspath(source) if not isinstance(source, int) else str(source)
        # Of a URL the name leaves out user and password: it is logged, and shown to viewers.
        self.name = f"camera {text}" if text.isdecimal() else re.sub(r"(?<=://)[^/?#]*@", "", text)
        self._target: int | str = int(text) if text.isdecimal() else text
        self._is_url = re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None
        self._is_device = isinstance(self._target, int) or text.startswith("/dev/")
        self._is_file = not self._is_url and not self._is_device
        self._asked = {"FRAME_WIDTH": width, "FRAME_HEIGHT": height, "FPS": fps}
        self._fourcc = fourcc
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._capture: Any = None
        self._opens_late = wait
        self.fast = fast
        self.fps = ASSUMED_FPS
        self.live = not self._is_file
        self.lost = False
        self.outages = 0
        self._check_request()
        opencv()
        if not wait:
            self._open_first()
        elif self._is_file and not self._exists():
            raise self._failure()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the source states them; 0 while there is none."""
        return int(self._property("FRAME_WIDTH")), int(self._property("FRAME_HEIGHT"))

    def __iter__(self) -> Iterator[Frame]:
        try:
            if self._opens_late:
                self._open_first()
            yield from self._live_frames() if self.live else self._recorded_frames()
        finally:
            self._release()

    def stop(self) -> None:
        """End the iteration after the frame being read, also while waiting; from any thread."""
        self._stopping.set()

    def close(self) -> None:
        """Stop, and give the source back."""
        self.stop()
        self._release()

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recorded_frames(self) -> Iterator[Frame]:
        begin = time.perf_counter()
        index = 0
        at = -1 / self.fps
        while not self._stopping.is_set() and (image := self._read()) is not None:
            at = self._position(after=at)
            early = begin + at - time.perf_counter()
            if early < -1:
                begin -= early  # after a suspension: go on from here rather than hurry
            if not self.fast and early > 0 and self._stopping.wait(early):
                return
            yield Frame(image, index, at)
            index += 1
        if index == 0 and not self._stopping.is_set():
            raise PictureError(f"{self.name}: expected a video, found no frame in it that OpenCV can decode")

    def _live_frames(self) -> Iterator[Frame]:
        begin = lost = None
        retry = FIRST_RETRY_S
        index = 0
        while not self._stopping.is_set():
            image = self._read()
            now = time.perf_counter()
            if image is None:
                if lost is None:
                    lost = now
                    self.lost = True
                    self.outages += 1
                    which = "more frames" if index else "frames"
                    log.warning("%s: no %s; trying to open it until they come", self.name, which)
                self._release()
                if self._stopping.wait(retry):
                    return
                retry = min(2 * retry, LONGEST_RETRY_S)
                self._reopen()
                continue
            if lost is not None:
                log.warning("%s: back after %.1f s", self.name, now - lost)
                lost, retry = None, FIRST_RETRY_S
                self.lost = False
            begin = begin or now
            yield Frame(image, index, now - begin)
            index += 1

    def _read(self) -> Image | None:
        with self._lock:
            if self._capture is None:
                return None
            try:
                good, image = self._capture.read()
            except opencv().error as error:
                log.info("%s: %s", self.name, error)
                return None
            return image if good else None

    def _position(self, after: float) -> float:
        """Seconds from the video's beginning to the frame read last, which is later than ``after``."""
        stated = self._property("POS_MSEC") / 1e3
        # Formats without time stamps, and builds that do not know them, state nothing or the same again and again.
        return stated if math.isfinite(stated) and stated > after else after + 1 / self.fps

    def _release(self) -> None:
        if not self._lock.acquire(timeout=RELEASE_TIMEOUT_S):
            log.warning("%s does not answer and is left behind", self.name)
            return
        try:
            if self._capture is not None:
                self._capture.release()
                self._capture = None
        finally:
            self._lock.release()

    def _open_first(self) -> None:
        self._reopen()
        if self._capture is None and not (self._opens_late and self.live):
            raise self._failure()
        self.live = not self._is_file and not (self._is_url and self._property("FRAME_COUNT") > 0)

    def _reopen(self) -> None:
        self._capture = self._open()
        if self._capture is not None:
            self.fps = self._plausible_fps()

    def _exists(self) -> bool:
        return os.path.exists(str(self._target))

    def _open(self) -> Any:
        """An opened cv2.VideoCapture, or None."""
        library = opencv()
        if isinstance(self._target, str) and not self._is_url and not self._exists():
            return None  # OpenCV would complain on stderr at every try
        arguments = self._arguments()
        with quiet():
            capture = unless_stopped(
                lambda: library.VideoCapture(*arguments), self._stopping, lambda late: late.release()
            )
        if capture is None:
            return None
        if not capture.isOpened():
            capture.release()
            return None
        if self._fourcc is not None:
            capture.set(library.CAP_PROP_FOURCC, library.VideoWriter_fourcc(*self._fourcc))
        for key, value in self._asked.items():
            if value is not None:
                capture.set(getattr(library, f"CAP_PROP_{key}"), value)
                if (found := capture.get(getattr(library, f"CAP_PROP_{key}"))) != value:
                    log.warning("%s: asked for %s %g, it gives %g", self.name, key.lower(), value, found)
        return capture

    def _arguments(self) -> list[Any]:
        library = opencv()
        if self._is_url and hasattr(library, "CAP_PROP_OPEN_TIMEOUT_MSEC"):
            limits = library.CAP_PROP_OPEN_TIMEOUT_MSEC, library.CAP_PROP_READ_TIMEOUT_MSEC
            if library.CAP_FFMPEG in library.videoio_registry.getStreamBackends():
                timeouts = [number for limit in limits for number in (limit, NETWORK_TIMEOUT_MS)]
                return [self._target, library.CAP_FFMPEG, timeouts]
        return [self._target]

    def _check_request(self) -> None:
        if not self._is_device and (self._fourcc is not None or any(v is not None for v in self._asked.values())):
            raise CameraError(f"{self.name}: size, rate and fourcc can be asked of a camera only: leave them out")
        if self._fourcc is not None and not re.fullmatch(r"[ -~]{4}", self._fourcc):
            raise CameraError(f"fourcc: expected four ASCII characters such as MJPG, found {self._fourcc!r}")

    def _failure(self) -> CameraError | PictureError:
        if not self._is_file:
            hint = "is the address right?" if self._is_url else "is it plugged in, and may this user read it?"
            return CameraError(
                f"{self.name}: expected a source of frames, found none that OpenCV can open", advice=hint
            )
        found = "a file that OpenCV cannot open" if self._exists() else "no file of this name"
        return PictureError(f"{self.name}: expected a camera's number, a URL or a video file, found {found}")

    def _property(self, key: str) -> float:
        with self._lock:
            return float(self._capture.get(getattr(opencv(), f"CAP_PROP_{key}"))) if self._capture is not None else 0.0

    def _plausible_fps(self) -> float:
        stated = self._property("FPS")
        if math.isfinite(stated) and SLOWEST_FPS <= stated <= FASTEST_FPS:
            return stated
        log.info("%s: states %g frames/s, %g are assumed", self.name, stated, ASSUMED_FPS)
        return ASSUMED_FPS
