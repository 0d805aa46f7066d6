"""Queues, deadlines, faults, clients that leave, and the end of the service."""

# ruff: noqa: E402 - what is imported late needs the service's extra

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from fracbnn_pynq.service.settings import Settings
from service_support import ReloadableEngine, client_of, infer_body, metric, random_images, wrapped
from waiting_support import until

from fracbnn_pynq.errors import AcceleratorError

INFER = "/v2/models/cifar10/infer"
BODY = infer_body(random_images(1))


class Gate:
    """Blocks the engine until opened."""

    def __init__(self):
        self.opened = threading.Event()
        self.reached = threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(20)


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.opened.set()


def test_a_full_queue_refuses_and_those_inside_are_answered(classifier, gate):
    model, _ = wrapped(classifier, before=gate)
    with client_of({"cifar10": model}, Settings(queue=3)) as client, ThreadPoolExecutor(3) as pool:
        images = [random_images(1, seed=i) for i in range(3)]
        inside = [pool.submit(client.post, INFER, json=infer_body(image)) for image in images]
        until(lambda: client.server.inference.workers["cifar10"].admitted == 3)
        assert metric(client, "fracbnn_queue_depth") == 3
        refused = client.post(INFER, json=BODY)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "3 requests" in refused.json()["error"]
        gate.opened.set()
        for image, answer in zip(images, inside, strict=True):
            expected = classifier.logits(image).ravel().tolist()
            assert answer.result().json()["outputs"][0]["data"] == expected
        assert metric(client, "fracbnn_queue_depth") == 0
        assert metric(client, "fracbnn_queue_full") == 1
        assert metric(client, "nv_inference_request_success") == 3


@pytest.mark.parametrize(("name", "together"), [("cpu", True), ("overlay", False)])
def test_waiting_requests_are_computed_together_only_on_the_cpu(classifier, gate, name, together):
    model, engine = wrapped(classifier, before=gate, name=name)
    with client_of({"cifar10": model}, Settings(micro_batch=4)) as client, ThreadPoolExecutor(7) as pool:
        images = [random_images(1 + i % 2, seed=i) for i in range(7)]
        first = pool.submit(client.post, INFER, json=infer_body(images[0]))
        assert gate.reached.wait(5)
        others = [pool.submit(client.post, INFER, json=infer_body(image)) for image in images[1:]]
        worker = client.server.inference.workers["cifar10"]
        until(lambda: len(worker._queue) == 6)
        gate.opened.set()
        for image, answer in zip(images, [first, *others], strict=True):
            assert answer.result().json()["outputs"][0]["data"] == classifier.logits(image).ravel().tolist()
        assert sum(engine.batches) == 10
        assert max(engine.batches) <= 4
        assert (len(engine.batches) < 7) is together
        assert metric(client, "nv_inference_count") == 10
        assert metric(client, "nv_inference_exec_count") == len(engine.batches)


def test_a_deadline_ends_the_wait(classifier, gate):
    model, engine = wrapped(classifier, before=gate, name="overlay")
    with client_of({"cifar10": model}, Settings(deadline=0.2)) as client, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.post, INFER, json=BODY) for _ in range(2)]
        for answer in answers:
            assert answer.result().status_code == 503
            assert "deadline" in answer.result().json()["error"]
        gate.opened.set()
        until(lambda: metric(client, "fracbnn_queue_depth") == 0)
        assert metric(client, "fracbnn_deadline_exceeded") == 2
        assert client.post(INFER, json=BODY).status_code == 200
        # The one that still waited was not computed.
        assert sum(engine.batches) == 2


def test_the_work_of_a_client_that_left_is_dropped(classifier, gate):
    model, engine = wrapped(classifier, before=gate)
    with client_of({"cifar10": model}) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, INFER, json=BODY)
        assert gate.reached.wait(5)
        with socket.create_connection(("127.0.0.1", client.server.port)) as leaving:
            body, headers = infer_body(random_images(1), binary=True)
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            leaving.sendall(head.encode() + b"\r\n" + body)
            until(lambda: client.server.inference.workers["cifar10"].admitted == 2)
        until(lambda: client.server.inference.workers["cifar10"].admitted == 1)
        gate.opened.set()
        assert first.result().status_code == 200
        assert client.post(INFER, json=BODY).status_code == 200
        assert metric(client, "fracbnn_client_gone") == 1
        assert sum(engine.batches) == 2


class Failing:
    """Raises on the calls it is told to."""

    def __init__(self, *calls):
        self.calls = calls
        self.count = 0

    def __call__(self):
        self.count += 1
        if self.count in self.calls:
            raise AcceleratorError("the core did not finish")


