"""The machine's own camera over HTTP: Motion JPEG for anything that shows pictures, a WebSocket for programs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.routing import WebSocketRoute

from fracbnn_pynq.extras import install_line

from .broadcast import Subscriber, Update, send_updates
from .errors import ServiceError, as_json, json_response, refuse_websocket
from .inference import Inference
from .live_camera import LiveCamera
from .schemas import CAMERA_ANSWER, MJPEG_ANSWER, errors

router = APIRouter(tags=["camera"])

PROTOCOL = "fracbnn.stream.v1"
"""The WebSocket subprotocol, chosen where a client offers it."""

_BOUNDARY = b"frame"
_SERVICE_RESTARTS = 1012
_CLOSING_S = 1.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def camera_of(inference: Inference) -> LiveCamera:
    """The camera; 404 where there is none."""
    if inference.camera is None:
        raise ServiceError(404, "this service shows no camera: start it with fracbnn serve --camera 0 (see --help)")
    return inference.camera


@router.get(
    "/v1/camera", summary="Whether there is a camera, and how it is", responses={200: CAMERA_ANSWER, **errors(401)}
)
async def about(request: Request) -> Response:
    """``state``: ``closed`` (nobody watches), ``opening``, ``live``, or ``waiting`` for a camera that is not there.

    ``WS /v1/stream`` is a WebSocket that sends each frame's labels and picture; see docs/service.md.
    """
    camera = request.app.state.inference.camera
    return json_response({"configured": False} if camera is None else camera.about)


@router.get(
    "/v1/stream.mjpg",
    summary="The camera as Motion JPEG",
    response_class=Response,
    responses={200: MJPEG_ANSWER, **errors(401, 403, 404, 503)},
)
async def motion_jpeg(request: Request) -> Response:
    """Frames with their label drawn on them, for an ``img`` element or a video player. Without end."""
    inference: Inference = request.app.state.inference
    camera_of(inference)
    return _MotionJpeg(inference)


@router.get("/v1/stream", include_in_schema=False)
async def no_websocket(_request: Request) -> Response:
    """What a client gets that does not ask for a WebSocket, and one that does of a server that has none."""
    raise ServiceError(
        426,
        f"expected a WebSocket handshake; where this was one, the service lacks wsproto: {install_line('service')}",
        headers={"Upgrade": "websocket"},
    )


class _MotionJpeg(Response):
    """An answer that goes on while somebody watches."""

    media_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}"

    def __init__(self, inference: Inference) -> None:
        # Where a browser does not say whose page asks, it still keeps the frames from those of other sites.
        shared = inference.settings.cors_origins or inference.settings.token is not None
        policy = "cross-origin" if shared else "same-origin"
        super().__init__(headers={"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": policy})
        del self.headers["content-length"]
        self._inference = inference

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_part(update: Update) -> None:
            if update.marked is not None:
                # The boundary follows at once: browsers show a part when they have seen its end.
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(update.marked)
                await send(_body(head + update.marked + b"\r\n--" + _BOUNDARY + b"\r\n"))

        if scope.get("state", {}).get("head"):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(_body(b"", more=False))
            return
        camera, viewer = camera_of(self._inference), Subscriber("marked")
        camera.join(viewer)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(_body(b"--" + _BOUNDARY + b"\r\n"))
            if await send_updates(
                viewer, send_part, _until(receive, "http.disconnect"), lambda: self._inference.draining
            ):
                await send(_body(b"", more=False))
        finally:
            camera.leave(viewer)


class _Frames:
    """An ASGI application: one WebSocket."""

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        inference: Inference = scope["app"].state.inference
        try:
            camera = camera_of(inference)
            viewer = Subscriber("plain" if _wants_pictures(scope) else None)
            camera.join(viewer)
        except ServiceError as error:
            await refuse_websocket(error, scope, receive, send)
            return

        async def send_frame(update: Update) -> None:
            picture = update.plain if viewer.wants is not None else None
            data = {**update.data, "picture": picture is not None, "skipped": viewer.dropped}
            await send({"type": "websocket.send", "text": as_json(data).decode()})
            if picture is not None:
                await send({"type": "websocket.send", "bytes": picture})

        try:
            await receive()
            chosen = PROTOCOL if PROTOCOL in scope["subprotocols"] else None
            await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
            gone = _until(receive, "websocket.disconnect")
            if await send_updates(viewer, send_frame, gone, lambda: inference.draining):
                closing = send({"type": "websocket.close", "code": _SERVICE_RESTARTS, "reason": "shutting down"})
                with contextlib.suppress(Exception):  # the viewer may have left now, which servers tell differently
                    await asyncio.wait_for(closing, _CLOSING_S)
        finally:
            camera.leave(viewer)


router.routes.append(WebSocketRoute("/v1/stream", _Frames(), name="frames"))


def _body(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _until(receive: Receive, kind: str) -> None:
    while (await receive())["type"] != kind:
        pass


def _wants_pictures(scope: Any) -> bool:
    values = parse_qs(scope["query_string"].decode("ascii", "replace"), keep_blank_values=True).get("pictures", ["1"])
    if values not in (["0"], ["1"]):
        raise ServiceError(422, f"pictures: expected 0 or 1, found {values[-1][:20]!r}")
    return values == ["1"]
