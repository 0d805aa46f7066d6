"""Published files: fetched on request, verified always, kept in a cache.

A file has its final name in the cache only once it has been verified; everything before that happens in a folder
``.partial-*`` beside it. Therefore an interrupted or concurrent fetch needs no repair and no lock. Nothing is fetched
but by a call of :func:`fetch`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from ..errors import DownloadError
from ..files import CACHE_VARIABLE, cache_directory, open_regular
from .catalog import Artifact, PublishedFile, get_artifact

log = logging.getLogger(__name__)

FileState = Literal["missing", "ok", "damaged"]

_PARTIAL = ".partial-"
_ABANDONED_S = 24 * 3600
_LARGEST = 64 << 20  # bound for files of unknown size: bitstreams, which for this device are ten times smaller
_OFFLINE = "on a machine without internet, copy the files there and use --from DIR"


def fetch(
    artifact: Artifact | str,
    *,
    cache: Path | str | None = None,
    source: Path | str | None = None,
    progress: bool = True,
    base_url: str | None = None,
    timeout: float = 30.0,
    deadline: float = 1800.0,
) -> dict[str, Path]:
    """Verified local files of an artifact, by role; those missing or damaged in the cache are fetched.

    ``source``: a folder (files by name, or a checkout of the repository) or one of the files; with it nothing is
    downloaded. ``base_url`` replaces the download address (see ``Artifact.url``). ``progress`` shows a bar on stderr.
    ``timeout`` is the longest silence of the server, ``deadline`` the longest time for one file, in seconds.
    Raises DownloadError where a file cannot be had, is not the published one, or cannot be stored.
    """
    artifact = get_artifact(artifact) if isinstance(artifact, str) else artifact
    folder = cache_directory(cache) / artifact.name
    origin = None if source is None else Path(source).expanduser()
    paths = {}
    missing = [file for file in artifact.files if _state(folder / file.name, file) != "ok"]
    if origin is not None:
        _check_complete(origin, artifact, missing)
    for file in artifact.files:
        target = folder / file.name
        state = _state(target, file)
        if state == "damaged":
            log.warning("%s is damaged and is fetched again", target)
        if state != "ok":
            with _partial_folder(folder) as partial:
                if origin is not None:
                    fresh = _copy(_find(origin, artifact, file), file, partial)
                else:
                    url = artifact.url(file, base_url)
                    log.info("downloading %s. %s", url, licence_notice(artifact))
                    try:
                        fresh = _download(url, file, partial, progress=progress, timeout=timeout, deadline=deadline)
                    except _NoConnectionError as error:
                        left = ", ".join(each.name for each in missing if each.role not in paths)
                        raise DownloadError(
                            f"expected {file.name} at {url}, found no connection ({error}); still missing: {left}",
                            advice=_OFFLINE,
                        ) from None
                with _storing(target):
                    os.replace(fresh, target)
        paths[file.role] = target
    return paths


def locate(artifact: Artifact | str, *, cache: Path | str | None = None) -> dict[str, Path]:
    """Verified local files of an artifact, by role, without fetching. Raises DownloadError where one is not there."""
    artifact = get_artifact(artifact) if isinstance(artifact, str) else artifact
    folder = cache_directory(cache) / artifact.name
    for file, state in status(artifact, cache=cache):
        if state != "ok":
            raise DownloadError(f"{folder / file.name} is {state}", advice=f"fetch {artifact.name} first; {_OFFLINE}")
    return {file.role: folder / file.name for file in artifact.files}


def status(artifact: Artifact | str, *, cache: Path | str | None = None) -> list[tuple[PublishedFile, FileState]]:
    """What the cache holds of an artifact: every file with ``"missing"``, ``"ok"`` or ``"damaged"``."""
    artifact = get_artifact(artifact) if isinstance(artifact, str) else artifact
    folder = cache_directory(cache) / artifact.name
    return [(file, _state(folder / file.name, file)) for file in artifact.files]


def licence_notice(artifact: Artifact) -> str:
    """One sentence for the user about the terms under which the files come."""
    source = f"https://github.com/{artifact.repository}"
    if artifact.licence is None:
        return (
            f"{source} states no licence: you fetch {artifact.name} from there yourself, it is no part of this package"
        )
    return f"{artifact.name} comes from {source} under the {artifact.licence} licence, it is no part of this package"


def _state(path: Path, file: PublishedFile) -> FileState:
    if not os.path.lexists(path):
        return "missing"
    try:
        return "ok" if _difference(path, file) is None else "damaged"
    except (DownloadError, OSError):  # cannot be opened, or not read to its end
        return "damaged"


def _difference(path: Path, file: PublishedFile) -> str | None:
    """How the file at ``path`` differs from the published one; ``None`` where it does not."""
    with open_regular(path, DownloadError) as stream:
        size = os.fstat(stream.fileno()).st_size
        if file.size is not None and size != file.size:
            return f"expected {file.size} bytes, found {size}"
        # The git blob id is SHA-1 by definition; it is the only identity published for files without a SHA-256.
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    kind, expected = ("SHA-256", file.sha256) if file.sha256 else ("git blob id", file.git_blob)
    found = digest.hexdigest()
    return None if found == expected else f"expected {kind} {expected}, found {found} ({size} bytes)"


def _verify(path: Path, file: PublishedFile, origin: str) -> None:
    difference = _difference(path, file)
    if difference is not None:
        raise DownloadError(
            f"{origin} is not the published {file.name}: {difference}", advice="try again or use --from DIR"
        )


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """A folder for unverified files beside the final ones, removed at the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        partial = tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder)
    except OSError as error:
        raise DownloadError(
            f"expected a writable cache folder, found {folder}: {error}",
            advice=f"set {CACHE_VARIABLE} to another folder",
        ) from error
    with partial as name:
        yield Path(name)


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process or a power cut left behind, but nothing that may still be in use."""
    for path in folder.glob(f"{_PARTIAL}*"):
        try:
            abandoned = time.time() - path.stat().st_mtime > _ABANDONED_S
        except OSError:
            continue
        if abandoned:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _storing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"expected to store {target}, found {error}",
            advice=f"make room there or set {CACHE_VARIABLE} to another folder",
        ) from error


def _check_complete(source: Path, artifact: Artifact, files: list[PublishedFile]) -> None:
    """Name all files that are not in the user's folder, not only the first."""
    if not source.is_dir():
        return
    names = [
        file.name
        for file in files
        if not any((source / part).is_file() for part in (file.name, file.path, f"{artifact.name}/{file.name}"))
    ]
    if len(names) > 1:
        raise DownloadError(
            f"expected {', '.join(names)} in {source}, found no such files",
            advice=f"get them from https://github.com/{artifact.repository}, commit {artifact.commit}",
        )