def test_a_fault_fails_one_request_and_the_engine_is_reloaded(classifier):
    model, engine = wrapped(classifier, ReloadableEngine, before=Failing(2), name="overlay")
    with client_of({"cifar10": model}) as client:
        assert client.post(INFER, json=BODY).status_code == 200
        failed = client.post(INFER, json=BODY)
        assert failed.status_code == 503
        assert "did not finish" in failed.json()["error"]
        assert client.get("/health/live").status_code == 200
        until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post(INFER, json=BODY).status_code == 200
        assert engine.reloads == 1
        assert metric(client, "fracbnn_engine_faults") == 1
        assert metric(client, "fracbnn_engine_reloads") == 1


def test_while_reloading_fails_the_model_is_not_ready(classifier):
    model, engine = wrapped(classifier, ReloadableEngine, before=Failing(1), name="overlay")
    engine.reload_failures = 2
    with client_of({"cifar10": model}) as client:
        assert client.post(INFER, json=BODY).status_code == 503
        for path in ("/health/ready", "/v2/health/ready", "/v2/models/cifar10/ready"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json()["ready"] is False
            assert answer.json()["error"]
        refused = client.post(INFER, json=BODY)
        assert refused.status_code == 503
        assert "recovering" in refused.json()["error"]
        assert client.get("/v2/health/live").status_code == 200
        until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post(INFER, json=BODY).status_code == 200
        assert metric(client, "fracbnn_engine_reloads_failed") == 2


class FailingGate(Gate):
    """Fails the first call once it is opened."""

    def __call__(self):
        first = not self.reached.is_set()
        super().__call__()
        if first:
            raise AcceleratorError("the core did not finish")


@pytest.mark.parametrize("reload_failures", [0, 1])
def test_what_waits_is_computed_after_a_reload_unless_that_fails(classifier, reload_failures):
    gate = FailingGate()
    model, engine = wrapped(classifier, ReloadableEngine, before=gate, name="overlay")
    engine.reload_failures = reload_failures
    with client_of({"cifar10": model}) as client, ThreadPoolExecutor(4) as pool:
        try:
            first = pool.submit(client.post, INFER, json=BODY)
            assert gate.reached.wait(5)
            waiting = [pool.submit(client.post, INFER, json=infer_body(random_images(1, seed=i))) for i in range(3)]
            until(lambda: len(client.server.inference.workers["cifar10"]._queue) == 3)
        finally:
            gate.opened.set()
        assert first.result().status_code == 503
        for i, answer in enumerate(waiting):
            if reload_failures:
                assert answer.result().status_code == 503
                assert "recovering" in answer.result().json()["error"]
            else:
                expected = classifier.logits(random_images(1, seed=i)).ravel().tolist()
                assert answer.result().json()["outputs"][0]["data"] == expected


class RecordingEngine(ReloadableEngine):
    """Records the pause before each reload."""

    def reload(self):
        self.pauses.append(self.worker._pause())


def test_the_pauses_between_reloads_grow_until_something_is_computed(classifier):
    calls = Failing(1, 2, 3, 5)
    model, engine = wrapped(classifier, RecordingEngine, before=calls, name="overlay")
    with client_of({"cifar10": model}) as client:
        engine.worker, engine.pauses = client.server.inference.workers["cifar10"], []
        for _ in range(5):
            client.post(INFER, json=BODY)
            until(lambda: client.get("/health/ready").status_code == 200)
        assert calls.count == 5
    assert engine.pauses == [0, 0.25, 0.5, 0]
    for tried, expected in [(0, 0), (1, 0.25), (2, 0.5), (3, 1), (4, 2), (5, 4), (6, 5), (7, 5), (100_000, 5)]:
        engine.worker._reloads_tried = tried
        assert engine.worker._pause() == expected


def test_an_engine_that_cannot_be_reloaded_stays_ready(classifier):
    model, _ = wrapped(classifier, before=Failing(1))
    with client_of({"cifar10": model}) as client:
        assert client.post(INFER, json=BODY).status_code == 503
        assert client.get("/health/ready").status_code == 200
        assert client.post(INFER, json=BODY).status_code == 200


def test_a_shutdown_finishes_what_is_in_flight(classifier, gate):
    model, _ = wrapped(classifier, before=gate)
    with client_of({"cifar10": model}, Settings(drain=0.3)) as client, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(client.post, INFER, json=BODY)
        assert gate.reached.wait(5)
        client.server.handle_exit(15, None)
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        until(lambda: client.server.should_exit)
        gate.opened.set()
        assert inside.result().status_code == 200


def test_a_shutdown_ends_within_its_grace_although_the_engine_hangs(classifier, gate):
    model, _ = wrapped(classifier, before=gate)
    with client_of({"cifar10": model}, Settings(grace=1.0)) as client, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(client.post, INFER, json=BODY)
        assert gate.reached.wait(5)
        start = time.monotonic()
        client.server.handle_exit(15, None)
        failure = inside.exception(10)
        answer = None if failure else inside.result()
        assert isinstance(failure, httpx.TransportError) or answer.status_code in (500, 503)
        until(lambda: not client.server.inference.workers["cifar10"].ready)
        assert time.monotonic() - start < 6


def test_a_slow_body_is_ended(classifier):
    with client_of({"cifar10": classifier}, Settings(body_timeout=0.2)) as client:
        with socket.create_connection(("127.0.0.1", client.server.port), timeout=5) as slow:
            slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
            answer = b"".join(iter(lambda: slow.recv(4096), b""))  # the service closes the connection
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"error"' in answer
        assert client.server.inference.http.by_status[408] == 1


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * (1 << 20), b"".join(b"A%d: b\r\n" % i for i in range(50_000))])
def test_endless_headers_are_cut_off(classifier, head):
    with client_of({"cifar10": classifier}) as client:
        with socket.create_connection(("127.0.0.1", client.server.port), timeout=5) as flood:
            flood.sendall(b"GET /v2 HTTP/1.1\r\n")
            with contextlib.suppress(OSError):
                flood.sendall(head)
            try:
                answer = flood.recv(100)
            except ConnectionError:
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 200")
        assert client.get("/v2").status_code == 200


