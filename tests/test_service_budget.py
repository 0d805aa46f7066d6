"""What decoding may take: pixels at once, pixels of a request, and nothing for those who have left."""

from __future__ import annotations

import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service import media
from fracbnn_pynq.service.budget import SMALL, PixelBudget
from fracbnn_pynq.service.decoders import Decoders
from fracbnn_pynq.service.errors import ServiceError
from fracbnn_pynq.service.media import PictureReader
from fracbnn_pynq.service.settings import Settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile
from service_support import client_of, metric, wrapped
from waiting_support import until

from fracbnn_pynq.networks import CIFAR10


def picture(width, height=1000):
    buffer = io.BytesIO()
    Image.new("L", (width, height), 7).save(buffer, "PNG")
    return buffer.getvalue()


def fine():
    """A check that nothing is wrong."""


def test_small_pictures_do_not_wait():
    budget = PixelBudget(SMALL)
    assert budget.take(5 * SMALL, fine) == SMALL  # alone, however large
    assert budget.take(SMALL, fine) == 0
    budget.give_back(SMALL)
    assert budget.taken == 0


def test_those_who_wait_come_in_their_order():
    budget = PixelBudget(4 * SMALL)
    order = []

    def take(number, pixels):
        taken = budget.take(pixels, fine)
        order.append(number)
        budget.give_back(taken)

    held = budget.take(4 * SMALL, fine)
    threads = []
    for number, pixels in enumerate([4 * SMALL, 2 * SMALL, 3 * SMALL]):
        threads.append(threading.Thread(target=take, args=(number, pixels)))
        threads[-1].start()
        until(lambda count=number + 1: len(budget._waiting) == count)
    budget.give_back(held)
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2]
    assert budget.taken == 0


def test_waiting_ends_when_it_is_in_vain():
    budget = PixelBudget(2 * SMALL)
    budget.take(2 * SMALL, fine)
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 2:
            raise ServiceError(499, "gone")

    with pytest.raises(ServiceError, match="gone"):
        budget.take(2 * SMALL, check)
    assert not budget._waiting


@given(st.lists(st.integers(0, 9 * SMALL), max_size=30))
def test_what_is_taken_is_given_back(sizes):
    budget = PixelBudget(3 * SMALL)
    for size in sizes:
        taken = budget.take(size, fine)
        assert budget.taken <= budget.limit
        budget.give_back(taken)
    assert budget.taken == 0


def test_another_thread_works_while_one_waits():
    decoders = Decoders(1)
    budget = PixelBudget(2 * SMALL)
    budget.while_waiting = decoders.spare
    held = budget.take(2 * SMALL, fine)
    done = threading.Event()
    decoders.submit(lambda: budget.give_back(budget.take(2 * SMALL, fine)))
    until(lambda: budget._waiting)
    decoders.submit(done.set)
    assert done.wait(5)
    budget.give_back(held)
    until(lambda: not budget._waiting and budget.taken == 0)
    again = threading.Event()
    decoders.submit(again.set)
    assert again.wait(5)
    decoders.stop()


def test_a_task_that_is_withdrawn_is_not_done():
    decoders = Decoders(1)
    begun, go_on = threading.Event(), threading.Event()
    running = decoders.submit(lambda: (begun.set(), go_on.wait(5)))
    assert begun.wait(5)
    called = []
    waiting = decoders.submit(called.append, 1)
    assert decoders.withdraw(waiting)
    assert not decoders.withdraw(waiting)
    assert not decoders.withdraw(running)
    decoders.submit(called.append, 2)
    go_on.set()
    until(lambda: called == [2])
    decoders.stop()


def test_the_sizes_of_all_are_looked_at_before_a_large_one_is_decoded(monkeypatch):
    decoded = []
    monkeypatch.setattr(
        media,
        "load",
        lambda data, *_, before_decoding, **__: before_decoding(Image.open(io.BytesIO(data))) or decoded.append(1),
    )
    reader = PictureReader(CIFAR10, Settings(max_request_pixels=10 * SMALL), PixelBudget(SMALL))
    large = picture(2000)
    with pytest.raises(ServiceError, match="pixels together") as refused:
        reader.read(large, others=[b"no picture", *[large] * 5])
    assert refused.value.status == 413
    assert not decoded


def test_weights_of_modes_are_counted():
    budget = PixelBudget(100 * SMALL)
    seen = []
    take = budget.take
    budget.take = lambda pixels, check: seen.append(pixels) or take(pixels, check)
    for mode, weight in (("L", 1), ("F", 3), ("I", 3)):
        buffer = io.BytesIO()
        Image.new(mode, (50, 40)).save(buffer, "TIFF")
        PictureReader(CIFAR10, Settings(), budget).read(buffer.getvalue())
        assert seen.pop() == 2000 * weight
    assert budget.taken == 0


