"""Waiting for what happens in other threads, and telling a test's own threads from those that others left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for ``condition``, and fail where it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to this"
        time.sleep(0.002)


def live_threads(prefix: str = "") -> set[threading.Thread]:
    """The running threads whose names begin so. Other tests of the same process may have left some, which may end at
    any time: compare with a set taken before, not with a number."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(prefix)}
