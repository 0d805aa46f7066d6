"""Pictures in request bodies: raw, or files of a form (multipart/form-data, RFC 7578)."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

from fastapi import Request
from PIL import Image

from ..errors import PictureError
from ..networks import Network
from ..pictures import load
from ..resizing import Pixels
from .errors import ServiceError, too_large
from .limits import read_body

FORM = "multipart/form-data"
RAW_TYPES = ("image/", "application/octet-stream")

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_FILE_NAME = re.compile(r'filename="((?:\\.|[^"\\])*)"', re.IGNORECASE)
_LONGEST_HEADERS = 4096


@dataclass(frozen=True)
class Upload:
    """A file of a form, or a whole body; ``name``: as the client calls it, may be empty."""

    name: str
    data: bytes


def media_type(request: Request) -> str:
    """The type of the body in lower case, without parameters; empty where none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_not_compressed(request: Request) -> None:
    """415 for a body that would have to be unpacked first, to an unknown size."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ServiceError(415, f"Content-Encoding: expected none, found {coding!r}: send the body as it is")


async def read_uploads(request: Request, limit: int) -> list[Upload]:
    """The pictures of a request, at least one and at most ``limit``; 400, 413 or 415 for everything else."""
    check_not_compressed(request)
    kind = media_type(request)
    if kind == FORM:
        uploads = parse_form(await read_body(request.receive), request.headers["content-type"])
    elif not kind or kind.startswith(RAW_TYPES):
        uploads = [Upload("", await read_body(request.receive))]
    else:
        raise ServiceError(415, f"Content-Type: expected image/*, application/octet-stream or {FORM}, found {kind!r}")
    if not uploads or not any(upload.data for upload in uploads):
        raise ServiceError(400, "expected a picture, found none: send it as the body, or as field 'file' of a form")
    if len(uploads) > limit:
        raise too_large(f"expected at most {limit} picture{'s' * (limit > 1)}, found {len(uploads)}")
    return uploads


def parse_form(body: bytes, content_type: str) -> list[Upload]:
    """The files of a multipart/form-data body; its other fields are left out. 400 for a damaged one."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise ServiceError(400, f"Content-Type: expected {FORM} with a boundary, found {content_type!r}")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
    # The first delimiter may stand at the very beginning, without its line break.
    _, *parts = (b"\r\n" + body).split(delimiter)
    if not parts or not parts[-1].startswith(b"--"):
        raise ServiceError(400, "form: the body is damaged or cut off: its closing boundary is missing")
    uploads = []
    for part in parts[:-1]:
        headers, separator, data = part.partition(b"\r\n\r\n")
        if not separator or len(headers) > _LONGEST_HEADERS:
            raise ServiceError(400, "form: expected header lines, an empty line and data in each part")
        if name := _FILE_NAME.search(headers.decode("utf-8", "replace")):
            uploads.append(Upload(name[1], data))
    return uploads


def decode(data: bytes, network: Network, max_pixels: int, what: str = "picture") -> Pixels:
    """An encoded picture at the network's size, uint8 [S, S, 3]; 413 or 422 where that cannot be."""
    try:
        return load(data, network, max_pixels=max_pixels)
    except PictureError as error:
        if _has_more_pixels(data, max_pixels):
            raise too_large(f"{what}: expected at most {max_pixels} pixels, found more: make it smaller") from None
        raise ServiceError(422, f"{what}: {error}") from None


def _has_more_pixels(data: bytes, max_pixels: int) -> bool:
    """Whether a picture was refused for its size: the header is read once more, only after a failure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height > max_pixels
    except Image.DecompressionBombError:
        return True
    except Exception:  # decoders raise anything; it is not the size then
        return False