class Slow:
    """Decodes as slowly as it is told to."""

    def __init__(self):
        self.count = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, data, network, **_):
        self.count += 1
        self.begun.set()
        assert self.go_on.wait(20)
        return np.zeros((network.image_size, network.image_size, 3), np.uint8)


@pytest.fixture
def slow(monkeypatch):
    made = Slow()
    monkeypatch.setattr(media, "load", made)
    yield made
    made.go_on.set()


def leave(client, count, path="/v1/classify", content=b"x" * 100_000, kind="image/png"):
    """Send so many requests and go away once they are admitted."""
    worker = client.server.inference.workers["cifar10"]
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    leavers = [socket.create_connection(("127.0.0.1", client.server.port)) for _ in range(count)]
    for leaver in leavers:
        leaver.sendall(head.encode() + content)
    until(lambda: worker.admitted == count)
    time.sleep(0.1)  # then it is watched whether they are still there
    for leaver in leavers:
        leaver.close()
    return worker


def test_those_who_leave_keep_no_place_and_no_memory_but_for_what_is_begun(classifier, slow):
    with client_of({"cifar10": classifier}, Settings(decoders=2)) as client:
        worker = leave(client, 20)
        until(lambda: worker.admitted == 2)  # those that two threads have begun
        assert metric(client, "fracbnn_queue_depth") == 2
        assert metric(client, "fracbnn_client_gone") == 20
        slow.go_on.set()
        until(lambda: worker.admitted == 0)
        assert slow.count == 2
        assert client.post("/v1/classify", content=b"x").status_code == 200


def test_a_batch_of_one_who_leaves_is_left_off(classifier, slow):
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n'
    with client_of({"cifar10": classifier}) as client:
        worker = leave(client, 1, "/v1/classify/batch", part * 50 + b"--b--", "multipart/form-data; boundary=b")
        until(lambda: metric(client, "fracbnn_client_gone") == 1)
        assert worker.admitted == 1
        slow.go_on.set()
        until(lambda: worker.admitted == 0)
        assert slow.count == 1


def test_a_batch_is_left_off_at_its_deadline(classifier, slow):
    files = [("f", ("a", b"x"))] * 50
    with client_of({"cifar10": classifier}, Settings(deadline=0.2)) as client:
        assert client.post("/v1/classify/batch", files=files).status_code == 503
        slow.go_on.set()
        until(lambda: client.server.inference.workers["cifar10"].admitted == 0)
        assert slow.count == 1


def test_those_who_leave_while_the_engine_computes_keep_their_place_until_it_has(classifier):
    opened = threading.Event()
    model, engine = wrapped(classifier, before=lambda: opened.wait(20))
    with client_of({"cifar10": model}) as client, ThreadPoolExecutor(1) as pool:
        try:
            worker = leave(client, 1, content=picture(40, 40))
            until(lambda: metric(client, "fracbnn_client_gone") == 1)
            assert worker.admitted == 1
            after = pool.submit(client.post, "/v1/classify", content=picture(40, 40))
        finally:
            opened.set()
        assert after.result().status_code == 200
        until(lambda: worker.admitted == 0)
        assert sum(engine.batches) == 2


def test_large_pictures_are_decoded_one_after_the_other_and_small_ones_pass(classifier):
    settings = Settings(decode_pixels=2_000_000, decoders=2)
    with client_of({"cifar10": classifier}, settings) as client, ThreadPoolExecutor(4) as pool:
        budget = client.server.inference.budget
        held = budget.take(2_000_000, fine)
        large = [pool.submit(client.post, "/v1/classify", content=picture(2000)) for _ in range(3)]
        until(lambda: len(budget._waiting) == 3)
        assert client.post("/v1/classify", content=picture(40, 40)).status_code == 200
        budget.give_back(held)
        assert [answer.result().status_code for answer in large] == [200] * 3
        assert budget.taken == 0


def test_waiting_for_memory_ends_at_the_deadline(classifier):
    with client_of({"cifar10": classifier}, Settings(decode_pixels=2_000_000, deadline=0.3)) as client:
        budget = client.server.inference.budget
        held = budget.take(2_000_000, fine)
        assert client.post("/v1/classify", content=picture(2000)).status_code == 503
        until(lambda: not budget._waiting and client.server.inference.workers["cifar10"].admitted == 0)
        budget.give_back(held)
        assert client.post("/v1/classify", content=picture(2000)).status_code == 200


def test_too_little_memory_is_no_fault_of_the_picture(classifier, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    small = picture(40, 40)
    with client_of({"cifar10": classifier}) as client:
        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        answer = client.post("/v1/classify", content=small)
        assert (answer.status_code, "memory" in answer.json()["error"]) == (503, True)
