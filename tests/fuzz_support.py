"""How long the fuzzers run: FRACBNN_FUZZ=1000 makes each draw a thousand times its usual number of examples."""

from __future__ import annotations

import os

TIMES = int(os.environ.get("FRACBNN_FUZZ", "1"))


def examples(usual: int) -> int:
    """The number of examples of a test that usually has ``usual``."""
    return usual * TIMES
