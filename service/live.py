"""The camera of the machine that serves: open while somebody watches, classified by the worker that owns the engine."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..camera import FIRST_RETRY_S, LONGEST_RETRY_S, Camera, Image
from ..errors import FracBNNError
from ..pictures import load
from .errors import ServiceError
from .metrics import family
from .session import Labels, Session, Stage
from .viewers import Audience, Viewer
from .worker import Images

if TYPE_CHECKING:
    from .hub import Hub

log = logging.getLogger(__name__)

TOP = 5
"""Labels of a frame; the first one is drawn."""
SHORTEST_S = 0.2
"""A video that is shorter is not begun anew before this time: a single picture is one."""


class LiveCamera:
    """Shows the frames of the settings' camera, with their labels, to an audience.

    The camera is opened for the first viewer and closed some seconds after the last one has left, unless it is always
    to be open. One that is not there is waited for; a video file is played again and again. Frames go through the queue
    of the first model like anybody's pictures, one at a time; one that cannot be classified is shown without labels.

    All methods belong to the event loop. Raises :class:`~fracbnn_pynq.errors.CameraError` or
    :class:`~fracbnn_pynq.errors.PictureError` for a source that no waiting can bring.
    """

    def __init__(self, hub: Hub) -> None:
        settings = hub.settings
        self._hub = hub
        self._options: dict[str, Any] = {
            "source": settings.camera,
            "width": settings.camera_width,
            "height": settings.camera_height,
            "fps": settings.camera_fps,
            "fourcc": settings.camera_fourcc,
            "wait": True,
        }
        self.source = Camera(**self._options).name  # opens nothing, but says what is wrong
        self.audience = Audience(settings.viewers)
        self._stage = Stage(self.audience)
        self._model = hub.worker(None).name
        self._leaving: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._wanted = settings.camera_always
        self._stopping = False

    @property
    def about(self) -> dict[str, Any]:
        """What ``/v1/camera`` tells."""
        state = {key: self._stage.status.data[key] for key in ("state", "message")}
        places = {"viewers": len(self.audience), "most_viewers": self.audience.places}
        return {"configured": True, "source": self.source, "model": self._model, **state, **places}

    def start(self) -> None:
        """Begin; the running event loop is the viewers'."""
        self._stage.loop = asyncio.get_running_loop()
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

    def join(self, viewer: Viewer) -> None:
        """A viewer comes; 503 where there is no place."""
        self.audience.add(viewer)
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self._want(True)
        if self._stage.state in ("opening", "waiting"):
            viewer.offer(self._stage.status)

    def leave(self, viewer: Viewer) -> None:
        """A viewer has gone."""
        self.audience.remove(viewer)
        settings = self._hub.settings
        if not len(self.audience) and not settings.camera_always and self._stage.loop is not None:
            self._leaving = self._stage.loop.call_later(settings.camera_linger, self._want, False)

    def metrics(self) -> Iterator[str]:
        """Lines of Prometheus text."""
        stage = self._stage
        values = {
            "live": ("gauge", "1 while frames come", stage.state == "live"),
            "viewers": ("gauge", "Viewers now", len(self.audience)),
            "frames": ("counter", "Frames shown", stage.frames),
            "frames_dropped": ("counter", "Frames replaced by a newer one before they were classified", stage.dropped),
            "outages": ("counter", "Times the camera was not there", stage.outages),
            "viewer_frames_dropped": ("counter", "Frames that viewers were too slow for", self.audience.dropped),
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
            before, begin = self._stage.frames, time.perf_counter()
            try:
                self._open_and_show()
                self._pause(begin + SHORTEST_S - time.perf_counter())
            except Exception as error:  # whatever a driver, a codec or OpenCV raises, the service stays
                retry = FIRST_RETRY_S if self._stage.frames > before else min(2 * retry, LONGEST_RETRY_S)
                self._wait_after(error, retry)
            if not self._goes_on():
                self._stage.close()

    def _open_and_show(self) -> None:
        if not self._goes_on():
            return
        if self._stage.state != "live":  # else a video begins anew
            self._stage.say("opening", f"{self.source} is being opened")
        with Camera(**self._options) as camera:
            Session(camera, self._classify, self._stage, self._goes_on, {"model": self._model}).run()

    def _wait_after(self, error: Exception, seconds: float) -> None:
        if self._stopping:
            return
        log.error("%s: %s", self.source, error, exc_info=not isinstance(error, FracBNNError))
        self._stage.say("waiting", f"{error}; it is tried again")
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._goes_on(), max(0.0, seconds))

    def _classify(self, image: Image) -> Labels:
        loop = self._stage.loop
        if loop is None or self._stopping:
            return Labels([], {}, "the service is shutting down")
        return asyncio.run_coroutine_threadsafe(self._infer(image), loop).result()

    async def _infer(self, image: Image) -> Labels:
        worker = self._hub.worker(None)
        network = worker.classifier.network
        received = time.perf_counter()

        def prepare() -> tuple[Images, None]:
            return load(image, network, bgr=True)[None], None

        try:
            outcome = await self._hub.infer(worker, prepare, _never)
        except (ServiceError, FracBNNError) as error:
            return Labels([], {}, str(error))
        (top,) = worker.classifier.rank(outcome.logits, TOP)
        self._hub.count(worker, outcome, received)
        return Labels(top, {stage: round(ms, 3) for stage, ms in outcome.timings.items()})


async def _never() -> dict[str, Any]:
    """In place of what a client sends: a camera's frame has no client that could leave."""
    await asyncio.Event().wait()
    return {}
