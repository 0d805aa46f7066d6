"""Open Inference Protocol v2 over gRPC: Triton's own client, messages made by hand, and what is no message at all."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra grpc is not installed")
pytest.importorskip("google.protobuf")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import grpc
import httpx
from cli_support import Run
from fracbnn_pynq.service.application import create_app
from fracbnn_pynq.service.errors import ServiceError
from fracbnn_pynq.service.grpc_messages import HEALTH, INFERENCE, messages
from fracbnn_pynq.service.settings import Settings
from service_support import bytes_tensor, client_of, infer_body, random_images, wrapped
from waiting_support import until

from fracbnn_pynq import Classifier
from fracbnn_pynq.classifier import softmax
from fracbnn_pynq.errors import BackendError

SERVICE = "inference.GRPCInferenceService"
TOKEN = "a-word-for-tests"
M = messages()


def triton() -> Any:
    """Triton's client, which wants a protobuf of its own."""
    try:
        import tritonclient.grpc as client
    except Exception as error:  # a VersionError of protobuf is no ImportError
        pytest.skip(f"tritonclient[grpc] does not work here: {error}")
    return client


class Wire:
    """A channel, and calls of methods by name with messages of ours."""

    def __init__(self, port: int, credentials: Any = None, **metadata: str) -> None:
        address = f"localhost:{port}"
        self.channel = (
            grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
        )
        self._metadata = tuple(metadata.items())

    def call(self, method: str, request: Any = None, timeout: float = 20, answer: str | None = None) -> Any:
        kind = getattr(M, answer or f"{method}Response")
        service = "grpc.health.v1.Health" if method == "Check" else SERVICE
        request = getattr(M, f"{method}Request")() if request is None else request
        made = self.channel.unary_unary(f"/{service}/{method}", type(request).SerializeToString, kind.FromString)
        return made(request, timeout=timeout, metadata=self._metadata)

    def stream(self, requests: Iterator[Any], timeout: float = 20) -> Any:
        made = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            M.ModelInferRequest.SerializeToString,
            M.ModelStreamInferResponse.FromString,
        )
        return made(requests, timeout=timeout, metadata=self._metadata)

    def check(self, service: str = "") -> int:
        request = M.HealthCheckRequest(service=service)
        return self.call("Check", request, answer="HealthCheckResponse").status


def infer_request(images: np.ndarray, *, raw: bool = True, **more: Any) -> Any:
    request = M.ModelInferRequest(model_name="cifar10", **more)
    tensor = request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    if raw:
        request.raw_input_contents.append(images.tobytes())
    else:
        tensor.contents.uint_contents.extend(images.ravel().tolist())
    return request


def outputs_of(answer: Any) -> dict[str, np.ndarray]:
    assert len(answer.outputs) == len(answer.raw_output_contents)
    return {
        tensor.name: np.frombuffer(data, "<f4").reshape(tuple(tensor.shape))
        for tensor, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if tensor.datatype == "FP32"
    }


