"""Process middleware stands around the handler itself: before, after, and in whatever way it ends."""

from __future__ import annotations

import asyncio

import pytest

from psyqueue import Cancel, DeadLetter, Rejected, Retry
from worker import process_handlers as elsewhere


async def wrapped(built, *middleware):
    for fn in middleware:
        built.q.pipeline("process", fn)
    await built.q.start()
    return built


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_middleware_surrounds_the_handler_in_every_mode(built, kind):
    log = []

    async def around(ctx, call_next):
        log.append(f"before {ctx.job.id}")
        result = await call_next()
        log.append(f"after {result}")

    rig = await wrapped(built, around)
    if kind == "async":

        @rig.q.handle("h", queue="q")
        async def on_the_loop(a: int, b: int):
            log.append("handler")
            return a + b
    elif kind == "thread":

        @rig.q.handle("h", queue="q")
        def in_a_thread(a: int, b: int):
            log.append("handler")
            return a + b
    else:
        rig.q.handle("h", elsewhere.add, queue="q", mode="process")
        log.append("")
    rig.worker()
    job = await rig.q.enqueue("h", {"a": 1, "b": 2})
    assert await job.result(20) == 3
    await rig.q.stop(grace=0)
    expected = [f"before {job.id}", "handler", "after 3"]
    assert [line for line in log if line] == [line for line in expected if kind != "process" or line != "handler"]


async def test_middleware_sees_the_handlers_error_and_its_own_clean_up_runs(built):
    log = []

    async def around(ctx, call_next):
        try:
            await call_next()
        except ValueError as exc:
            log.append(f"error {exc}")
            raise
        finally:
            log.append("finally")

    rig = await wrapped(built, around)

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        raise ValueError("no")

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert log == ["error no", "finally"]
    await rig.q.stop(grace=0)


async def test_middleware_may_turn_an_error_into_a_result_or_a_verdict(built):
    async def around(ctx, call_next):
        try:
            return await call_next()
        except KeyError:
            return "mended"
        except OSError:
            raise Cancel("given up") from None

    rig = await wrapped(built, around)

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        raise [KeyError, OSError][n]("x")

    rig.worker()
    jobs = [await handler.enqueue(n) for n in range(2)]
    assert await rig.ended(*jobs) == ["completed", "cancelled"]
    assert (await rig.view(jobs[0])).result == "mended"
    await rig.q.stop(grace=0)


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        (lambda: Rejected("not you"), "dead", "rejected: not you"),
        (lambda: DeadLetter("bad"), "dead", "bad"),
        (lambda: Cancel("later never"), "cancelled", "later never"),
    ],
    ids=["rejected", "dead", "cancel"],
)
async def test_middleware_can_refuse_a_run_before_the_handler(built, how, status, reason):
    runs = []

    async def guard(ctx, call_next):
        raise how()

    rig = await wrapped(built, guard)

    @rig.q.handle("h", queue="q")
    async def handler():
        runs.append(1)

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == [status]
    assert ((await rig.view(job)).reason, runs) == (reason, [])
    await rig.q.stop(grace=0)


async def test_middleware_that_forgets_the_handler_fails_the_run(built):
    async def forgetful(ctx, call_next):
        return "as if"

    rig = await wrapped(built, forgetful)

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(): ...

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert "call_next" in (await rig.view(job)).errors[0]["message"]
    await rig.q.stop(grace=0)


@pytest.mark.parametrize("kind", ["async", "process"])
async def test_middleware_changes_the_payload_that_the_handler_sees(built, kind):
    async def double(ctx, call_next):
        ctx.job.payload = {name: 2 * value for name, value in ctx.job.payload.items()}
        await call_next()

    rig = await wrapped(built, double)
    if kind == "async":

        @rig.q.handle("h", queue="q")
        async def handler(a: int, b: int):
            return a + b
    else:
        rig.q.handle("h", elsewhere.add, queue="q", mode="process")
    rig.worker()
    assert await (await rig.q.enqueue("h", {"a": 1, "b": 2})).result(20) == 6
    await rig.q.stop(grace=0)


async def test_middleware_may_run_a_failed_handler_no_second_time_by_itself(built):
    async def again(ctx, call_next):
        try:
            await call_next()
        except ValueError:
            await call_next()

    rig = await wrapped(built, again)
    runs = []

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        runs.append(1)
        raise ValueError

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert runs == [1]
    await rig.q.stop(grace=0)


async def test_follow_ups_of_middleware_commit_with_the_run(built):
    async def audit(ctx, call_next):
        await call_next()
        ctx.enqueue("audit", {"of": ctx.job.id}, queue="later")

    rig = await wrapped(built, audit)

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ok: bool):
        assert ok

    rig.worker()
    jobs = [await handler.enqueue(ok) for ok in (True, False)]
    assert await rig.ended(*jobs) == ["completed", "dead"]
    assert (await rig.statuses("later"))["pending"] == 1
    await rig.q.stop(grace=0)


async def test_middleware_hears_of_the_cancel_of_its_handler(built):
    log = []

    async def around(ctx, call_next):
        try:
            await call_next()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    rig = await wrapped(built, around)

    @rig.q.handle("h", queue="q", timeout=0.02, max_retries=0)
    async def handler():
        await asyncio.Event().wait()

    rig.worker()
    assert await rig.ended(await handler.enqueue()) == ["dead"]
    assert log == ["cancelled"]
    await rig.q.stop(grace=0)


async def test_verdict_of_middleware_after_the_handler_counts(built):
    async def not_good_enough(ctx, call_next):
        if await call_next() == "poor":
            return Retry(after=3_600)
        return None

    rig = await wrapped(built, not_good_enough)

    @rig.q.handle("h", queue="q")
    async def handler(text: str):
        return text

    rig.worker()
    jobs = [await handler.enqueue(text) for text in ("poor", "good")]
    assert await jobs[1].result(20) == "good"
    await rig.told.first("job:retry", jobs[0].id)
    await rig.q.stop(grace=0)
