"""Open Inference Protocol v2 over gRPC, with what Triton adds to it, and gRPC's health checks.

The same checks, queue and answers as over HTTP: a request is described as one with binary data there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from .access import bearer, is_bearer
from .errors import LateError, ServiceError, new_id
from .grpc_messages import DATA_TYPES, NOT_SERVING, SERVICE_UNKNOWN, SERVING, messages
from .grpc_request import Question
from .inference import VERSION, Inference
from .jobs import Images, Job
from .logs import REQUEST_ID
from .media import PictureReader
from .oip_binary import pack_bytes
from .oip_reply import model_configuration, model_metadata, output_values, server_metadata
from .oip_request import InferRequest, read_request
from .oip_statistics import index_of, statistics_of
from .worker import Worker

log = logging.getLogger(__name__)
access = logging.getLogger("fracbnn_pynq.service.access")

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
_OPEN = frozenset(("ServerLive", "ServerReady", "Check", "Watch"))
"""What needs no token, as load balancers ask for it."""
_WATCH_S = 0.5
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""Of HTTP's status; all others are INVALID_ARGUMENT."""


class GrpcService:
    """The methods of both services, for ``inference``; used from its event loop only."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._messages = messages()
        token = inference.settings.token
        self._authorization = None if token is None else bearer(token)

    def handlers(self) -> list[Any]:
        """What a server is given."""
        unary = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        inference = {name: self._one(name, method) for name, method in unary.items()}
        inference["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._guarded("ModelStreamInfer", self._stream),
            _reader(self._messages.ModelInferRequest),
            _to_bytes,
        )
        health = {
            "Check": self._one("Check", self._check, "HealthCheckRequest"),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._guarded("Watch", self._watch), _reader(self._messages.HealthCheckRequest), _to_bytes
            ),
        }
        return [
            grpc.method_handlers_generic_handler(INFERENCE, inference),
            grpc.method_handlers_generic_handler(HEALTH, health),
        ]

    # What surrounds every call

    def _one(self, name: str, method: Callable[[Any], Awaitable[Any]], request: str | None = None) -> Any:
        kind = getattr(self._messages, request or f"{name}Request")

        async def call(request: Any, context: Any) -> Any:
            async with self._call(name, context):
                return await method(_decoded(request))

        return grpc.unary_unary_rpc_method_handler(call, _reader(kind), _to_bytes)

    def _guarded(self, name: str, method: Callable[[Any], AsyncIterator[Any]]) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._call(name, context):
                async for answer in method(request):
                    yield answer

        return call

    @contextlib.asynccontextmanager
    async def _call(self, name: str, context: Any) -> AsyncIterator[None]:
        """Token, request id, log line, counters, and the right status for every error."""
        given = {key.lower(): value for key, value in context.invocation_metadata() or ()}
        mark = REQUEST_ID.set(new_id())
        start, status = time.perf_counter(), grpc.StatusCode.OK
        try:
            if name not in _OPEN:
                self._check_token(given)
            yield
        except ServiceError as error:
            status = _code(error)
            await _end(context, status, str(error))
        except asyncio.CancelledError:  # the client has gone, its deadline has passed, or the server ends
            status = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            log.exception("gRPC %s failed", name)
            status = grpc.StatusCode.INTERNAL
            await _end(context, status, "the service failed; its log says why")
        finally:
            self._inference.grpc_answers[status.name] += 1
            if access.isEnabledFor(logging.INFO):
                elapsed = round((time.perf_counter() - start) * 1e3, 3)
                fields = {"method": name, "status": status.name, "ms": elapsed, "client": context.peer()}
                access.info("gRPC %s %s %.1f ms", name, status.name, elapsed, extra={"fields": fields})
            REQUEST_ID.reset(mark)

    def _check_token(self, metadata: dict[str, Any]) -> None:
        given = str(metadata.get("authorization", "")).encode("utf-8", "replace")
        if self._authorization is not None and not is_bearer(given, self._authorization):
            raise ServiceError(401, "expected 'authorization: Bearer' with this service's token in the metadata")

    # Methods

    async def _server_live(self, _request: Any) -> Any:
        return self._messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: Any) -> Any:
        return self._messages.ServerReadyResponse(ready=self._inference.ready)

    async def _model_ready(self, request: Any) -> Any:
        worker = self._worker(request)
        return self._messages.ModelReadyResponse(ready=worker.ready and not self._inference.draining)

    async def _server_metadata(self, _request: Any) -> Any:
        return self._messages.ServerMetadataResponse(**server_metadata())

    async def _model_metadata(self, request: Any) -> Any:
        worker = self._worker(request)
        return self._messages.ModelMetadataResponse(**model_metadata(worker.name, worker.classifier))

    async def _model_config(self, request: Any) -> Any:
        worker = self._worker(request)
        about = model_configuration(worker.name, worker.classifier, self._inference.settings.max_batch)
        for tensor in (*about["input"], *about["output"]):
            tensor["data_type"] = DATA_TYPES[tensor["data_type"]]
        return self._messages.ModelConfigResponse(config=self._messages.ModelConfig(**about))

    async def _model_statistics(self, request: Any) -> Any:
        workers = [self._worker(request)] if request.name else self._inference.workers.values()
        return self._messages.ModelStatisticsResponse(
            model_stats=[
                {key: value for key, value in statistics_of(worker).items() if key != "batch_stats"}
                for worker in workers
            ]
        )

    async def _repository_index(self, request: Any) -> Any:
        return self._messages.RepositoryIndexResponse(models=index_of(self._inference, only_ready=request.ready))

    async def _model_infer(self, request: Any) -> Any:
        return await self._infer(request)

    async def _stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Answers in the order of the requests; one that cannot be answered says so, and the stream goes on."""
        kind = self._messages.ModelStreamInferResponse
        async for request in requests:
            _decoded(request)  # what follows one that is none cannot be trusted
            try:
                yield kind(infer_response=await self._infer(request))
            except ServiceError as error:
                failed = {"model_name": request.model_name, "id": request.id}
                yield kind(error_message=str(error), infer_response=failed)

    async def _check(self, request: Any) -> Any:
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise ServiceError(404, f"service: expected {INFERENCE}, or none, found {request.service!r}")
        return self._messages.HealthCheckResponse(status=status)

    async def _watch(self, request: Any) -> AsyncIterator[Any]:
        service = _decoded(request).service
        said = None
        while True:
            status = self._status(service)
            if status != said:
                said = status
                yield self._messages.HealthCheckResponse(status=status)
            await asyncio.sleep(_WATCH_S)

    # Parts of them

    def _status(self, service: str) -> int:
        if service not in ("", INFERENCE):
            return SERVICE_UNKNOWN
        return SERVING if self._inference.ready else NOT_SERVING

    def _worker(self, request: Any) -> Worker:
        return self._inference.version(request.name, request.version or VERSION)

    async def _infer(self, request: Any) -> Any:
        received = time.perf_counter()
        inference = self._inference
        worker = inference.version(request.model_name, request.model_version or VERSION)

        def prepare(job: Job) -> tuple[Images, InferRequest]:
            question = Question(request)
            reader = PictureReader(worker.classifier.network, inference.settings, inference.budget, job.check)
            return read_request(question, question.binary, reader, worker.classifier.network, inference.settings)

        outcome = await inference.infer(worker, prepare, _for_ever)
        answer = await inference.answer(outcome, lambda: self._answer(worker, outcome.context, outcome.logits))
        inference.count(worker, outcome, received)
        return answer

    def _answer(self, worker: Worker, request: InferRequest, logits: Any) -> Any:
        answer = self._messages.ModelInferResponse(
            model_name=worker.name, model_version=VERSION, id="" if request.id is None else request.id
        )
        for output in request.outputs:
            datatype, values = output_values(output, worker.classifier, logits)
            answer.outputs.add(name=output.name, datatype=datatype, shape=values.shape)
            data = pack_bytes(values.ravel().tolist()) if datatype == "BYTES" else values.tobytes()
            answer.raw_output_contents.append(data)
        return answer


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """What makes a message of bytes; ``None`` of what is none, lest gRPC writes a traceback for it."""

    def read(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return None

    return read


def _decoded(request: Any) -> Any:
    if request is None:
        raise ServiceError(400, "expected a message of this method, found bytes that are none")
    return request


def _to_bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _code(error: ServiceError) -> Any:
    if isinstance(error, LateError):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)


async def _end(context: Any, status: Any, message: str) -> NoReturn:
    await context.abort(status, message)
    raise AssertionError("abort() raises")


async def _for_ever() -> NoReturn:
    """A call whose client goes away is cancelled, so nobody has to tell."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