@contextlib.contextmanager
def refused(code: str, text: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code().name == code
    assert text in caught.value.details()


@contextlib.contextmanager
def served(models: Any, **settings: Any) -> Iterator[Any]:
    """An HTTP client of a service that speaks gRPC, too, and a :class:`Wire` to it as its ``wire``."""
    with client_of(models, Settings(grpc="127.0.0.1:0", **settings)) as client:
        client.grpc_port = client.server.config.app.state.grpc_port
        client.wire = Wire(client.grpc_port)
        yield client
        client.wire.channel.close()


@pytest.fixture(scope="module")
def service(classifier: Classifier) -> Iterator[Any]:
    with served({"cifar10": classifier}, max_batch=16, max_pixels=1_000_000) as client:
        yield client


@pytest.fixture
def wire(service: Any) -> Wire:
    return service.wire


# Right answers


def test_tritons_client(service: Any, classifier: Classifier, cat: Path) -> None:
    client = triton()
    images = random_images(5)
    expected = classifier.logits(images)
    with client.InferenceServerClient(f"localhost:{service.grpc_port}") as server:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready("cifar10")
        assert not service.get("/v2/models/none").is_success
        about = server.get_model_metadata("cifar10", as_json=True)
        assert about["name"] == "cifar10"
        assert server.get_server_metadata().name == "fracbnn"
        assert server.get_model_config("cifar10").config.input[0].dims == [32, 32, 3]
        (entry,) = server.get_model_repository_index().models
        assert (entry.name, entry.state) == ("cifar10", "READY")
        tensor = client.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        found = server.infer("cifar10", [tensor], request_id="seven")
        assert found.get_response().id == "seven"
        assert np.array_equal(found.as_numpy("logits"), expected)
        assert np.array_equal(found.as_numpy("probabilities"), softmax(expected).astype(np.float32))
        labels = [classifier.labels[index].encode() for index in expected.argmax(axis=1)]
        assert found.as_numpy("labels").tolist() == labels
        best = server.infer("cifar10", [tensor], outputs=[client.InferRequestedOutput("logits", class_count=2)])
        assert best.as_numpy("logits").shape == (5, 2)
        assert best.as_numpy("logits")[0, 0].endswith(b":" + labels[0])
        encoded = client.InferInput("pictures", [1], "BYTES")
        encoded.set_data_from_numpy(np.array([cat.read_bytes()], dtype=object))
        one = server.infer("cifar10", [encoded], outputs=[client.InferRequestedOutput("labels")])
        assert one.as_numpy("labels").tolist() == [b"cat"]
        statistics = server.get_inference_statistics("cifar10").model_stats[0]
        assert statistics.inference_count >= 11
        assert statistics.inference_stats.success.count >= 3


def test_tritons_client_streams_frames(service: Any, classifier: Classifier) -> None:
    """Answers in order; a frame that cannot be read has its error, and the others theirs."""
    client = triton()
    frames = random_images(20)
    answers: queue.Queue[Any] = queue.Queue()
    with client.InferenceServerClient(f"localhost:{service.grpc_port}") as server:
        server.start_stream(callback=lambda result, error: answers.put((result, error)))
        for number, frame in enumerate(frames):
            wrong = number == 7
            tensor = client.InferInput("images", [1, 32, 32, 3], "UINT8")
            tensor.set_data_from_numpy(frame[None])
            server.async_stream_infer("none" if wrong else "cifar10", [tensor], request_id=str(number))
        found = [answers.get(timeout=20) for _ in frames]
        server.stop_stream()
    assert "found 'none'" in str(found[7][1])
    good = [result for result, error in found if error is None]
    assert [result.get_response().id for result in good] == [str(n) for n in range(20) if n != 7]
    logits = np.concatenate([result.as_numpy("logits") for result in good])
    assert np.array_equal(logits, classifier.logits(np.delete(frames, 7, axis=0)))


def test_the_tables_are_tritons_protocol() -> None:
    triton()
    from tritonclient.grpc import model_config_pb2, service_pb2

    renamed = {"InferTensor": "ModelInferRequest.InferInputTensor", "ModelIndex": "RepositoryIndexResponse.ModelIndex"}
    renamed |= {name: f"ModelMetadataResponse.{name}" for name in ("TensorMetadata",)}
    renamed |= {"InferRequestedOutputTensor": "ModelInferRequest.InferRequestedOutputTensor"}
    for name in INFERENCE:
        path = renamed.get(name, name).split(".")
        file = model_config_pb2 if hasattr(model_config_pb2, path[0]) else service_pb2
        theirs = file.DESCRIPTOR.message_types_by_name[path[0]]
        for part in path[1:]:
            theirs = theirs.nested_types_by_name[part]
        for field in getattr(M, name).DESCRIPTOR.fields:
            there = theirs.fields_by_name[field.name]
            kinds = {field.type, there.type}
            assert (field.number, field.is_repeated) == (there.number, there.is_repeated), (name, field.name)
            assert len(kinds) == 1 or kinds == {field.TYPE_INT32, field.TYPE_ENUM}, (name, field.name)
    assert list(HEALTH) == ["HealthCheckRequest", "HealthCheckResponse"]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "contents"])
def test_bits_are_those_over_http(service: Any, wire: Wire, classifier: Classifier, raw: bool) -> None:
    """Numbers in ``contents`` are what KServe's own client sends."""
    images = random_images(3)
    found = outputs_of(wire.call("ModelInfer", infer_request(images, raw=raw)))
    answer = service.post("/v2/models/cifar10/infer", json=infer_body(images)).json()
    over_http = {tensor["name"]: np.array(tensor["data"], np.float32) for tensor in answer["outputs"][:2]}
    for name, values in over_http.items():
        assert np.array_equal(found[name].ravel(), values)
    assert np.array_equal(found["logits"], classifier.logits(images))


