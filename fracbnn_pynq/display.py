"""Frames for people: text on them, a window, a recording. OpenCV's pictures: uint8 [H, W, 3], BGR."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import CameraError
from .opencv import Image, opencv, quiet

log = logging.getLogger(__name__)

CODECS = {".avi": "MJPG", ".mkv": "mp4v", ".mov": "mp4v", ".mp4": "mp4v"}

LONGEST_GAP_S = 2.0
"""A recording of a camera shows the last frame again while none comes, up to this long; longer gaps are cut out."""
LONGEST_GAP_IN_VIDEO_S = 60.0
"""The same of a video file's: time lapses have long gaps, and damaged files have times of many years."""

CHECKED_FRAMES = 30
"""After so many frames it is looked whether there is room for more."""
LAST_FRAMES = 3

LINES_PER_HEIGHT = 16
JPEG_QUALITY = 80
_STOP_KEYS = {27, ord("q")}


def with_text(image: Image, lines: Sequence[str]) -> Image:
    """A copy of ``image`` with lines of text on a dark ground at its top left. Characters beyond ASCII become ``?``."""
    library = opencv()
    marked = image.copy()
    height = max(12, image.shape[0] // LINES_PER_HEIGHT)
    font, scale = library.FONT_HERSHEY_SIMPLEX, height / 40
    thickness = max(1, round(scale * 1.5))
    texts = [line.encode("ascii", "replace").decode() for line in lines]
    width = max((library.getTextSize(text, font, scale, thickness)[0][0] for text in texts), default=0) + height // 2
    ground = marked[: height * len(texts) + height // 4, :width]
    ground[:] = ground // 3
    for number, text in enumerate(texts, 1):
        at = (height // 4, number * height - height // 5)
        library.putText(marked, text, at, font, scale, (255, 255, 255), thickness, library.LINE_AA)
    return marked


def overlay_lines(top: Sequence[tuple[str, float]], rate: float, latency_ms: float) -> list[str]:
    """The text for a frame: its labels with their probabilities, and how fast it goes."""
    return [*(f"{label} {share:.1%}" for label, share in top), f"{rate:.1f} frames/s, {latency_ms:.1f} ms"]


def as_jpeg(image: Image, quality: int = JPEG_QUALITY) -> bytes:
    """``image`` as a JPEG file; ``quality`` 0..100. Raises CameraError."""
    library = opencv()
    good, data = library.imencode(".jpg", image, [library.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise CameraError(f"expected to encode a frame as JPEG, but OpenCV cannot: its shape is {image.shape}")
    encoded: bytes = data.tobytes()
    return encoded


class Window:
    """A window on the screen; to be used from the main thread. Raises :class:`~fracbnn_pynq.errors.CameraError`."""

    def __init__(self, title: str) -> None:
        self._title = title
        library = opencv()
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            # Asked here, because OpenCV's Qt ends the process where there is none.
            raise CameraError("expected a screen for the window, found neither DISPLAY nor WAYLAND_DISPLAY set")
        try:
            with quiet():
                library.namedWindow(title, library.WINDOW_NORMAL)
        except library.error as error:
            raise CameraError(
                f"expected an OpenCV that can open windows, found one that cannot ({error.err or error}): "
                "install opencv-python in place of opencv-python-headless"
            ) from error

    def show(self, image: Image) -> bool:
        """Show an image; returns False when the person wants no more (closed the window, pressed q or Esc)."""
        library = opencv()
        library.imshow(self._title, image)
        key = library.waitKey(1)
        return (key & 0xFF if key >= 0 else key) not in _STOP_KEYS and (
            library.getWindowProperty(self._title, library.WND_PROP_VISIBLE) >= 1
        )

    def close(self) -> None:
        """Close the window; one that the person has closed is none."""
        library = opencv()
        try:
            with quiet():
                library.destroyWindow(self._title)
        except library.error:
            return

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Recorder:
    """A video file written at a constant rate in which every frame stands at its time: a context manager.

    The ending of ``path`` chooses the format (:data:`CODECS`). Frames that come late or were dropped are replaced by
    the one before; a gap without frames of more than ``longest_gap`` seconds is cut out. The file can be played once it
    has been closed. Raises :class:`CameraError`; from :meth:`close` where the file does not hold what was written, of
    which OpenCV itself says nothing: the disk was full, or the encoder failed.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, longest_gap: float = LONGEST_GAP_S) -> None:
        self.path = Path(path)
        self.frames = 0
        self._fps = fps
        self._longest_gap = longest_gap
        self._writer: Any = None
        self._size = (0, 0)
        self._skipped = 0.0
        self._last: Image | None = None
        if self.path.suffix.lower() not in CODECS:
            raise CameraError(f"{self.path}: expected a name that ends in {', '.join(CODECS)}")
        if not os.path.isdir(self.path.parent):
            raise CameraError(f"{self.path}: expected an existing folder, found none of this name")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise CameraError(f"{self.path}: expected a file or a free name, found a folder or a device")

    def write(self, image: Image, at: float) -> None:
        """Put a frame at ``at`` seconds; times must not decrease. A frame of another size is resized."""
        if self._writer is None:
            self._open(image)
        due = round((at - self._skipped) * self._fps)
        if due - self.frames > self._longest_gap * self._fps:
            self._skipped += (due - self.frames) / self._fps
            due = self.frames
        if self._last is not None:
            for _ in range(self.frames, due):
                self._write(self._last)
        self._last = image if image.shape[1::-1] == self._size else opencv().resize(image, self._size)
        if due >= self.frames:
            self._write(self._last)

    def close(self) -> None:
        """Finish the file, and look whether it can be played to its end."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with quiet():
                writer.release()
            if not self._can_be_played():
                raise CameraError(
                    f"{self.path}: expected a recording of {self.frames} frames, found one that does not hold them",
                    advice="is the disk full? The file is left as it is",
                )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CameraError as failure:
            if error is None:
                raise
            log.info("%s", failure)  # what went wrong before says more

    def _can_be_played(self) -> bool:
        """Whether the last frames can be read."""
        library = opencv()
        with quiet():
            capture = library.VideoCapture(str(self.path))
            try:
                # Where a frame is looked for by its time, the very last may lie beyond the end.
                capture.set(library.CAP_PROP_POS_FRAMES, max(0, self.frames - LAST_FRAMES))
                found = capture.isOpened() and capture.read()[0]
                return bool(found and capture.get(library.CAP_PROP_POS_FRAMES) > self.frames - LAST_FRAMES)
            except library.error:
                return False
            finally:
                capture.release()

    def _open(self, image: Image) -> None:
        library = opencv()
        self._size = (image.shape[1], image.shape[0])
        codec = library.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        with quiet():
            self._writer = library.VideoWriter(str(self.path), codec, self._fps, self._size)
        if not self._writer.isOpened():
            raise CameraError(
                f"{self.path}: expected to write a video there, but OpenCV cannot: try an .avi, or a folder"
            )

    def _write(self, image: Image) -> None:
        if self.frames % CHECKED_FRAMES == 0 and shutil.disk_usage(self.path.parent).free < image.nbytes:
            raise CameraError(f"cannot write {self.path}: No space left on device", advice="free some, or record less")
        self._writer.write(image)
        self.frames += 1
