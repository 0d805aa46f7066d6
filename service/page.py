"""The web pages: at ``/`` a picture or the browser's webcam, at ``/camera`` the service's own camera, labels beside it;
at ``/docs`` the description of the interface.

Their files are in ``page/`` and are served as they are; they name nothing outside the service.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from .stream import camera_of

SCRIPTS = (
    "camera",
    "docs",
    "gates",
    "history",
    "knows",
    "page",
    "planes",
    "service",
    "shrink",
    "snippets",
    "view",
    "webcam",
)
PAGE_PATHS = (
    "/",
    "/camera",
    "/docs",
    "/page/page.css",
    *(f"/page/{name}.js" for name in SCRIPTS),
    "/page/cat.jpg",
)
"""What the pages consist of. None of it is secret, and a browser sends no token for it."""

SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: the browser loads and runs nothing but what the service itself sends."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str
    tag: str


@router.get("/")
async def index(request: Request) -> Response:
    """The first page."""
    return _answer(request, "fracbnn_pynq.service", "page/index.html", "text/html; charset=utf-8")


@router.get("/camera")
async def camera(request: Request) -> Response:
    """The page of the service's own camera; 404 where it has none."""
    camera_of(request.app.state.inference)
    return _answer(request, "fracbnn_pynq.service", "page/camera.html", "text/html; charset=utf-8")


@router.get("/docs")
async def documents(request: Request) -> Response:
    """The interface, as ``/openapi.json`` describes it."""
    return _answer(request, "fracbnn_pynq.service", "page/docs.html", "text/html; charset=utf-8")


@router.get("/page/page.css")
async def style(request: Request) -> Response:
    """Its looks."""
    return _answer(request, "fracbnn_pynq.service", "page/page.css", "text/css; charset=utf-8")


@router.get("/page/{name}.js")
async def script(request: Request, name: str) -> Response:
    """Its behaviour, in modules."""
    if name not in SCRIPTS:
        raise HTTPException(404)
    return _answer(request, "fracbnn_pynq.service", f"page/{name}.js", "text/javascript; charset=utf-8")


@router.get("/page/cat.jpg")
async def sample(request: Request) -> Response:
    """A picture to try."""
    return _answer(request, "fracbnn_pynq.notebooks", "pictures/cat.jpg", "image/jpeg")


@cache
def _read(package: str, path: str, media_type: str) -> _Asset:
    source = resources.files(package)
    for part in path.split("/"):
        source = source.joinpath(part)
    content = source.read_bytes()
    return _Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _answer(request: Request, package: str, path: str, media_type: str) -> Response:
    """A file of the package; 304 for a browser that has it already (RFC 9110, section 13.1.2)."""
    asset = _read(package, path, media_type)
    headers = {
        "ETag": asset.tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": SECURITY_POLICY,
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if asset.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers={**headers, "Content-Type": asset.media_type})