def test_encoded_pictures_as_contents(wire: Wire, cat: Path) -> None:
    request = M.ModelInferRequest(model_name="cifar10", model_version="1")
    tensor = request.inputs.add(name="pictures", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([cat.read_bytes()] * 2)
    request.outputs.add(name="labels")
    answer = wire.call("ModelInfer", request)
    assert answer.raw_output_contents[0] == bytes_tensor([b"cat", b"cat"])


def test_health(wire: Wire) -> None:
    assert wire.call("ServerLive").live
    assert wire.call("ServerReady").ready
    assert (wire.check(), wire.check(SERVICE)) == (1, 1)
    with refused("NOT_FOUND", "expected inference.GRPCInferenceService"):
        wire.check("other")


def test_metrics_count_answers(service: Any, wire: Wire) -> None:
    wire.call("ServerLive")
    with refused("NOT_FOUND", "none"):
        wire.call("ModelMetadata", M.ModelMetadataRequest(name="none"))
    lines = service.get("/metrics").text.splitlines()
    counts = dict(line.rsplit(" ", 1) for line in lines if line.startswith("fracbnn_grpc_responses{"))
    assert float(counts['fracbnn_grpc_responses{status="OK"}']) >= 1
    assert float(counts['fracbnn_grpc_responses{status="NOT_FOUND"}']) >= 1


# Refusals


def _request(**changes: Any) -> Any:
    request = infer_request(random_images(1))
    for name, value in changes.items():
        target = request if name in ("model_name", "model_version") else request.inputs[0]
        if name == "shape":
            target.shape[:] = value
        else:
            setattr(target, name, value)
    return request


def _without_data() -> Any:
    request = infer_request(random_images(1))
    del request.raw_input_contents[:]
    return request


def _with_both() -> Any:
    request = infer_request(random_images(1))
    request.inputs[0].contents.uint_contents.extend([1])
    return request


def _too_bright() -> Any:
    return infer_request(np.full((1, 32, 32, 3), 256, np.int64), raw=False)


def _two_inputs() -> Any:
    request = infer_request(random_images(1))
    request.inputs.add(name="images")
    return request


def _shared_memory() -> Any:
    request = infer_request(random_images(1))
    request.inputs[0].parameters["shared_memory_region"].string_param = "x"
    return request


def _no_picture() -> Any:
    request = M.ModelInferRequest(model_name="cifar10")
    request.inputs.add(name="pictures", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"no picture")
    return request


@pytest.mark.parametrize(
    ("request_of", "code", "text"),
    [
        (lambda: _request(model_name="none"), "NOT_FOUND", "expected one of cifar10, found 'none'"),
        (lambda: _request(model_version="2"), "NOT_FOUND", "expected 1, found '2'"),
        (lambda: _request(name="other"), "INVALID_ARGUMENT", "expected a name of images and pictures"),
        (lambda: _request(datatype="FP32"), "INVALID_ARGUMENT", "expected UINT8, found 'FP32'"),
        (lambda: _request(shape=[1, 3, 32, 32]), "INVALID_ARGUMENT", "expected [n, 32, 32, 3]"),
        (lambda: _request(shape=[2, 32, 32, 3]), "INVALID_ARGUMENT", "expected 6144 bytes by its shape"),
        (lambda: infer_request(random_images(17)), "RESOURCE_EXHAUSTED", "expected at most 16 pictures"),
        (_without_data, "INVALID_ARGUMENT", "expected raw_input_contents or contents"),
        (_with_both, "INVALID_ARGUMENT", "expected raw_input_contents or contents"),
        (_too_bright, "INVALID_ARGUMENT", "expected numbers of 0 to 255, found 256"),
        (_two_inputs, "INVALID_ARGUMENT", "expected one input"),
        (_shared_memory, "INVALID_ARGUMENT", "expected none of shared memory"),
        (_no_picture, "INVALID_ARGUMENT", "picture 0"),
    ],
)
def test_wrong_requests(wire: Wire, request_of: Any, code: str, text: str) -> None:
    with refused(code, text):
        wire.call("ModelInfer", request_of())
    assert wire.check() == 1


def test_messages_that_are_too_large(classifier: Classifier) -> None:
    with served({"cifar10": classifier}, max_body=1 << 20) as client:
        request = M.ModelInferRequest(model_name="cifar10", raw_input_contents=[bytes(2 << 20)])
        with refused("RESOURCE_EXHAUSTED", "larger than max"):
            client.wire.call("ModelInfer", request)
        client.wire.call("ModelInfer", infer_request(random_images(30)))


def test_methods_that_are_not_there(wire: Wire) -> None:
    made = wire.channel.unary_unary(f"/{SERVICE}/RepositoryModelUnload")
    with refused("UNIMPLEMENTED", ""):
        made(b"", timeout=10)


def test_a_token(classifier: Classifier) -> None:
    with served({"cifar10": classifier}, token=TOKEN) as client:
        images = infer_request(random_images(1))
        for given in ({}, {"authorization": "Bearer other"}, {"authorization": TOKEN}):
            other = Wire(client.grpc_port, **given)
            with refused("UNAUTHENTICATED", "expected 'authorization: Bearer'"):
                other.call("ModelInfer", images)
            with refused("UNAUTHENTICATED", "expected 'authorization: Bearer'"):
                list(other.stream(iter([images])))
            with refused("UNAUTHENTICATED", "expected 'authorization: Bearer'"):
                other.call("ServerMetadata")
            assert other.check() == 1
            assert other.call("ServerReady").ready
            other.channel.close()
        right = Wire(client.grpc_port, authorization=f"Bearer {TOKEN}")
        assert len(right.call("ModelInfer", images).outputs) == 3
        right.channel.close()


# Load, deadlines, ends


@pytest.fixture
def slow(classifier: Classifier) -> Iterator[Any]:
    """A service whose engine waits until ``go`` is set."""
    go = threading.Event()
    held, _ = wrapped(classifier, before=lambda: go.wait(20))
    with served({"cifar10": held}, queue=2, deadline=1.0) as client:
        client.go = go
        yield client
        go.set()


def test_a_deadline_of_the_service_and_of_the_client(slow: Any) -> None:
    request = infer_request(random_images(1))
    with refused("DEADLINE_EXCEEDED", "no answer within the deadline of 1 s"):
        slow.wire.call("ModelInfer", request)
    with refused("DEADLINE_EXCEEDED", ""):
        slow.wire.call("ModelInfer", request, timeout=0.2)
    slow.go.set()
    worker = slow.server.inference.worker(None)
    until(lambda: worker.admitted == 0)
    assert len(slow.wire.call("ModelInfer", request).outputs) == 3


def test_a_full_queue(slow: Any) -> None:
    request = infer_request(random_images(1))
    errors: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            slow.wire.call("ModelInfer", request)
        except grpc.RpcError as error:
            errors.put(error.code().name)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: slow.server.inference.worker(None).admitted == 2)
    with refused("UNAVAILABLE", "holds 2 requests, which is all it may"):
        slow.wire.call("ModelInfer", request)
    for thread in threads:
        thread.join(10)
    assert [errors.get(timeout=1) for _ in threads] == ["DEADLINE_EXCEEDED"] * 2


