"""A few threads for work that would hold up the event loop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

Task = list[Any]
"""A function and its arguments; empty once it has been begun or withdrawn."""


class Decoders:
    """Calls functions in ``count`` threads, in order; they must not raise.

    Unlike an executor's, the threads do not hold up the end of the process, and handing work to them costs a few
    microseconds.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            self._begin()

    def submit(self, function: Callable[..., None], *arguments: Any) -> Task:
        """Call ``function`` soon."""
        task: Task = [(function, arguments)]
        self._tasks.put(task)
        return task

    def withdraw(self, task: Task) -> bool:
        """Whether a task had not been begun; then it is not, and what it holds is free."""
        return _taken(task) is not None

    @contextlib.contextmanager
    def spare(self) -> Iterator[None]:
        """Another thread beside the others, while the one that calls this waits for something."""
        self._begin()
        try:
            yield
        finally:
            self._tasks.put(None)  # one thread ends, whichever

    def stop(self) -> None:
        """End the threads once they have done what was submitted before."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _begin(self) -> None:
        threading.Thread(target=self._run, name="fracbnn-decode", daemon=True).start()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            call = _taken(task)
            if call is not None:
                function, arguments = call
                function(*arguments)
                del function, arguments  # or the last request's pictures stay in memory
            del task, call


def _taken(task: Task) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
    try:
        call: tuple[Callable[..., None], tuple[Any, ...]] = task.pop()  # only one thread gets it
    except IndexError:
        return None
    return call
