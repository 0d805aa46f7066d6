"""What a service is told: which models, on which engine, and its limits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError, ModelError
from ..files import read_file
from ..models import MODELS, chosen_model

PREFIX = "FRACBNN_SERVICE_"
MEBIBYTE = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"\*|[A-Za-z0-9._-]+")
_ORIGIN = re.compile(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]\s]+):[0-9]{1,5}")
_SHORTEST_TOKEN = 8
_LONGEST_TOKEN_FILE = 4096
_AT_LEAST_ONE = (
    *("queue", "max_body", "max_pixels", "max_batch", "max_json", "max_request_pixels", "decode_pixels", "max_held"),
    *("connections", "micro_batch", "decoders", "viewers"),
)


@dataclass(frozen=True)
class Settings:
    """All settings of a service; the defaults suit a board with 2 GB of memory.

    ``models``: ``name``, ``file`` or ``name=file`` each; empty for FRACBNN_MODEL or the bundled one. ``backend``,
    ``board``, ``overlay``, ``arithmetic``, ``threads``, ``verify``: as for :meth:`fracbnn_pynq.Classifier.load`, with
    pictures left out of the checking where it falls behind. ``verify_report``: a folder in which each model has one for
    the pictures that differ, written at the end.

    ``queue``: requests a model may hold at once, waiting or running. ``deadline``: seconds from a request's last byte
    to its answer. ``max_body``: bytes of one request's body; ``max_pixels``: pixels of one encoded picture;
    ``max_batch``: pictures of one request. ``micro_batch``: pictures of several requests that the CPU engine is given
    together; ``batch_wait``: seconds it waits for more of them. ``decoders``: threads that decode pictures.
    ``body_timeout``: seconds a client may take to send a body. ``drain``: seconds between SIGTERM, when readiness
    turns false, and the end of accepting connections; ``grace``: seconds that requests in flight then have.
    ``max_json``: bytes of JSON of one request. ``max_request_pixels``: pixels of all encoded pictures of one request;
    ``decode_pixels``: pixels of all pictures that are being decoded at once, which decides about memory: a request
    waits for its share. ``max_held``: bytes of all bodies in memory together. ``connections``: how many there may be.

    ``token``: what clients must send as ``Authorization: Bearer``. ``allow_hosts``: names of this service in addresses,
    besides localhost, the machine's own name and addresses as numbers; ``*`` for any. ``cors_origins``: sites, such as
    ``https://example.org``, whose pages may use the service; ``*`` for any.

    ``camera``: the camera, video or URL that ``/camera`` shows, as for :class:`fracbnn_pynq.camera.Camera`;
    ``camera_width``, ``camera_height``, ``camera_fps``, ``camera_fourcc``: what is asked of it. ``camera_always``: keep
    it open without viewers; else it is closed ``camera_linger`` seconds after the last one left. ``viewers``: how many
    may watch at once.

    ``grpc``: where the Open Inference Protocol is spoken over gRPC, too, HOST:PORT (port 0: any); ``grpc_certfile``,
    ``grpc_keyfile``: certificate chain and private key for it, PEM.

    Raises :class:`~fracbnn_pynq.errors.BackendError` for values out of range.
    """

    models: tuple[str, ...] = ()
    backend: str = "auto"
    board: str = "auto"
    overlay: str = "auto"
    arithmetic: str = "auto"
    threads: int | None = None
    verify: float = 0.0
    verify_report: str | os.PathLike[str] | None = None
    queue: int = 64
    deadline: float = 10.0
    max_body: int = 32 * MEBIBYTE
    max_pixels: int = 40_000_000
    max_batch: int = 256
    max_json: int = 8 * MEBIBYTE
    max_request_pixels: int = 160_000_000
    decode_pixels: int = 40_000_000
    max_held: int = 64 * MEBIBYTE
    connections: int = 1000
    micro_batch: int = 32
    batch_wait: float = 0.0
    decoders: int = 2
    body_timeout: float = 30.0
    drain: float = 0.0
    grace: float = 10.0
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    camera: str | None = None
    camera_width: int | None = None
    camera_height: int | None = None
    camera_fps: float | None = None
    camera_fourcc: str | None = None
    camera_always: bool = False
    camera_linger: float = 5.0
    viewers: int = 8
    grpc: str | None = None
    grpc_certfile: str | os.PathLike[str] | None = None
    grpc_keyfile: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise BackendError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("deadline", "body_timeout", "grace"):
            if not getattr(self, name) > 0:
                raise BackendError(f"{name}: expected more than 0 seconds, found {getattr(self, name)}")
        for name in ("batch_wait", "drain", "camera_linger"):
            if not getattr(self, name) >= 0:
                raise BackendError(f"{name}: expected at least 0 seconds, found {getattr(self, name)}")
        if not 0 <= self.verify <= 1:
            raise BackendError(f"verify: expected a share of 0 to 1, found {self.verify}")
        if self.max_held < self.max_body:
            raise BackendError(f"max_held: expected at least max_body, {self.max_body}, found {self.max_held}")
        self._check_addresses()

    def _check_addresses(self) -> None:
        if self.grpc is not None and not _ADDRESS.fullmatch(self.grpc):
            raise BackendError(f"grpc: expected HOST:PORT, such as 127.0.0.1:8001, found {self.grpc!r}")
        if (self.grpc_certfile is None) != (self.grpc_keyfile is None):
            raise BackendError("grpc_certfile and grpc_keyfile: expected both or none")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise BackendError(
                    f"cors_origins: expected a site such as 'https://example.org', without a path, found {origin!r}"
                )
        for host in self.allow_hosts:
            if not _HOST.fullmatch(host):
                raise BackendError(
                    f"allow_hosts: expected a name such as 'board.example.org', without port or scheme, found {host!r}"
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from FRACBNN_SERVICE_MODELS, _ALLOW_HOSTS, _CORS_ORIGINS (separated by commas), _QUEUE and so on.

        Names are those of the attributes, except that _MAX_BODY, _MAX_JSON and _MAX_HELD are in MB and that the token
        is read from the file named by FRACBNN_SERVICE_TOKEN_FILE. Raises :class:`~fracbnn_pynq.errors.BackendError`.
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
        for name in ("models", "allow_hosts", "cors_origins"):
            if listed := given.get(PREFIX + name.upper(), ""):
                values[name] = tuple(entry.strip() for entry in listed.split(",") if entry.strip())
        if path := given.get(PREFIX + "TOKEN_FILE", ""):
            values["token"] = read_token(path)
        return cls(**values)  # type: ignore[arg-type]


def _yes_or_no(text: str) -> bool:
    return bool(("0", "1").index(text))


def _megabytes(text: str) -> int:
    return int(float(text) * MEBIBYTE)


_FROM_TEXT: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("backend", "board", "overlay", "arithmetic", "verify_report", "camera", "camera_fourcc"), str),
    **dict.fromkeys(("grpc", "grpc_certfile", "grpc_keyfile"), str),
    **dict.fromkeys(("threads", "queue", "max_pixels", "max_batch", "micro_batch", "decoders", "viewers"), int),
    **dict.fromkeys(("max_request_pixels", "decode_pixels", "connections", "camera_width", "camera_height"), int),
    **dict.fromkeys(("max_body", "max_json", "max_held"), _megabytes),
    **dict.fromkeys(
        ("deadline", "batch_wait", "body_timeout", "drain", "grace", "verify", "camera_fps", "camera_linger"), float
    ),
    "camera_always": _yes_or_no,
}


def read_token(path: str | os.PathLike[str]) -> str:
    """The bearer token in a file: its text without the white space around it.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where it is no regular file, cannot be read, is too long
    or short, or is not printable ASCII.
    """
    data = read_file(Path(path), _LONGEST_TOKEN_FILE, BackendError, "token file")
    try:
        token = data.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise BackendError(f"token file {os.fspath(path)!r}: expected ASCII text, cannot read it: {error}") from None
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise BackendError(
            f"token file {os.fspath(path)!r}: expected one word of at least {_SHORTEST_TOKEN} printable characters",
            advice="make one with: openssl rand -hex 32",
        )
    return token


def served_models(names: tuple[str, ...]) -> dict[str, str]:
    """Names under which models are served, with what :meth:`fracbnn_pynq.Classifier.load` is to load for each.

    A published model keeps its name and a file is served under its stem, unless ``name=file`` says otherwise. Raises
    :class:`~fracbnn_pynq.errors.ModelError` for names that are unusable in an address, or given twice.
    """
    served: dict[str, str] = {}
    for entry in names or (os.fspath(chosen_model()),):
        name, separator, target = entry.partition("=")
        if not separator:
            name, target = (entry if entry in MODELS else Path(entry).stem), entry
        if not _NAME.fullmatch(name):
            raise ModelError(
                f"model {entry!r}: expected a name of letters, digits, '.', '_' and '-' to serve it under, found "
                f"{name!r}",
                advice="give one with NAME=FILE",
            )
        if name in served:
            raise ModelError(f"model {name!r} is given twice: give another name with NAME=FILE")
        served[name] = target
    return served