def test_the_end_of_a_service(classifier: Classifier) -> None:
    with served({"cifar10": classifier}, drain=0.5) as client:
        made = client.wire.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            M.HealthCheckRequest.SerializeToString,
            M.HealthCheckResponse.FromString,
        )
        watched = made(M.HealthCheckRequest())
        assert next(watched).status == 1
        client.server.handle_exit(15, None)
        assert next(watched).status == 2
        assert client.wire.check() == 2
        assert not client.wire.call("ServerReady").ready
        with pytest.raises(grpc.RpcError):
            next(watched)


def test_a_client_that_goes_gives_its_place_back(slow: Any) -> None:
    made = slow.wire.channel.unary_unary(
        f"/{SERVICE}/ModelInfer", M.ModelInferRequest.SerializeToString, M.ModelInferResponse.FromString
    )
    worker = slow.server.inference.worker(None)
    future = made.future(infer_request(random_images(1)))
    until(lambda: worker.admitted == 1)
    future.cancel()
    slow.go.set()
    until(lambda: worker.admitted == 0)


# What is no gRPC


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x00" * 50,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 5000,
        b"",
    ],
    ids=["http1", "zeros", "preface", "huge-frames", "settings-flood", "silence"],
)
def test_hostile_connections(service: Any, wire: Wire, sent: bytes) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(50):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", service.grpc_port), 10))
            with contextlib.suppress(OSError):
                connection.sendall(sent)
        begin = time.monotonic()
        assert wire.check() == 1
        assert len(wire.call("ModelInfer", infer_request(random_images(1))).outputs) == 3
        assert time.monotonic() - begin < 5
    assert service.get("/health/live").status_code == 200


