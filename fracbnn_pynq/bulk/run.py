"""A run: partitions go to workers, a bounded number at a time, and their results into the dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker
from distributed import TimeoutError as DaskTimeoutError

from ..errors import BackendError, FracBNNError
from .cluster import RESOURCE, slots, wait_for_workers
from .dataset import LabelDataset
from .items import Item, brought
from .partitions import Partition, partitions
from .plugin import SettingsPlugin
from .signals import between_steps
from .sources import Source
from .tasks import Engine, Labelled, Settings, Work, engine, label

MOST_TASKS = 1000
MOST_HELD = 256 << 20
"""Bytes of pictures sent and not labelled yet, beyond which no more are sent."""
_RECOUNT_S = 5.0
_CHECK_S = 0.2
_RETRIES = 2
"""Times that a task is tried again after its board failed."""


@dataclass
class WorkerCount:
    """What a worker did: pictures (also those that it could not read), its time, and of that the engine's."""

    pictures: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0


@dataclass
class Summary:
    """What a run did. ``pictures`` and ``errors`` of the whole dataset, ``done`` in this run."""

    pictures: int = 0
    errors: int = 0
    done: int = 0
    partitions: int = 0
    seconds: float = 0.0
    workers: dict[str, WorkerCount] = field(default_factory=dict)


Note = Callable[[int, Sequence[tuple[Item, str]]], object]
"""Told of each partition: how many pictures it has, and those that could not be read now with their errors."""


@contextmanager
def prepared(client: Client, settings: Settings, *, boards: bool) -> Iterator[Engine]:
    """Workers that know ``settings``, until the block ends; gives what computes on one of them.

    ``boards``: tasks run on workers with a board only. Raises :class:`~fracbnn_pynq.errors.BackendError`, or what
    loading the model there raises.
    """
    wait_for_workers(client, boards=boards)
    plugin = SettingsPlugin(settings)
    with _dask_errors("the cluster"):
        client.register_plugin(plugin)
    try:
        with _dask_errors("a worker"):
            computes: Engine = client.submit(engine, settings.key, pure=False, resources=_resources(boards)).result()
        yield computes
    finally:
        with suppress(Exception):  # the scheduler may be gone, and its workers' engines with it
            client.unregister_worker_plugin(plugin.name)


def label_all(
    client: Client,
    sources: Iterable[Source],
    dataset: LabelDataset,
    *,
    key: str,
    arithmetic: str,
    most: int,
    send: bool,
    boards: bool,
    note: Note = lambda count, errors: None,
) -> Summary:
    """Label what ``dataset`` does not have yet, on workers that are :func:`prepared` with the settings ``key``.

    ``most``: pictures of a partition; ``send``: workers are sent the pictures rather than where they are. Raises
    :class:`~fracbnn_pynq.errors.BackendError` where the cluster or an engine fails, and
    :class:`~fracbnn_pynq.errors.SourceError` where a source changes. Partitions that are done stay in any case.
    """
    sources = list(sources)
    start = time.perf_counter()
    summary = Summary()
    flight = _Flight(client, dataset, summary, note, boards=boards)
    with flight, between_steps() as check_signals:
        for partition in partitions(sources, most):
            check_signals()
            summary.partitions += 1
            summary.pictures += len(partition.items)
            errors = dataset.errors_of(partition.number, len(partition.items))
            if errors is not None:
                summary.errors += errors
                note(len(partition.items), ())
                continue
            work = Partition(partition.number, tuple(map(brought, partition.items))) if send else partition
            while not flight.has_room(work):
                flight.take(check_signals)
            flight.start(work, Work(key, work.places, arithmetic))
        while flight.under_way:
            flight.take(check_signals)
    for source in sources:
        source.check_unchanged()
    summary.seconds = time.perf_counter() - start
    return summary


@dataclass(frozen=True)
class _Pending:
    """A partition that is being labelled: its number, its pictures' names, and how many bytes were sent."""

    number: int
    items: tuple[Item, ...]
    held: int


