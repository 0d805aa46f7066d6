"""Who may use the service through a browser: under which names it answers, and to the pages of which sites.

A browser reaches services that its user's network hides from everybody else, and it does so for any page that the user
visits. Two things keep such pages out. The ``Host`` of a request must be an address or a name of this service: a page
whose own name is made to lead here (DNS rebinding) has another one. And where there is no token, what costs work or
opens the camera is refused to pages of other sites, which browsers name in ``Sec-Fetch-Site``, ``Origin`` or
``Referer``. Programs that are no browsers send none of these.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .errors import ServiceError
from .settings import Settings

ANY = "*"
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
MJPEG_PATH = "/v1/stream.mjpg"
STREAM_PATH = "/v1/stream"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
_OWN_SITE = (b"same-origin", b"none")
_REMEMBERED = 256


def bearer(token: str) -> bytes:
    """What :func:`is_bearer` compares with."""
    return b"bearer " + token.encode("ascii")


def is_bearer(authorization: bytes, expected: bytes) -> bool:
    """Whether the value of ``Authorization`` carries the token of ``expected``; takes as long wherever it differs."""
    scheme, _, token = authorization.partition(b" ")
    return hmac.compare_digest(scheme.lower() + b" " + token.strip(), expected)


def route_path(scope: Mapping[str, Any]) -> str:
    """The path below the root path, under which the service may be mounted or a proxy may show it."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    return path[len(root) :] if root and path.startswith(root + "/") else path


class Access:
    """What the settings say about hosts and origins."""

    def __init__(self, settings: Settings) -> None:
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, f"{own}.local", *(name.lower() for name in settings.allow_hosts)}
        self._origins = {origin.lower() for origin in settings.cors_origins}
        self._checks_sites = settings.token is None
        self._known: dict[bytes, bool] = {}

    def check(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], path: str) -> None:
        """403 for a host that is not this service's, or for a page of another site where that is not wanted.

        ``headers``: the request's, by name in lower case; ``path``: its path below the root path.
        """
        host = headers.get(b"host")
        if host is not None and not self._is_own(host):
            raise ServiceError(
                403,
                f"Host: expected an address of this service, localhost or a name allowed with --allow-host, found "
                f"{_shown(host)}",
            )
        if not self._checks_sites:
            return
        watches = path in (MJPEG_PATH, STREAM_PATH)
        if watches or scope.get("method", "") not in SAFE_METHODS:
            self._check_site(headers, host or b"", watches)

    def _is_own(self, host: bytes) -> bool:
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._names_this(host)
        return known

    def _names_this(self, host: bytes) -> bool:
        if ANY in self._hosts:
            return True
        found = _HOST.fullmatch(host.decode("latin-1").strip())
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        if name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))  # nobody can make an address lead elsewhere
        except ValueError:
            return False
        return True

    def _check_site(self, headers: Mapping[bytes, bytes], host: bytes, watches: bool) -> None:
        site = headers.get(b"sec-fetch-site")
        origin = headers.get(b"origin")
        if origin is None and watches:
            origin = headers.get(b"referer")  # an <img> sends no Origin
        if origin is None:
            wanted = site is None or site in _OWN_SITE
        else:
            wanted = _same(origin, host) or self._is_allowed(origin)
        if wanted:
            return
        raise ServiceError(
            403,
            f"Origin: expected a page of this service, {_shown(host)}, or one allowed with --cors-origin, found "
            f"{_shown(origin) if origin is not None else 'one of another site'}",
        )

    def _is_allowed(self, origin: bytes) -> bool:
        return ANY in self._origins or _origin(origin) in self._origins


def _origin(value: bytes) -> str:
    """Scheme and authority of an Origin or Referer in lower case; empty for what is neither."""
    try:
        parts = urlsplit(value.decode("ascii").strip().lower())
    except ValueError:  # it has other characters, or is no address
        return ""
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else ""


def _same(origin: bytes, host: bytes) -> bool:
    # The scheme may differ: a proxy may have ended TLS.
    return bool(host) and _origin(origin).partition("://")[2] == host.decode("latin-1").lower()


def _shown(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))