def test_garbage_as_a_message(wire: Wire) -> None:
    made = wire.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    streamed = wire.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    for garbage in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x7f"):
        with refused("INVALID_ARGUMENT", "expected a message of this method"):
            made(garbage, timeout=10)
        with refused("INVALID_ARGUMENT", "expected a message of this method"):
            list(streamed(iter([garbage]), timeout=10))
    with refused("NOT_FOUND", "found ''"):  # fields that nobody knows
        made(b"\x08" * 10_000, timeout=10)
    assert wire.check() == 1


# Ports, certificates, settings


def test_tls(classifier: Classifier, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    options = ("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate))
    try:
        subprocess.run([*words, *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl made no certificate: {error}")
    with served({"cifar10": classifier}, grpc_certfile=certificate, grpc_keyfile=key) as client:
        secure = Wire(client.grpc_port, grpc.ssl_channel_credentials(certificate.read_bytes()))
        assert secure.check() == 1
        secure.channel.close()
        with pytest.raises(grpc.RpcError):
            client.wire.call("ServerLive", timeout=3)


def test_settings() -> None:
    assert Settings.from_environment({"FRACBNN_SERVICE_GRPC": "0.0.0.0:8001"}).grpc == "0.0.0.0:8001"
    for wrong in ("8001", "host:port", ":8001", "a b:1"):
        with pytest.raises(BackendError, match="grpc: expected HOST:PORT"):
            Settings(grpc=wrong)
    with pytest.raises(BackendError, match="both or none"):
        Settings(grpc="[::1]:8001", grpc_certfile="x")


def test_errors_of_http_have_a_code() -> None:
    from fracbnn_pynq.service.grpc_service import _code

    codes = {status: _code(ServiceError(status, "")).name for status in (400, 401, 403, 404, 413, 422, 499, 500, 503)}
    assert codes == {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        413: "RESOURCE_EXHAUSTED",
        422: "INVALID_ARGUMENT",
        499: "CANCELLED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
    }
    assert httpx.codes.SERVICE_UNAVAILABLE == 503


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> None:
    monkeypatch.setitem(sys.modules, "fracbnn_pynq.service.grpc_server", None)
    with pytest.raises(BackendError, match="gRPC needs more than the service") as caught:
        create_app({"cifar10": classifier}, Settings(grpc="127.0.0.1:0"))
    assert "grpcio" in caught.value.advice


def test_the_command_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = run("serve", "--port", 0, "--grpc", other.getsockname()[1])
    assert taken.code == 1
    assert "give another --grpc" in taken.err
    unix = run("serve", "--host", f"unix:{tmp_path / 'socket'}", "--grpc", 8001)
    assert unix.code == 2
    assert "expected a --host with ports" in unix.err


def test_the_command(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "fracbnn_pynq", "serve", "--port", "0", "--grpc", str(port)]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        wire = Wire(port)
        try:
            grpc.channel_ready_future(wire.channel).result(60)
            assert wire.check() == 1
        finally:
            wire.channel.close()
            process.terminate()
            assert process.wait(20) == 0
    assert f"gRPC on port {port}" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "contents"])
def test_kserves_client(service: Any, classifier: Classifier, raw: bool) -> None:
    if "tritonclient.grpc" in sys.modules:
        pytest.skip("in one process Triton's client and KServe's want messages of the same names")
    kserve = pytest.importorskip("kserve")
    images = random_images(3)

    async def ask() -> Any:
        client = kserve.InferenceGRPCClient(f"127.0.0.1:{service.grpc_port}")
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("cifar10")
        tensor = kserve.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images, binary_data=raw)
        answer = await client.infer(kserve.InferRequest("cifar10", [tensor], request_id="nine"))
        await client.close()
        return answer

    answer = asyncio.run(ask())
    assert answer.id == "nine"
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert np.array_equal(outputs["logits"], classifier.logits(images))
