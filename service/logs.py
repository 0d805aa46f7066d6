"""Log lines that name the request they belong to, as text or as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TextIO

REQUEST_ID: ContextVar[str] = ContextVar("fracbnn_request_id", default="-")
"""The X-Request-ID of the request being answered."""

FORMATS = ("text", "json")
_WRITE_AFTER_S = 0.01


class TextFormatter(logging.Formatter):
    """Time, level, logger, request id, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = REQUEST_ID.get()
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, request_id, message and what a record has in ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": REQUEST_ID.get(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class LineHandler(logging.Handler):
    """Writes what is logged in an event loop several lines at a time: up to 10 ms later, at once from WARNING on.

    A write gives up the GIL, and a busy event loop waits long until it has it again: longer than all the rest takes
    that it does for a request.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write now or soon."""
        try:
            self._lines.append(self.format(record) + "\n")
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = None
            if loop is None or record.levelno >= logging.WARNING:
                self.flush()
            elif self._loop is not loop:
                self._loop = loop
                loop.call_later(_WRITE_AFTER_S, self.flush)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what has been kept; :func:`logging.shutdown` also does this."""
        with self.lock or contextlib.nullcontext():
            lines, self._lines, self._loop = self._lines, [], None
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()


def configure(form: str = "text", level: int = logging.INFO) -> None:
    """Send all log lines to standard error. ``form``: one of :data:`FORMATS`."""
    handler = LineHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
