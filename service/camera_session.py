"""What a camera gives, from opening to closing it, made into what viewers are sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..camera import Camera, Frame, Image
from ..classifier import Prediction
from ..display import as_jpeg, overlay_lines, with_text
from ..errors import FracBNNError
from ..streaming import Delivery, Pipeline
from .broadcast import Subscribers, Update

log = logging.getLogger(__name__)

Result: TypeAlias = Prediction | FracBNNError

RATE_OVER_S = 2.0
LOOK_S = 0.1
"""How often it is seen whether anybody still watches and whether frames still come."""
SILENT_S = 3.0
"""A camera that gives nothing for so long is said to be silent; OpenCV itself may wait for 10 s."""
BLANK = (360, 480)
"""Rows and columns of the picture that is sent where there has been none."""
DIMMED = 3


class Rate:
    """How fast a count grows, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, count: int) -> None:
        """It is ``count`` at ``now`` seconds."""
        self._seen.append((now, count))
        while now - self._seen[0][0] > RATE_OVER_S:
            self._seen.popleft()

    @property
    def value(self) -> float:
        """Per second; 0 until it is known."""
        if not self._seen:
            return 0.0
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - begin) if end > begin else 0.0


class CameraPublisher:
    """The way from the camera's thread to the subscribers in the event loop ``loop``, and what has gone that way."""

    def __init__(self, subscribers: Subscribers) -> None:
        self.subscribers = subscribers
        self.loop: asyncio.AbstractEventLoop | None = None
        self.frames = self.dropped = self.outages = 0
        self.status = _status("closed", "nobody watches")

    @property
    def state(self) -> str:
        """``closed``, ``opening``, ``live`` or ``waiting`` (for a camera that is not there)."""
        state: str = self.status.data["state"]
        return state

    def say(self, state: str, message: str, ground: Image | None = None) -> None:
        """Tell everybody that no frames come, and why, also as text on ``ground``."""
        picture = np.zeros((*BLANK, 3), np.uint8) if ground is None else ground // DIMMED
        try:
            marked = as_jpeg(with_text(picture, [message]))
        except Exception:  # what OpenCV raises; the message is more than its picture
            log.debug("a message could not be drawn", exc_info=True)
            marked = None
        self.status = _status(state, message, marked)
        self._tell(self.status)

    def close(self) -> None:
        """The camera is closed: nobody is there to be told."""
        self.status = _status("closed", "nobody watches")

    def show(self, data: dict[str, Any], image: Image, lines: list[str]) -> None:
        """Send everybody what they want of a frame."""
        if self.state != "live":
            self.status = _status("live", "frames come")
        self.frames += 1
        wanted = self.subscribers.wanted
        plain = as_jpeg(image) if "plain" in wanted else None
        marked = as_jpeg(with_text(image, lines)) if "marked" in wanted else None
        self._tell(Update(data, plain, marked))

    def _tell(self, update: Update) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.subscribers.tell, update)


def _status(state: str, message: str, marked: bytes | None = None) -> Update:
    return Update({"type": "camera", "state": state, "message": message}, None, marked)


class CameraSession:
    """Gives ``publisher`` what ``camera`` gives, while ``goes_on()``. ``about`` is part of each frame's data.

    ``classify`` is called with one frame's picture at a time; a frame for which it raises
    :class:`~fracbnn_pynq.errors.FracBNNError` is shown with that instead of labels.
    """

    def __init__(
        self,
        camera: Camera,
        classify: Callable[[Image], Prediction],
        publisher: CameraPublisher,
        goes_on: Callable[[], bool],
        about: dict[str, Any],
    ) -> None:
        self._camera = camera
        self._classify = classify
        self._pipeline = Pipeline(camera, self._result, interrupt=camera.stop)
        self._publisher = publisher
        self._goes_on = goes_on
        self._about = about
        self._rates = {"camera": Rate(), "labels": Rate()}
        self._last: Image | None = None
        self._captured = 0
        self._heard = time.perf_counter()
        self._before = publisher.dropped, publisher.outages

    def run(self) -> None:
        """Until it does not go on, or a video has ended; raises what the camera or the network does."""
        self._pipeline.run(self._show, tick=self._look, interval=LOOK_S)

    def _result(self, frame: Frame) -> Result:
        try:
            return self._classify(frame.image)
        except FracBNNError as error:
            return error

    def _show(self, delivery: Delivery[Frame, Result]) -> None:
        result, frame = delivery.result, delivery.frame
        self._last = frame.image
        latency = (delivery.inferred - delivery.captured) * 1e3
        rate = self._rates["labels"].value
        data: dict[str, Any] = {"type": "frame", "frame": frame.index, "time": round(frame.time, 3), **self._about}
        if isinstance(result, Prediction):
            data.update(result.as_dict(), timings_ms={name: round(ms, 3) for name, ms in result.timings.items()})
            lines = overlay_lines(result.top[:1], rate, latency)
        else:
            data["error"] = str(result)
            lines = [str(result)]
        data["latency_ms"] = round(latency, 3)
        data["per_second"] = {name: round(each.value, 2) for name, each in self._rates.items()}
        self._publisher.show(data, frame.image, lines)

    def _look(self) -> None:
        if not self._goes_on():
            self._pipeline.stop()
        now, statistics = time.perf_counter(), self._pipeline.statistics
        self._rates["camera"].note(now, statistics.captured.count)
        self._rates["labels"].note(now, statistics.delivered.count)
        if statistics.captured.count != self._captured:
            self._captured, self._heard = statistics.captured.count, now
        self._publisher.dropped = self._before[0] + statistics.dropped
        self._publisher.outages = self._before[1] + self._camera.outages
        silent = self._camera.lost or now - self._heard > SILENT_S
        if silent and self._publisher.state != "waiting":
            self._publisher.say("waiting", f"{self._camera.name}: no frames come; it is tried again", self._last)