def _find(source: Path, artifact: Artifact, file: PublishedFile) -> Path:
    """The published file in the user's folder, or the user's file itself."""
    if not source.exists():
        raise DownloadError(f"expected a folder or a file with {file.name}, found nothing at {source}")
    folder = source if source.is_dir() else source.parent
    candidates = [folder / file.name, folder / file.path, folder / artifact.name / file.name]
    if source.is_file():
        candidates.insert(0, source)
    present = [path for path in candidates if path.is_file()]
    for path in present:
        if _state(path, file) == "ok":
            return path
    for path in present:
        if path.name == file.name:
            _verify(path, file, str(path))
    raise DownloadError(
        f"expected {file.name} in {folder}, found no such file", advice=f"get it from {artifact.url(file)}"
    )


def _copy(origin: Path, file: PublishedFile, folder: Path) -> Path:
    target = folder / file.name
    with _storing(target):
        shutil.copyfile(origin, target)
    _verify(target, file, f"the copy of {origin}")
    return target


def _download(url: str, file: PublishedFile, folder: Path, *, progress: bool, timeout: float, deadline: float) -> Path:
    import pooch  # noqa: PLC0415  (slow to import on the board, and unused without a download)

    def download(url: str, output_file: str, _: Any) -> None:
        with _progress_bar(file, progress) as bar, open(output_file, "wb") as stream:
            # Without "identity", text files travel compressed and their lengths say nothing.
            request = pooch.HTTPDownloader(progressbar=bar, timeout=timeout, headers={"Accept-Encoding": "identity"})
            try:
                request(url, _BoundedWriter(stream, file, url, deadline), None)
            except _connection_errors() as error:
                raise _NoConnectionError(_reason(error)) from error
            except OSError as error:  # those of requests: errors of the disk have become DownloadError in the writer
                raise DownloadError(
                    f"expected {file.name} at {url}, found {error}", advice=f"try again; {_OFFLINE}"
                ) from error
        # Here and not after pooch is done, because pooch cannot check a git blob id.
        _verify(Path(output_file), file, url)

    known_hash = f"sha256:{file.sha256}" if file.sha256 else None
    with _quiet(pooch.get_logger()), _storing(folder / file.name):
        return Path(pooch.retrieve(url, known_hash, fname=file.name, path=folder, downloader=download))


class _NoConnectionError(Exception):
    """No server was reached: why."""


def _connection_errors() -> tuple[type[Exception], ...]:
    """Those of requests that say that no server was reached."""
    from requests.exceptions import ConnectionError as NoConnection  # noqa: PLC0415 - comes with pooch
    from requests.exceptions import ProxyError, SSLError  # noqa: PLC0415

    return NoConnection, ProxyError, SSLError


def _reason(error: BaseException) -> str:
    """The innermost of what requests and urllib3 wrap into each other, in words without addresses of objects."""
    inner = error.args[0] if error.args else error
    text = str(getattr(inner, "reason", inner))
    return re.sub(r"^(<[^>]*>|\w*Connection\(.*?\)): ", "", text)


class _BoundedWriter:
    """A stream that stops a download which takes too long or is larger than the published file."""

    def __init__(self, stream: IO[bytes], file: PublishedFile, url: str, deadline: float) -> None:
        self._stream = stream
        self._left = _LARGEST if file.size is None else file.size
        self._url = url
        self._deadline = deadline
        self._end = time.monotonic() + deadline

    def write(self, block: bytes) -> int:
        self._left -= len(block)
        if self._left < 0:
            raise DownloadError(
                f"{self._url} is not the published file: it is larger", advice="try again or use --from DIR"
            )
        if time.monotonic() > self._end:
            raise DownloadError(
                f"{self._url}: expected within {self._deadline:g} s, found a slower server", advice=_OFFLINE
            )
        with _storing(Path(self._stream.name)):
            return self._stream.write(block)

    def flush(self) -> None:
        with _storing(Path(self._stream.name)):
            self._stream.flush()


@contextmanager
def _progress_bar(file: PublishedFile, shown: bool) -> Iterator[Any]:
    """A bar on stderr where that is a terminal. pooch sets the total; it must not be ``None`` before."""
    from tqdm import tqdm  # noqa: PLC0415  (needed only while downloading)

    with tqdm(desc=file.name, total=1, unit="B", unit_scale=True, disable=None if shown else True) as bar:
        yield bar


@contextmanager
def _quiet(pooch_logger: logging.Logger) -> Iterator[None]:
    """Without pooch's own messages on stderr: what happens is logged by this module."""
    level = pooch_logger.level
    pooch_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        pooch_logger.setLevel(level)
