"""Memory that is not used any more goes back to the system."""

from __future__ import annotations

import ctypes
import logging
import sys

log = logging.getLogger(__name__)

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's ``mallopt`` (malloc.h)."""
_LARGE = 1 << 20


def return_large_blocks() -> None:
    """Have blocks of a megabyte and more returned to the system when they are freed.

    glibc begins like that, but raises its threshold up to 32 MB with each such block that is freed, and keeps what is
    below it: after a few large pictures a process holds hundreds of megabytes that nothing uses. Elsewhere than with
    glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        done = ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
    except (OSError, AttributeError):  # another C library
        done = 0
    if not done:
        log.debug("large blocks of memory are kept: there is no mallopt")
