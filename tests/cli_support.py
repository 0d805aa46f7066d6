"""The ``fracbnn`` command in the process of the tests; ``conftest.py`` makes a fixture of it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from fracbnn_pynq import cli


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


def status(*arguments: object) -> Any:
    """Exit status of ``fracbnn``; its signal handlers do not outlive it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fracbnn", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return 0