class _Flight:
    """Tasks under way; a context manager that has nothing more done of them at its end."""

    def __init__(self, client: Client, dataset: LabelDataset, summary: Summary, note: Note, *, boards: bool) -> None:
        self._client, self._dataset, self._summary, self._note = client, dataset, summary, note
        self._boards = boards
        self._pending: dict[Future[Labelled], _Pending] = {}
        self._held = 0
        self._done: SimpleQueue[Future[Labelled]] = SimpleQueue()
        self._most, self._counted = 0, float("-inf")

    @property
    def under_way(self) -> int:
        """How many there are."""
        return len(self._pending)

    def has_room(self, partition: Partition) -> bool:
        """Whether one more may be started."""
        return not self._pending or (len(self._pending) < self._room() and self._held + partition.held <= MOST_HELD)

    def start(self, partition: Partition, work: Work) -> None:
        """Give a partition to the cluster."""
        with _dask_errors("the cluster"):
            future = self._client.submit(
                label,
                work,
                key=f"{SettingsPlugin.__name__}-{work.key}-{partition.number}",
                pure=False,
                resources=_resources(self._boards),
                retries=_RETRIES if self._boards else 0,
            )
            names = tuple(Item(item.source, item.name, item.size, b"") for item in partition.items)
            self._pending[future] = _Pending(partition.number, names, partition.held)
            self._held += partition.held
            future.add_done_callback(self._done.put)

    def __enter__(self) -> _Flight:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pending:
            with suppress(Exception):  # the scheduler may be gone
                self._client.cancel(list(self._pending), force=True)

    def _room(self) -> int:
        """Tasks that keep every worker busy while the next one is on its way."""
        now = time.monotonic()
        if now - self._counted > _RECOUNT_S:
            with _dask_errors("the cluster"):
                self._most = min(MOST_TASKS, 2 * slots(self._client, boards=self._boards) + 2)
            self._counted = now
        return self._most

    def take(self, check: Callable[[], None]) -> None:
        """Wait for a task, with a ``check`` several times a second, and write what it found."""
        future = _waited(lambda: self._done.get(timeout=_CHECK_S), Empty, check)
        pending = self._pending[future]
        first, last = pending.items[0], pending.items[-1]
        with _dask_errors(f"partition {pending.number} ({first.source}: {first.name} to {last.name})"):
            found = _waited(lambda: future.result(timeout=_CHECK_S), DaskTimeoutError, check)
        self._dataset.write(pending.number, pending.items, found)
        del self._pending[future]
        self._held -= pending.held
        count = self._summary.workers.setdefault(found.worker, WorkerCount())
        count.pictures += len(pending.items)
        count.seconds += found.seconds
        count.engine_seconds += found.engine_seconds
        self._summary.done += len(pending.items)
        self._summary.errors += len(found.errors)
        errors = [(pending.items[number], text) for number, text in sorted(found.errors.items())]
        self._note(len(pending.items), errors)


def _waited(get: Callable[[], Any], not_yet: type[Exception], check: Callable[[], None]) -> Any:
    """What ``get`` gives, asked for again and again where it raises ``not_yet``."""
    while True:
        check()
        try:
            return get()
        except FracBNNError:  # some of an accelerator's are time-outs, too
            raise
        except not_yet:
            pass


def _resources(boards: bool) -> dict[str, Any] | None:
    return {RESOURCE: 1} if boards else None


@contextmanager
def _dask_errors(what: str) -> Iterator[None]:
    """What dask raises, as :class:`~fracbnn_pynq.errors.BackendError`."""
    try:
        yield
    except FracBNNError:
        raise
    except KilledWorker as error:
        raise BackendError(
            f"{what}: every worker that tried it died ({error.last_worker.address} was the last)",
            advice="a worker's log says why: too little memory, or a picture that a decoder cannot bear",
        ) from None
    except CancelledError:
        raise BackendError(f"{what}: the scheduler lost it or has gone", advice="give the same command again") from None
    except ImportError as error:
        raise BackendError(
            f"{what}: a worker or the scheduler lacks something: {error}",
            advice="install fracbnn_pynq[bulk] where they run, in the same version",
        ) from None
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BackendError(f"{what}: {type(error).__name__}: {text:.300}") from error
