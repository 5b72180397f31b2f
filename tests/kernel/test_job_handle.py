"""What a caller can do with a job it holds: wait for it, look at it, cancel it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from psyqueue import JobCancelled, JobDead, JobNotFound, ResultTimeout, StoreUnavailable
from support.kernel import FakeClock, Heard, build, next_turn


class Receipt(msgspec.Struct):
    id: str


async def receipt(n: int) -> Receipt:
    return Receipt(str(n))


async def fails():
    raise ValueError("never")


async def test_result_of_a_job_that_ended_before_is_there_at_once(started):
    """D-25: no event is needed for what is over."""
    handle = await started.handle("r", receipt).enqueue(7)
    assert await started.process_next("r")
    assert await handle.result(timeout=0) == Receipt("7")


async def test_result_comes_as_soon_as_the_job_ends(started, probe):
    handle = await started.handle("r", receipt).enqueue(7)
    waiting = asyncio.ensure_future(handle.result())
    while not probe.store.count("wait"):
        await next_turn()
    assert not waiting.done()
    await started.process_next("r")
    assert await asyncio.wait_for(waiting, 5) == Receipt("7")


async def test_handle_made_of_an_id_gives_the_same_result_where_the_handler_is_known(started):
    handle = await started.handle("r", receipt).enqueue(7)
    await started.process_next("r")
    assert await started.handle_of(handle.id).result() == await handle.result()
    assert started.handle_of(handle) == handle
    assert len({started.handle_of(handle.id), handle}) == 1


async def test_result_of_a_dead_job_raises_with_its_last_error(started):
    handle = await started.handle("f", fails, max_retries=0).enqueue()
    await started.process_next("f")
    with pytest.raises(JobDead, match="never") as caught:
        await handle.result()
    assert caught.value.reason == "exhausted"
    assert caught.value.error is not None
    assert caught.value.error["type"] == "ValueError"


async def test_result_of_a_cancelled_job_raises(started):
    handle = await started.enqueue("x")
    assert await handle.cancel()
    with pytest.raises(JobCancelled, match="cancelled by request"):
        await handle.result()


async def test_unknown_job_is_not_found(started):
    handle = started.handle_of("nobody")
    for use in (
        handle.result(),
        handle.refresh(),
        handle.cancel(),
        started.cancel("nobody"),
        started.explain("nobody"),
    ):
        with pytest.raises(JobNotFound, match="nobody"):
            await use
    assert await started.get("nobody") is None


async def test_timeout_names_the_status_and_is_a_timeout_error(started):
    handle = await started.enqueue("x")
    with pytest.raises(ResultTimeout, match=r"still pending after 20 ms; q\.explain") as caught:
        await handle.result(timeout="20ms")
    assert isinstance(caught.value, TimeoutError)


async def test_signal_that_got_lost_only_delays_the_result():
    """The store is looked at again after a second, whatever its signals say."""
    clock = FakeClock()
    q, probe = build(clock=clock)
    async with q:
        handle = await q.handle("r", receipt).enqueue(7)

        async def lost(queues, job_ids, timeout_ms):
            if probe.store.count("wait") == 2:
                await q.process_next("r")
            raise StoreUnavailable("signal line is down")

        probe.store.before["wait"] = lost
        assert await asyncio.wait_for(handle.result(), 5) == Receipt("7")
        assert clock.slept.count(1000) >= 1


def away(probe, looks):
    """The store cannot be asked for a job, as often as that."""
    left = iter(range(looks))

    async def refuse(ids):
        if next(left, None) is not None:
            raise StoreUnavailable("restarting", outcome="refused")

    probe.store.before["get"] = refuse


async def test_a_store_that_restarts_only_delays_the_result():
    clock = FakeClock()
    q, probe = build(clock=clock)
    async with q:
        handle = await q.handle("r", receipt).enqueue(7)
        await q.process_next("r")
        away(probe, 3)
        assert await handle.result() == Receipt("7")
        away(probe, 3)
        assert [view.result async for view in handle.stream()] == [{"id": "7"}]
        assert clock.slept.count(1000) == 6


@pytest.mark.parametrize(("timeout", "lasted_ms"), [(None, 10_000), ("3s", 3_000), (0, 0)])
async def test_a_store_that_stays_away_is_told_after_ten_seconds_or_at_the_timeout(timeout, lasted_ms):
    clock = FakeClock()
    q, probe = build(clock=clock)
    async with q:
        handle = await q.enqueue("x")
        away(probe, 1_000)
        began_ms = clock.mono_ms()
        with pytest.raises(StoreUnavailable, match="restarting"):
            await handle.result(timeout)
        assert clock.mono_ms() - began_ms == lasted_ms
        probe.store.before.clear()


async def test_cancel_of_an_ended_job_is_false(started):
    handle = await started.handle("r", receipt).enqueue(7)
    await started.process_next("r")
    assert await handle.cancel() is False
    assert (await handle.refresh()).status == "completed"


async def test_cancel_is_told_for_a_job_that_had_not_started(q):
    heard = Heard(q.events, "job:cancelled")
    async with q:
        handle = await q.enqueue("x", queue="mail")
        await handle.cancel()
        await handle.cancel()
    assert heard.events == [
        ("job:cancelled", {"job_id": handle.id, "queue": "mail", "name": "x", "reason": "cancelled by request"})
    ]


async def test_running_job_is_asked_to_cancel_and_told_by_its_worker(q):
    heard = Heard(q.events, "job:cancelled")
    running = asyncio.Event()

    async def endless():
        running.set()
        await asyncio.Event().wait()

    async with q:
        handler = q.handle("e", endless)
        q.start_worker("e", lease="1s")
        handle = await handler.enqueue()
        await asyncio.wait_for(running.wait(), 5)
        assert await handle.cancel()
        assert heard.events == []
        with pytest.raises(JobCancelled):
            await handle.result(timeout=30)
    assert len(heard.events) == 1