def test_heads_that_never_end_are_cut_off(classifier, monkeypatch):
    protocol = pytest.importorskip("fracbnn_pynq.service.protocol")
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    with client_of({"cifar10": classifier}) as client:
        for sent in (b"", b"GET /v2 HTTP/1.1\r\nX-A: "):
            with socket.create_connection(("127.0.0.1", client.server.port), timeout=5) as slow:
                slow.sendall(sent)
                answer = b"".join(iter(lambda: slow.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 408 ") is bool(sent)
            assert (b'"error"' in answer) is bool(sent)
        assert [client.get("/v2").status_code for _ in range(3)] == [200] * 3
        time.sleep(0.3)
        assert client.get("/v2").status_code == 200


def test_slow_bodies_give_way_to_those_that_come_at_once(classifier, cat):
    with client_of({"cifar10": classifier}, Settings(max_body=200_000, max_held=200_000)) as client:
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000\r\n\r\n"
        waiting = [socket.create_connection(("127.0.0.1", client.server.port), timeout=5) for _ in range(8)]
        try:
            for connection in waiting:
                connection.sendall(head + b"x" * 39_999)
            assert client.post("/v1/classify", content=cat.read_bytes()).status_code == 200
            answers = [waiting[i].recv(4096) for i in range(3)]  # the oldest ones
            assert all(answer.startswith(b"HTTP/1.1 503 ") and b"slowly" in answer for answer in answers)
            waiting[-1].sendall(b"x")
            assert waiting[-1].recv(4096).startswith(b"HTTP/1.1 422 ")
        finally:
            for connection in waiting:
                connection.close()


def test_bodies_that_are_worked_on_are_limited(classifier, gate):
    model, _ = wrapped(classifier, before=gate)
    body, headers = infer_body(random_images(16), binary=True)
    settings = Settings(max_body=60_000, max_held=60_000)
    with client_of({"cifar10": model}, settings) as client, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(client.post, INFER, content=body, headers=headers)
        assert gate.reached.wait(5)
        refused = client.post(INFER, content=body, headers=headers)
        assert (refused.status_code, "at once" in refused.json()["error"]) == (503, True)
        gate.opened.set()
        assert inside.result().status_code == 200
        assert client.post(INFER, content=body, headers=headers).status_code == 200


def test_a_mix_of_right_and_wrong_requests_keeps_right_answers_right(classifier, cat):
    images = [random_images(1 + i % 5, seed=i) for i in range(10)]
    expected = [classifier.logits(image) for image in images]

    def right(client, i):
        body, headers = infer_body(images[i % 10], binary=True, outputs=[OUTPUT])
        answer = client.post(INFER, content=body, headers=headers)
        length = int(answer.headers["Inference-Header-Content-Length"])
        values = np.frombuffer(answer.content[length:], "<f4").reshape(-1, 10)
        return np.array_equal(values, expected[i % 10])

    def wrong(client, i):
        body, headers = infer_body(images[i % 10], binary=True)
        bad = [
            lambda: client.post(INFER, content=body[:-1], headers=headers),
            lambda: client.post(INFER, content=b"{" * (i + 1)),
            lambda: client.post("/v1/classify", content=cat.read_bytes()[: 100 * i]),
            lambda: client.post("/v1/classify", content=b"x" * 70_000),
        ][i % 4]()
        return bad.status_code in (400, 413, 422)

    with client_of({"cifar10": classifier}, Settings(max_body=1 << 16)) as client, ThreadPoolExecutor(8) as pool:
        results = [pool.submit(wrong if i % 3 == 0 else right, client, i) for i in range(300)]
        assert all(result.result() for result in results)
        assert client.server.inference.http.by_status[500] == 0
        until(lambda: metric(client, "fracbnn_queue_depth") == 0)


OUTPUT = {"name": "logits", "parameters": {"binary_data": True}}
