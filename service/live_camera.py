"""The camera of the machine that serves: open while somebody watches, classified by the worker that owns the engine."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..camera import FIRST_RETRY_S, LONGEST_RETRY_S, Camera, Image
from ..classifier import Prediction
from ..errors import FracBNNError
from .broadcast import Subscriber, Subscribers
from .camera_session import CameraPublisher, CameraSession
from .errors import unavailable
from .metrics import family
from .settings import Settings

log = logging.getLogger(__name__)

SHORTEST_S = 0.2
"""A video that is shorter is not begun anew before this time: a single picture is one."""


class LiveCamera:
    """Shows the frames of the settings' camera, with their labels, to an subscribers.

    The camera is opened for the first viewer and closed some seconds after the last one has left, unless it is always
    to be open. One that is not there is waited for; a video file is played again and again.

    ``classify`` is called with one frame at a time, in a thread of the camera's, and waits; ``model`` is the name of
    what it classifies with. All methods belong to the event loop. Raises :class:`~fracbnn_pynq.errors.CameraError` or
    :class:`~fracbnn_pynq.errors.PictureError` for a source that no waiting can bring.
    """

    def __init__(self, settings: Settings, model: str, classify: Callable[[Image], Prediction]) -> None:
        self._settings = settings
        self._model = model
        self._classify = classify
        self._options: dict[str, Any] = {
            "source": settings.camera,
            "width": settings.camera_width,
            "height": settings.camera_height,
            "fps": settings.camera_fps,
            "fourcc": settings.camera_fourcc,
            "wait": True,
        }
        self.source = Camera(**self._options).name  # opens nothing, but says what is wrong
        self.subscribers = Subscribers(settings.viewers)
        self._publisher = CameraPublisher(self.subscribers)
        self._leaving: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._wanted = settings.camera_always
        self._stopping = False

    @property
    def about(self) -> dict[str, Any]:
        """What ``/v1/camera`` tells."""
        state = {key: self._publisher.status.data[key] for key in ("state", "message")}
        places = {"viewers": len(self.subscribers), "most_viewers": self.subscribers.places}
        return {"configured": True, "source": self.source, "model": self._model, **state, **places}

    def start(self) -> None:
        """Begin; the running event loop is the viewers'."""
        self._publisher.loop = asyncio.get_running_loop()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fracbnn-camera", daemon=True)
        self._thread.start()

    async def stop(self, timeout: float) -> None:
        """Close the camera; a driver that does not come back within ``timeout`` seconds is left behind."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._leaving is not None:
            self._leaving.cancel()
        thread = self._thread
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.join, timeout)
            if thread.is_alive():
                log.warning("%s: did not come back within %g s and is left behind", self.source, timeout)

    def join(self, viewer: Subscriber) -> None:
        """A viewer comes; 503 where there is no place."""
        self.subscribers.add(viewer)
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self._want(True)
        if self._publisher.state in ("opening", "waiting"):
            viewer.offer(self._publisher.status)

    def leave(self, viewer: Subscriber) -> None:
        """A viewer has gone."""
        self.subscribers.remove(viewer)
        settings = self._settings
        if not len(self.subscribers) and not settings.camera_always and self._publisher.loop is not None:
            self._leaving = self._publisher.loop.call_later(settings.camera_linger, self._want, False)

    def metrics(self) -> Iterator[str]:
        """Lines of Prometheus text."""
        publisher = self._publisher
        values = {
            "live": ("gauge", "1 while frames come", publisher.state == "live"),
            "viewers": ("gauge", "Viewers now", len(self.subscribers)),
            "frames": ("counter", "Frames shown", publisher.frames),
            "frames_dropped": (
                "counter",
                "Frames replaced by newer ones before they were classified",
                publisher.dropped,
            ),
            "outages": ("counter", "Times the camera was not there", publisher.outages),
            "viewer_frames_dropped": ("counter", "Frames that viewers were too slow for", self.subscribers.dropped),
        }
        for name, (kind, meaning, value) in values.items():
            yield from family(f"fracbnn_camera_{name}", kind, meaning, [({}, float(value))])

    def _want(self, wanted: bool) -> None:
        with self._changed:
            self._wanted = wanted
            self._changed.notify_all()

    # --- in the camera's thread ---------------------------------------------------------------------------------

    def _goes_on(self) -> bool:
        return self._wanted and not self._stopping

    def _run(self) -> None:
        retry = FIRST_RETRY_S
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
            before, begin = self._publisher.frames, time.perf_counter()
            try:
                self._open_and_show()
                self._pause(begin + SHORTEST_S - time.perf_counter())
            except Exception as error:  # whatever a driver, a codec or OpenCV raises, the service stays
                retry = FIRST_RETRY_S if self._publisher.frames > before else min(2 * retry, LONGEST_RETRY_S)
                self._wait_after(error, retry)
            if not self._goes_on():
                self._publisher.close()

    def _open_and_show(self) -> None:
        if not self._goes_on():
            return
        if self._publisher.state != "live":  # else a video begins anew
            self._publisher.say("opening", f"{self.source} is being opened")
        with Camera(**self._options) as camera:
            about = {"model": self._model}
            CameraSession(camera, self._classify_now, self._publisher, self._goes_on, about).run()

    def _wait_after(self, error: Exception, seconds: float) -> None:
        if self._stopping:
            return
        log.error("%s: %s", self.source, error, exc_info=not isinstance(error, FracBNNError))
        self._publisher.say("waiting", f"{error}; it is tried again")
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._goes_on(), max(0.0, seconds))

    def _classify_now(self, image: Image) -> Prediction:
        if self._stopping:
            raise unavailable("the service is shutting down")
        return self._classify(image)
