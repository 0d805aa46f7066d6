"""What a service is told: which models, on which engine, and its limits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError, ModelError
from ..models import DEFAULT_MODEL, MODEL_VARIABLE, MODELS

PREFIX = "FRACBNN_SERVICE_"
MEBIBYTE = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHORTEST_TOKEN = 8


@dataclass(frozen=True)
class Settings:
    """All settings of a service; the defaults suit a board with 2 GB of memory.

    ``models``: ``name``, ``file`` or ``name=file`` each; empty for FRACBNN_MODEL or the bundled one. ``backend``,
    ``board``, ``arithmetic``, ``threads``: as for :meth:`fracbnn_pynq.Classifier.load`.

    ``queue``: requests a model may hold at once, waiting or running. ``deadline``: seconds from a request's last byte
    to its answer. ``max_body``: bytes of one request's body; ``max_pixels``: pixels of one encoded picture;
    ``max_batch``: pictures of one request. ``micro_batch``: pictures of several requests that the CPU engine is given
    together; ``batch_wait``: seconds it waits for more of them. ``decoders``: threads that decode pictures.
    ``body_timeout``: seconds a client may take to send a body. ``drain``: seconds between SIGTERM, when readiness
    turns false, and the end of accepting connections; ``grace``: seconds that requests in flight then have.
    ``token``: what clients must send as ``Authorization: Bearer``.

    ``camera``: the camera, video or URL that ``/camera`` shows, as for :class:`fracbnn_pynq.camera.Camera`;
    ``camera_width``, ``camera_height``, ``camera_fps``, ``camera_fourcc``: what is asked of it. ``camera_always``: keep
    it open without viewers; else it is closed ``camera_linger`` seconds after the last one left. ``viewers``: how many
    may watch at once.

    Raises :class:`~fracbnn_pynq.errors.BackendError` for values out of range.
    """

    models: tuple[str, ...] = ()
    backend: str = "auto"
    board: str = "auto"
    arithmetic: str = "auto"
    threads: int | None = None
    queue: int = 64
    deadline: float = 10.0
    max_body: int = 32 * MEBIBYTE
    max_pixels: int = 40_000_000
    max_batch: int = 256
    micro_batch: int = 32
    batch_wait: float = 0.0
    decoders: int = 2
    body_timeout: float = 30.0
    drain: float = 0.0
    grace: float = 10.0
    token: str | None = None
    camera: str | None = None
    camera_width: int | None = None
    camera_height: int | None = None
    camera_fps: float | None = None
    camera_fourcc: str | None = None
    camera_always: bool = False
    camera_linger: float = 5.0
    viewers: int = 8

    def __post_init__(self) -> None:
        for name in ("queue", "max_body", "max_pixels", "max_batch", "micro_batch", "decoders", "viewers"):
            if getattr(self, name) < 1:
                raise BackendError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("deadline", "body_timeout", "grace"):
            if not getattr(self, name) > 0:
                raise BackendError(f"{name}: expected more than 0 seconds, found {getattr(self, name)}")
        for name in ("batch_wait", "drain", "camera_linger"):
            if not getattr(self, name) >= 0:
                raise BackendError(f"{name}: expected at least 0 seconds, found {getattr(self, name)}")

    @property
    def max_held(self) -> int:
        """Bytes of all bodies in memory together; more are refused until some are answered."""
        return 8 * self.max_body

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from FRACBNN_SERVICE_MODELS (separated by commas), FRACBNN_SERVICE_QUEUE and so on.

        Names are those of the attributes, except that FRACBNN_SERVICE_MAX_BODY is in MB and that the token is read
        from the file named by FRACBNN_SERVICE_TOKEN_FILE. Raises :class:`~fracbnn_pynq.errors.BackendError`.
        """
        given = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for name, kind in _FROM_TEXT.items():
            text = given.get(PREFIX + name.upper(), "")
            if not text:
                continue
            try:
                values[name] = kind(text)
            except ValueError:
                wanted = "0 or 1" if kind is _yes_or_no else "a number"
                raise BackendError(f"{PREFIX}{name.upper()}: expected {wanted}, found {text!r}") from None
        if models := given.get(PREFIX + "MODELS", ""):
            values["models"] = tuple(name.strip() for name in models.split(",") if name.strip())
        if path := given.get(PREFIX + "TOKEN_FILE", ""):
            values["token"] = read_token(path)
        return cls(**values)  # type: ignore[arg-type]


def _yes_or_no(text: str) -> bool:
    return bool(("0", "1").index(text))


def _megabytes(text: str) -> int:
    return int(float(text) * MEBIBYTE)


_FROM_TEXT: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("backend", "board", "arithmetic", "camera", "camera_fourcc"), str),
    **dict.fromkeys(("threads", "queue", "max_pixels", "max_batch", "micro_batch", "decoders", "viewers"), int),
    **dict.fromkeys(("camera_width", "camera_height"), int),
    **dict.fromkeys(("deadline", "batch_wait", "body_timeout", "drain", "grace", "camera_fps", "camera_linger"), float),
    "camera_always": _yes_or_no,
    "max_body": _megabytes,
}


def read_token(path: str | os.PathLike[str]) -> str:
    """The bearer token in a file: its text without the white space around it.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where it cannot be read, is short or is not printable ASCII.
    """
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BackendError(f"token file {os.fspath(path)!r}: expected ASCII text, cannot read it: {error}") from error
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise BackendError(
            f"token file {os.fspath(path)!r}: expected one word of at least {_SHORTEST_TOKEN} printable characters; "
            f"make one with: openssl rand -hex 32"
        )
    return token


def served_models(names: tuple[str, ...]) -> dict[str, str]:
    """Names under which models are served, with what :meth:`fracbnn_pynq.Classifier.load` is to load for each.

    A published model keeps its name and a file is served under its stem, unless ``name=file`` says otherwise. Raises
    :class:`~fracbnn_pynq.errors.ModelError` for names that are unusable in an address, or given twice.
    """
    served: dict[str, str] = {}
    for entry in names or (os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL,):
        name, separator, target = entry.partition("=")
        if not separator:
            name, target = (entry if entry in MODELS else Path(entry).stem), entry
        if not _NAME.fullmatch(name):
            raise ModelError(
                f"model {entry!r}: expected a name of letters, digits, '.', '_' and '-' to serve it under, found "
                f"{name!r}; give one with NAME=FILE"
            )
        if name in served:
            raise ModelError(f"model {name!r} is given twice: give another name with NAME=FILE")
        served[name] = target
    return served
