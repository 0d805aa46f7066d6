"""Viewers without a network: slots, places, and how attending to one ends."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from fracbnn_pynq.service import broadcast
from fracbnn_pynq.service.broadcast import Subscriber, Subscribers, Update, send_updates
from fracbnn_pynq.service.camera_session import RATE_OVER_S, Rate
from fracbnn_pynq.service.errors import ServiceError
from hypothesis import given
from hypothesis import strategies as st


def update(number):
    return Update({"number": number})


def test_a_slot_has_the_newest():
    async def run():
        viewer = Subscriber(None)
        assert await viewer.take(0.01) is None
        for number in range(5):
            viewer.offer(update(number))
        assert (await viewer.take(0.01), viewer.dropped) == (update(4), 4)
        assert await viewer.take(0.01) is None
        waiting = asyncio.ensure_future(viewer.take(5))
        await asyncio.sleep(0.01)
        viewer.offer(update(5))
        assert (await waiting, viewer.dropped) == (update(5), 4)

    asyncio.run(run())


def test_an_audience_has_places_and_knows_what_is_wanted():
    async def run():
        subscribers = Subscribers(2)
        first, second = Subscriber("plain"), Subscriber(None)
        subscribers.add(first)
        subscribers.add(second)
        assert subscribers.wanted == {"plain", None}
        with pytest.raises(ServiceError, match="2 viewers") as caught:
            subscribers.add(Subscriber("marked"))
        assert caught.value.status == 503
        for number in range(3):
            subscribers.tell(update(number))
        assert subscribers.dropped == 4
        subscribers.remove(first)
        subscribers.remove(first)
        assert (len(subscribers), subscribers.wanted, subscribers.dropped) == (1, {None}, 4)
        assert await second.take(0.01) == update(2)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("how", "there"), [("ended", True), ("left", False), ("stalled", False), ("broken", False), ("gone broken", False)]
)
def test_attending_ends(monkeypatch, how, there):
    monkeypatch.setattr(broadcast, "STALLED_S", 0.05)
    monkeypatch.setattr(broadcast, "POLL_S", 0.02)

    async def run():
        viewer, sent, end = Subscriber(None), [], asyncio.Event()

        async def send(what):
            sent.append(what)
            if how == "stalled":
                await asyncio.sleep(10)
            if how == "broken":
                raise OSError("reset")

        async def gone():
            if how.startswith(("left", "gone")):
                await end.wait()
                if how == "gone broken":
                    raise RuntimeError("a server's own")
            else:
                await asyncio.sleep(10)

        task = asyncio.ensure_future(send_updates(viewer, send, gone(), lambda: how == "ended" and end.is_set()))
        await asyncio.sleep(0)
        viewer.offer(update(1))
        await asyncio.sleep(0.01)
        end.set()
        assert await asyncio.wait_for(task, 2) is there
        assert sent == [update(1)]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_attending_can_be_cancelled():
    async def run():
        async def never():
            await asyncio.sleep(10)

        task = asyncio.ensure_future(send_updates(Subscriber(None), lambda _: never(), never(), lambda: False))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_cancellation_that_is_swallowed_is_repeated(monkeypatch):
    monkeypatch.setattr(broadcast, "POLL_S", 0.01)

    async def run():
        async def stubborn():
            for _ in range(3):
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    continue

        async def send(_):
            raise OSError

        viewer = Subscriber(None)
        viewer.offer(update(1))
        assert await asyncio.wait_for(send_updates(viewer, send, stubborn(), lambda: False), 2) is False
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


@given(st.integers(1, 100), st.floats(0.01, 1.0), st.integers(2, 50))
def test_a_rate_is_that_of_the_last_seconds(per_step, step, steps):
    rate = Rate()
    assert rate.value == 0
    for number in range(steps):
        rate.note(number * step, number * per_step)
    assert rate.value == pytest.approx(per_step / step)
    assert len(rate._seen) <= RATE_OVER_S / step + 2
    rate.note(steps * step + 10, steps * per_step)
    assert rate.value == 0
