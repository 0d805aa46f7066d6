"""A few threads for work that would hold up the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Task = tuple[Callable[..., None], tuple[Any, ...]]


class Decoders:
    """Calls functions in ``count`` threads, in order; they must not raise.

    Unlike an executor's, the threads do not hold up the end of the process, and handing work to them costs a few
    microseconds.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._run, name=f"fracbnn-decode-{number}", daemon=True).start()

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function`` soon."""
        self._tasks.put((function, arguments))

    def stop(self) -> None:
        """End the threads once they have done what was submitted before."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            function, arguments = task
            function(*arguments)
            del task, function, arguments  # or the last request's pictures stay in memory
