"""Where tasks run: worker processes of this machine, or a cluster that is there already."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import dask
from distributed import Client, LocalCluster

from ..errors import BackendError
from .signals import unbroken_start

log = logging.getLogger(__name__)

RESOURCE = "board"
"""The dask resource that a worker with a board has one of."""
CONNECT_S = 10
WORKERS_S = 60
"""Seconds that a cluster may be without a fitting worker at the beginning."""

_QUIET = {
    # Tasks with the bytes of a partition are as large as they are meant to be.
    "distributed.admin.large-graph-warning-threshold": "1GiB",
    # Each connection keeps its last messages, 1000 by default, and with them the pictures that were sent.
    "distributed.admin.low-level-log-length": 10,
    # Nothing listens for browsers.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextlib.contextmanager
def local_cluster(workers: int, *, boards: bool, verbose: bool = False) -> Iterator[Client]:
    """``workers`` processes with a thread each, on this machine; ``boards``: each has a board.

    They are reached with certificates made for this run, which other users of the machine do not have.
    """
    encrypted = find_spec("cryptography") is not None
    if not encrypted:
        log.warning(
            "other users of this machine can connect to the workers, and run code as this user, while this runs; "
            "with 'pip install cryptography' they cannot"
        )
    with dask.config.set(_QUIET), contextlib.ExitStack() as resources:
        with unbroken_start():
            try:
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    security=encrypted or None,
                    silence_logs=logging.INFO if verbose else logging.CRITICAL,
                    resources={RESOURCE: 1} if boards else None,
                )
            except (OSError, RuntimeError) as error:
                raise BackendError(f"expected to start {workers} worker processes, found: {error}") from None
            resources.enter_context(cluster)
        yield resources.enter_context(Client(cluster))


@contextlib.contextmanager
def remote_cluster(address: str) -> Iterator[Client]:
    """A client of the scheduler at ``address``, with dask's own settings for TLS.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where there is none.
    """
    with dask.config.set(_QUIET), _connected(address) as client:
        yield client


def _connected(address: str) -> Client:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            client = Client(address, timeout=CONNECT_S)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            raise BackendError(
                f"scheduler: expected one at {address}, found none: {text:.200}",
                advice="give its address as 'dask scheduler' prints it, tcp://HOST:8786",
            ) from None
    for each in found:  # versions that differ
        log.warning("%s", " ".join(str(each.message).split()))
    return client


def set_log_level(level: int) -> None:
    """Of dask's own messages, and of those whom it uses: many of their loggers have levels.

    For the rest of the process, since messages about what was broken off may come until it ends: for commands.
    """
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(level)


def slots(client: Client, *, boards: bool) -> int:
    """Tasks that the cluster's workers can run at the same time, on boards or anywhere."""
    workers = _workers(client).values()
    if boards:
        return int(sum(worker.get("resources", {}).get(RESOURCE, 0) for worker in workers))
    return sum(worker["nthreads"] for worker in workers)


def wait_for_workers(client: Client, *, boards: bool) -> None:
    """Wait for a worker that can run a task, :data:`WORKERS_S` at most, else raise
    :class:`~fracbnn_pynq.errors.BackendError`."""
    end = time.monotonic() + WORKERS_S
    while not slots(client, boards=boards):
        if time.monotonic() >= end:
            found = len(_workers(client))
            what, advice = "a worker", "start one: dask worker ADDRESS --nthreads 1"
            if boards:
                what = f"a worker with a board (the resource {RESOURCE})"
                advice = f"start one: dask worker ADDRESS --nworkers 1 --nthreads 1 --resources {RESOURCE}=1"
            raise BackendError(f"cluster: expected {what}, found {found or 'no'} workers", advice=advice)
        time.sleep(0.2)


def _workers(client: Client) -> dict[str, Any]:
    try:
        about = client.scheduler_info(n_workers=-1)
    except TypeError:  # older releases tell of all workers anyway
        about = client.scheduler_info()
    workers: dict[str, Any] = about["workers"]
    return workers
