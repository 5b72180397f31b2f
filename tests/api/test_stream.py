"""`job.wait()` and `job.stream()`: a job followed to its end, by a process that may not be the one that runs it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from psyqueue import Context, InvalidOption, JobNotFound, ResultTimeout


async def test_a_job_is_followed_from_its_enqueue_over_its_progress_to_its_end(q):
    go_on, halfway = asyncio.Event(), asyncio.Event()

    @q.handle("copy", queue="files")
    async def copy(ctx: Context) -> str:
        ctx.progress(50)
        await go_on.wait()
        return "copied"

    seen: list[Any] = []
    async with q:
        job = await copy.enqueue()
        async with asyncio.timeout(20):
            async for view in job.stream(every="5ms"):
                seen.append((view.status, view.progress))
                if view.status == "pending":
                    q.start_worker("files")
                if view.progress == 50:
                    halfway.set()
                    go_on.set()
    assert halfway.is_set()
    assert seen[0] == ("pending", None)
    assert ("active", 50) in seen
    assert seen[-1] == ("completed", 50)
    assert len(set(seen)) == len(seen), "each change once"


async def test_every_attempt_is_seen_and_a_dead_job_ends_the_stream(q):
    @q.handle("fail", queue="work", max_retries=1, backoff="fixed", backoff_base=0)
    async def fail() -> None:
        raise LookupError

    seen = []
    async with q:
        job = await fail.enqueue()
        async for view in job.stream(every="5ms"):
            seen.append((view.status, view.attempt))
            if view.status in ("pending", "scheduled"):
                while not await q.process_next("work"):
                    await asyncio.sleep(0)
    assert seen[0] == ("pending", 0)
    assert seen[-1] == ("dead", 2)
    assert view.errors[-1]["type"] == "LookupError"


async def test_a_stream_of_a_job_that_has_ended_gives_its_end_alone(q):
    @q.handle("h", queue="work")
    async def handler() -> int:
        return 1

    async with q:
        job = await handler.enqueue()
        assert await q.process_next("work")
        assert [view.result async for view in job.stream()] == [1]
        assert (await job.wait(timeout=0)).result == 1


async def test_the_end_wakes_a_stream_before_its_next_look(q):
    """It looks once an hour only; no time is measured: the limit of the test would be over long before."""

    @q.handle("h", queue="work")
    async def handler() -> int:
        return 1

    async with q, asyncio.timeout(20):
        job = await handler.enqueue()
        statuses = []
        async for view in job.stream(every="1h"):
            statuses.append(view.status)
            if view.status == "pending":
                q.start_worker("work")
    assert (statuses[0], statuses[-1]) == ("pending", "completed")


async def test_waiting_ends_with_the_job_however_it_ends(q):
    async with q:
        job = await q.enqueue("nobody", delay="1h")
        with pytest.raises(ResultTimeout):
            await job.wait(timeout="1ms")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        assert await job.cancel()
        assert (await asyncio.wait_for(waiting, 20)).status == "cancelled"


async def test_a_job_that_does_not_exist_cannot_be_followed(q):
    async with q:
        nothing = q.handle_of("nothing")
        with pytest.raises(JobNotFound):
            await nothing.wait()
        with pytest.raises(JobNotFound):
            await anext(nothing.stream())
        with pytest.raises(InvalidOption, match="every"):
            await anext(nothing.stream(every=0))


def test_a_program_without_asyncio_follows_a_job(q):
    go_on = threading.Event()

    @q.handle("copy", queue="files")
    def copy(ctx: Context) -> str:
        ctx.progress("half")
        assert go_on.wait(20)
        return "copied"

    with q.sync as sync:
        job = copy.sync.enqueue()
        seen = []
        for view in job.stream(every="5ms"):
            seen.append(view.status)
            if view.status == "pending":
                sync.start_worker("files")
            if view.progress == "half":
                go_on.set()
        assert (seen[0], seen[-1]) == ("pending", "completed")
        for _ in job.stream():
            break  # an early end closes it
        assert job.wait(timeout="20s").result == "copied"
