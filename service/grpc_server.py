"""The port at which the service speaks gRPC, beside HTTP, in the same event loop."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import grpc.aio

from ..errors import BackendError
from ..files import read_file
from .grpc_service import GrpcService
from .inference import Inference

log = logging.getLogger(__name__)

_MORE_CALLS = 32
"""Calls at once besides those that the models' queues hold: streams, health checks, and those that are refused."""
_LONGEST_MESSAGE = 4 << 20
"""Bytes: gRPC's own default, for which clients are made."""
_LONGEST_PEM = 1 << 20
_OVERHEAD = 1 << 16
"""Bytes of a message besides its tensor."""
_MINUTE_MS = 60_000


class GrpcServer:
    """Between :meth:`start` and :meth:`stop`, which belong to the event loop of ``inference``.

    gRPC reads a message whole before anybody is asked, so the bytes of all messages cannot be counted as those of
    HTTP's bodies are: here a message may have 4 MiB, or ``max_body`` if that is less, and calls at once have a limit.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """Where it listens, once started."""

    async def start(self) -> None:
        """Begin to listen. Raises :class:`~fracbnn_pynq.errors.BackendError` where that is not possible."""
        settings = self._inference.settings
        most = min(settings.max_body, _LONGEST_MESSAGE) + _OVERHEAD
        calls = settings.queue * len(self._inference.workers) + _MORE_CALLS
        options = [
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 1 << 14),
            ("grpc.max_concurrent_streams", calls),
            ("grpc.max_allowed_incoming_connections", settings.connections),
            ("grpc.server_handshake_timeout_ms", 10_000),
            ("grpc.keepalive_time_ms", _MINUTE_MS),  # a client that has gone without a word is noticed
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.max_connection_idle_ms", 10 * _MINUTE_MS),
            ("grpc.so_reuseport", 0),  # two services at one port would each get a part of the calls
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=calls)
        server.add_generic_rpc_handlers(tuple(GrpcService(self._inference).handlers()))
        address = settings.grpc or ""
        try:
            if settings.grpc_certfile is None or settings.grpc_keyfile is None:
                self.port = server.add_insecure_port(address)
            else:
                pair = [
                    read_file(Path(path), _LONGEST_PEM, BackendError, "PEM file")
                    for path in (settings.grpc_keyfile, settings.grpc_certfile)
                ]
                self.port = server.add_secure_port(address, grpc.ssl_server_credentials([(pair[0], pair[1])]))
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"cannot listen on {address} for gRPC: {error}", advice="give another port, or end what uses this one"
            ) from None
        if not self.port:
            raise BackendError(f"cannot listen on {address} for gRPC", advice="look at the certificate and its key")
        self._server = server
        await server.start()
        log.info("gRPC on port %d%s", self.port, "" if settings.grpc_certfile is None else ", with TLS")

    async def stop(self) -> None:
        """Accept nothing more, and give the calls in flight the settings' ``grace``."""
        if self._server is not None:
            await self._server.stop(self._inference.settings.grace)
            self._server = None
