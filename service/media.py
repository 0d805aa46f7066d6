"""Pictures in request bodies: raw, or files of a form; and their way to the network's size, within limits."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import Request
from PIL import Image

from ..errors import PictureError
from ..networks import Network
from ..pictures import load
from ..resizing import Pixels
from .budget import SMALL, PixelBudget
from .compression import coding_of, unpacked
from .errors import ServiceError, too_large, unavailable
from .forms import FORM, Part, parse_form
from .limits import header_of, read_body
from .settings import Settings

RAW_TYPES = ("", "image/", "application/octet-stream", "binary/octet-stream")
"""Types of bodies that are pictures. Others may be, too: ``curl --data-binary`` says that it sends a form."""
MORE_FIELDS = 16
"""Parts that a form for one picture may have besides it."""

_HEAVY_MODES = {"F": 3, "I": 3, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Modes of which a pixel needs so many times the memory of one in RGBA while it is decoded."""


@dataclass(frozen=True)
class Upload:
    """A file of a form, or a whole body; ``name``: as the client calls it, may be empty."""

    name: str
    data: bytes


def media_type(content_type: str) -> str:
    """The type of a body in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


class Body:
    """A request's body as it came, to be looked at outside the event loop. 415 for codings that are not understood."""

    def __init__(self, data: bytes, coding: str | None, content_type: str) -> None:
        self._data = data
        self._coding = coding
        self._content_type = content_type
        self.type = media_type(content_type)

    @classmethod
    async def read(cls, request: Request) -> Body:
        """Read it whole."""
        coding = coding_of(header_of(request, b"content-encoding"))  # what is not understood need not be read
        return cls(await read_body(request.receive), coding, header_of(request, b"content-type") or "")

    def uploads(self, limit: int, max_bytes: int, check: Callable[[], None]) -> list[Upload]:
        """The pictures, at least one and at most ``limit``; 400, 413 or 415 for everything else.

        With a ``limit`` of one a form may have other fields, which are left out; with another every part of it counts.
        ``max_bytes``: of the body when unpacked. ``check`` is called now and then and may raise.
        """
        data = unpacked(self._data, self._coding, max_bytes, check)
        if self.type == FORM:
            more = MORE_FIELDS if limit == 1 else 0
            parts = parse_form(data, self._content_type, max_parts=limit + more, check=check)
            if limit == 1:
                parts = _files_of(parts)
            uploads = [Upload(part.field if part.file is None else part.file, part.data) for part in parts]
        else:
            uploads = [Upload("", data)]
        if not any(upload.data for upload in uploads):
            raise ServiceError(400, "expected a picture, found none: send it as the body, or as field 'file' of a form")
        if len(uploads) > limit:
            raise too_large(f"expected at most {limit} picture{'s' * (limit > 1)}, found {len(uploads)}")
        return uploads

    @property
    def may_be_a_picture(self) -> bool:
        """Whether its type is one of those that pictures have."""
        return self.type in RAW_TYPES or self.type.startswith("image/") or self.type == FORM


def _files_of(parts: list[Part]) -> list[Part]:
    """The parts of a form that are meant where one picture is expected: files; else what is called so; else all."""
    return (
        [part for part in parts if part.file is not None] or [part for part in parts if part.field == "file"] or parts
    )


class TooManyPixelsError(ServiceError):
    """The pictures of a request have more pixels than they may have together."""


class PictureReader:
    """Reads the pictures of one request within the limits of all of them together.

    ``check`` is called before each picture, and while one waits for its share of the memory, and may raise.
    """

    def __init__(
        self, network: Network, settings: Settings, budget: PixelBudget, check: Callable[[], None] = lambda: None
    ) -> None:
        self._network = network
        self._settings = settings
        self._budget = budget
        self._check = check
        self._pixels = 0
        self._measured = False

    def read(self, data: bytes, what: str = "picture", others: Sequence[bytes] = ()) -> Pixels:
        """An encoded picture at the network's size, uint8 [S, S, 3]; 413 or 422 where that cannot be.

        ``others``: the request's pictures that come after this one.
        """
        taken = 0

        def admit(image: Image.Image) -> None:
            nonlocal taken
            pixels = image.width * image.height
            self._pixels += pixels
            self._check_total(others)
            self._check()
            taken = self._budget.take(pixels * _HEAVY_MODES.get(image.mode, 1), self._check)

        max_pixels = self._settings.max_pixels
        try:
            return load(data, self._network, max_pixels=max_pixels, before_decoding=admit)
        except PictureError as error:
            if isinstance(error.__cause__, ServiceError):
                raise error.__cause__ from None
            if isinstance(error.__cause__, MemoryError):
                raise unavailable("not enough memory for this picture now") from None
            if _pixels_of(data) > max_pixels:
                raise too_large(f"{what}: expected at most {max_pixels} pixels, found more: make it smaller") from None
            raise ServiceError(422, f"{what}: {error}") from None
        finally:
            self._budget.give_back(taken)

    def _check_total(self, others: Sequence[bytes]) -> None:
        total, limit = self._pixels, self._settings.max_request_pixels
        if total > SMALL and not self._measured:  # before anything large is decoded: it would be in vain
            self._measured = True
            for data in others:
                total += _pixels_of(data)
                self._check()
        if total > limit:
            raise TooManyPixelsError(
                413, f"expected pictures of at most {limit} pixels together, found more: send fewer of them"
            )


def unreadable(body: Body, error: ServiceError) -> ServiceError:
    """What to say of a body that is no picture: its type, where that is not one of pictures."""
    if error.status != 422 or body.may_be_a_picture:
        return error
    expected = f"expected image/*, application/octet-stream or {FORM}"
    return ServiceError(415, f"Content-Type: {expected}, found {body.type[:100]!r}, and the body is no picture either")


def _pixels_of(data: bytes) -> int:
    """Pixels of an encoded picture by its header; 0 for what is none, and as many as none may have for a bomb."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height
    except Image.DecompressionBombError:
        return sys.maxsize
    except Exception:  # decoders raise anything; it is not the size then
        return 0
