"""Follow-ups, progress and events: what a run leaves besides its result, and when."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest

from psyqueue import Rejected, Snooze
from psyqueue.events import EVENTS
from worker import process_handlers as elsewhere
from worker.rig import LIMIT_S, Rig, soon, turns, until


async def progress_of(rig: Rig, job) -> bytes | None:
    (item,) = await rig.store.read_state([f"progress:{job.id}"])
    return None if item is None else item.value


async def follow_ups(rig: Rig, queue: str = "later") -> list:
    from psyqueue.backend import Filter

    return list((await rig.store.list_jobs(Filter(queues=(queue,)), None, 500)).jobs)


# ── follow-ups ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_what_goes_on_after_its_run_leaves_nothing_with_the_next(rig, kind):
    """It would be lost in silence, or in a process be written with the end of another job."""
    if kind == "process":
        rig.q.handle("h", elsewhere.of_another_run, queue="q", mode="process")
    elif kind == "async":

        @rig.q.handle("h", queue="q")
        async def on_the_loop(ctx):
            return elsewhere.of_another_run(ctx)
    else:

        @rig.q.handle("h", queue="q")
        def in_a_thread(ctx):
            return elsewhere.of_another_run(ctx)

    rig.worker(concurrency=1)
    jobs = [await rig.q.enqueue("h", {}) for _ in range(2)]
    assert await rig.ended(*jobs) == ["completed"] * 2
    assert (await rig.view(jobs[1])).result == ["INVALID_STATE"]
    assert [await progress_of(rig, job) for job in jobs] == [None, None]
    assert await follow_ups(rig) == []


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
@pytest.mark.parametrize("ok", [True, False])
async def test_follow_ups_exist_if_and_only_if_the_run_succeeds(rig, kind, ok):
    if kind == "process":
        rig.q.handle("h", elsewhere.follow, queue="q", mode="process", max_retries=0)
    elif kind == "async":

        @rig.q.handle("h", queue="q", max_retries=0)
        async def on_the_loop(ctx, ok: bool):
            return elsewhere.follow(ctx, ok)
    else:

        @rig.q.handle("h", queue="q", max_retries=0)
        def in_a_thread(ctx, ok: bool):
            return elsewhere.follow(ctx, ok)

    rig.worker()
    job = await rig.q.enqueue("h", {"ok": ok})
    assert await rig.ended(job) == ["completed" if ok else "dead"]
    found = await follow_ups(rig)
    assert len(found) == ok
    if ok:
        view = found[0]
        assert (await rig.view(job)).result == view.job.id
        assert (view.job.name, view.job.payload, view.job.priority) == ("after", b'{"n":1}', 3)
        assert f'"parent_id":"{job.id}"'.encode() in view.job.cold


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize(
    ("how", "problem"), [("conn", "conn=.*: is not for ctx.enqueue"), ("two", "'after' has its payload already")]
)
async def test_follow_up_that_cannot_be_is_the_handlers_mistake_wherever_it_runs(rig, mode, how, problem):
    rig.q.handle("h", elsewhere.follow_wrongly, queue="q", mode=mode, max_retries=0)
    rig.worker()
    job = await rig.q.enqueue("h", {"how": how})
    assert await rig.ended(job) == ["dead"]
    assert re.search(problem, (await rig.view(job)).errors[-1]["message"])
    assert await follow_ups(rig) == []


async def test_follow_ups_of_a_run_that_is_put_off_are_dropped(rig):
    """Returned verdicts are no success; the enqueue middleware does not even see the follow-ups."""
    seen = []

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        ctx.enqueue("after", queue="later")
        seen.append(1)
        return Snooze(3_600)

    rig.worker()
    job = await handler.enqueue()
    await rig.told.first("job:snoozed", job.id)
    assert await follow_ups(rig) == []


async def test_follow_ups_pass_the_enqueue_middleware_which_may_change_them(built):
    async def stamp(ctx, call_next):
        for draft in ctx.jobs:
            if draft.parent_id is not None:
                draft.payload["stamped"] = True
        await call_next()

    built.q.pipeline("enqueue", stamp)

    @built.q.handle("h", queue="q")
    async def handler(ctx):
        ctx.enqueue("after", {"n": 1}, queue="later")

    async with built.q:
        built.worker()
        assert await built.ended(await handler.enqueue()) == ["completed"]
        (view,) = await follow_ups(built)
        assert view.job.payload == b'{"n":1,"stamped":true}'
        await built.q.stop(grace=0)


async def test_follow_up_that_the_middleware_rejects_fails_the_run(built):
    async def guard(ctx, call_next):
        if any(draft.name == "forbidden" for draft in ctx.jobs):
            raise Rejected("not that")
        await call_next()

    built.q.pipeline("enqueue", guard)

    @built.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx):
        ctx.enqueue("allowed", queue="later")
        ctx.enqueue("forbidden", queue="later")

    async with built.q:
        built.worker()
        job = await handler.enqueue()
        assert await built.ended(job) == ["dead"]
        assert "not that" in (await built.view(job)).errors[0]["message"]
        assert await follow_ups(built) == []
        await built.q.stop(grace=0)


async def test_follow_up_of_an_unknown_parent_fails_the_run_by_the_jobs_own_policy(still):
    @still.q.handle("h", queue="q", backoff="fixed", backoff_base=1, backoff_jitter=False)
    async def handler(ctx):
        ctx.enqueue("after", queue="later")
        ctx.enqueue("after", queue="later", depends_on="nobody")
        return "not to be seen"

    still.worker()
    job = await handler.options(backoff_base=9, max_retries=1).enqueue()
    await still.told.first("job:retry", job.id)
    view = await still.view(job)
    assert (view.run_at - view.started_at).total_seconds() == 9
    assert "unknown job" in view.errors[0]["message"]
    await still.advance(9)
    assert await still.ended(job) == ["dead"]
    assert (await still.view(job)).reason == "exhausted"
    assert await follow_ups(still) == []


async def test_one_refused_follow_up_does_not_touch_the_other_runs_of_the_call(rig):
    gate = asyncio.Event()

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx, n: int):
        await gate.wait()
        ctx.enqueue("after", {"n": n}, queue="later", **({"depends_on": "nobody"} if n == 2 else {}))

    rig.worker(concurrency=5)
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(5)])
    await rig.told.first("job:started", count=5)
    gate.set()
    assert await rig.ended(*jobs) == ["completed"] * 2 + ["dead"] + ["completed"] * 2
    assert len(await follow_ups(rig)) == 4


@pytest.mark.parametrize("kind", ["async", "process"])
async def test_follow_ups_are_bounded(rig, kind):
    from psyqueue.kernel.context import FOLLOW_UPS_MAX

    if kind == "async":

        @rig.q.handle("h", queue="q", max_retries=0)
        async def handler(ctx, count: int):
            elsewhere.many(ctx, count)
    else:
        rig.q.handle("h", elsewhere.many, queue="q", mode="process", max_retries=0)
    rig.worker()
    jobs = [await rig.q.enqueue("h", {"count": count}) for count in (FOLLOW_UPS_MAX, FOLLOW_UPS_MAX + 1)]
    assert await rig.ended(*jobs) == ["completed", "dead"]
    assert (await rig.view(jobs[1])).errors[0]["code"] == "TOO_LARGE"
    assert len(await follow_ups(rig)) == FOLLOW_UPS_MAX


async def test_many_runs_with_many_follow_ups_go_in_several_calls(rig):
    """Together more than one call takes: halved until they fit, none is lost."""
    gate = asyncio.Event()

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx):
        await gate.wait()
        for n in range(150):
            ctx.enqueue("after", {"n": n}, queue="later")

    rig.worker(concurrency=8)
    jobs = [await handler.enqueue() for _ in range(8)]
    await rig.told.first("job:started", count=8)
    gate.set()
    assert await rig.ended(*jobs) == ["completed"] * 8
    assert (await rig.statuses("later"))["pending"] == 1_200


async def test_bad_follow_up_is_the_handlers_own_error(rig):
    from psyqueue import InvalidOption

    seen = []

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        try:
            ctx.enqueue("after", queue="later", priorty=1)
        except InvalidOption as exc:
            seen.append(exc.option)
        return "went on"

    rig.worker()
    assert await (await handler.enqueue()).result(20) == "went on"
    assert seen == ["priorty"]


# ── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_progress_can_be_read_while_the_job_runs(rig, blocker, kind):
    go_on = asyncio.Event()

    if kind == "async":

        @rig.q.handle("h", queue="q")
        async def on_the_loop(ctx):
            ctx.progress({"done": 3, "of": 9})
            await go_on.wait()
    else:

        @rig.q.handle("h", queue="q")
        def in_a_thread(ctx):
            ctx.progress({"done": 3, "of": 9})
            blocker.block()

    rig.worker()
    job = await rig.q.enqueue("h")
    async with asyncio.timeout(LIMIT_S):
        while (found := await progress_of(rig, job)) is None:
            await turns()
    assert found == b'{"done":3,"of":9}'
    assert await rig.status(job) == "active"
    go_on.set()
    blocker.open()
    assert await rig.ended(job) == ["completed"]


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_last_progress_of_a_run_is_never_lost(rig, kind):
    """Reported a moment before the end, when no call of its own would find the run any more."""
    if kind == "process":
        rig.q.handle("h", elsewhere.follow, queue="q", mode="process")
    elif kind == "async":

        @rig.q.handle("h", queue="q")
        async def on_the_loop(ctx, ok: bool):
            elsewhere.follow(ctx, ok)
    else:

        @rig.q.handle("h", queue="q")
        def in_a_thread(ctx, ok: bool):
            elsewhere.follow(ctx, ok)

    rig.worker(concurrency=1)
    jobs = [await rig.q.enqueue("h", {"ok": True}) for _ in range(10)]
    assert await rig.ended(*jobs) == ["completed"] * 10
    assert [await progress_of(rig, job) for job in jobs] == [b'{"done":2}'] * 10


async def test_progress_of_a_failed_run_stays_too(rig):
    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx):
        ctx.progress("this far")
        raise ValueError("no further")

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert await progress_of(rig, job) == b'"this far"'


async def test_progress_from_many_threads_ends_in_their_last_word(rig):
    barrier = threading.Barrier(4)

    @rig.q.handle("h", queue="q")
    def handler(ctx, n: int):
        barrier.wait(LIMIT_S)
        for step in range(500):
            ctx.progress([n, step])

    rig.worker(concurrency=4)
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(4)])
    assert await rig.ended(*jobs) == ["completed"] * 4
    assert [await progress_of(rig, job) for job in jobs] == [f"[{n},499]".encode() for n in range(4)]


async def test_progress_that_is_reported_all_the_time_makes_few_calls(rig, monkeypatch):
    """The store is not the place for every step of a loop: at most one call of its own in a quarter of a second."""
    from psyqueue.kernel import progress

    monkeypatch.setattr(progress, "PROGRESS_MS", 3_600_000)
    reported, go_on = asyncio.Event(), asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        for step in range(1_000):
            ctx.progress(step)
            await asyncio.sleep(0)
        reported.set()
        await go_on.wait()

    worker = rig.worker(concurrency=1, lease_ms=3_600_000)
    job = await handler.enqueue()
    await soon(reported.wait())
    await until(lambda: worker._is_resting)
    sent = [args[2] for verb, args in rig.faults.args if verb == "settle" and args[2]]
    assert len(sent) == 1
    go_on.set()
    assert await rig.ended(job) == ["completed"]
    assert await progress_of(rig, job) == b"999"


async def test_later_progress_follows_when_its_time_has_come(rig, monkeypatch):
    from psyqueue.kernel import progress

    monkeypatch.setattr(progress, "PROGRESS_MS", 30)
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        ctx.progress("first")
        await turns(20)
        ctx.progress("second")
        await go_on.wait()

    rig.worker(concurrency=1)
    job = await handler.enqueue()
    async with asyncio.timeout(LIMIT_S):
        while await progress_of(rig, job) != b'"second"':
            await turns()
    go_on.set()
    assert await rig.ended(job) == ["completed"]


async def test_progress_that_meets_a_failing_store_is_sent_again(rig, monkeypatch):
    from psyqueue.errors import StoreFull
    from worker.rig import fails, shortened

    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        rig.faults.plans["settle"] = [fails(StoreFull("full"))]
        ctx.progress(1)
        await go_on.wait()

    with shortened(monkeypatch, TROUBLE_MS=10):
        rig.worker(concurrency=1)
        job = await handler.enqueue()
        async with asyncio.timeout(LIMIT_S):
            while await progress_of(rig, job) != b"1":
                await turns()
        go_on.set()
        assert await rig.ended(job) == ["completed"]


async def test_progress_is_checked_where_it_is_reported(rig):
    from psyqueue import PayloadError, TooLarge

    seen = []

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        for bad in (object(), "x" * 9_000):
            try:
                ctx.progress(bad)
            except (PayloadError, TooLarge) as exc:
                seen.append(type(exc).__name__)

    rig.worker()
    assert await rig.ended(await handler.enqueue()) == ["completed"]
    assert seen == ["PayloadError", "TooLarge"]


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_events_carry_the_documented_data_in_order(rig):
    @rig.q.handle("h", queue="q", max_retries=1, backoff="fixed", backoff_base=0, backoff_jitter=False)
    async def handler(ctx, how: str):
        if how == "complete":
            ctx.enqueue("after", queue="later", id="follow-up")
            return {"answer": 42}
        if how == "snooze" and ctx.fence == 1:
            return Snooze(0)
        if how == "fail":
            raise ValueError("no")
        return None

    rig.worker(concurrency=1)
    jobs = {how: await handler.enqueue(how) for how in ("complete", "snooze", "fail")}
    await rig.ended(*jobs.values())
    await rig.told.first("job:completed", count=2)
    await rig.told.first("job:dead")
    for event in rig.told.events:
        assert set(event.data) == set(EVENTS[event.type]), event
    assert rig.told.types(jobs["complete"].id) == ["job:enqueued", "job:started", "job:completed"]
    assert rig.told.types(jobs["snooze"].id) == [
        "job:enqueued", "job:started", "job:snoozed", "job:started", "job:completed",
    ]  # fmt: skip
    assert rig.told.types(jobs["fail"].id) == [
        "job:enqueued", "job:started", "job:failed", "job:retry", "job:started", "job:failed", "job:dead",
    ]  # fmt: skip
    assert rig.told.of("job:enqueued", "follow-up") == [{"job_id": "follow-up", "queue": "later", "name": "after"}]
    names = {"job_id": jobs["complete"].id, "queue": "q", "name": "h"}
    assert rig.told.of("job:started", names["job_id"]) == [{**names, "attempt": 1}]
    assert rig.told.of("job:completed", names["job_id"]) == [{**names, "result": {"answer": 42}}]
    (dead,) = rig.told.of("job:dead")
    assert (dead["attempt"], dead["reason"], dead["error"]["message"]) == (2, "exhausted", "no")
    assert [event["attempt"] for event in rig.told.of("job:failed")] == [1, 2]
    assert rig.told.of("job:retry")[0]["delay_ms"] == 0
    assert rig.told.of("worker:started") == [{"worker": "w1", "queues": ["q"]}]


async def test_events_are_told_after_the_commit(rig):
    """Whoever hears of an end and looks, sees it."""
    seen = []

    @rig.q.handle("h", queue="q")
    async def handler(n: int): ...

    async def look(event):
        seen.append((await rig.view(event.data["job_id"])).status)

    rig.q.events.on("job:completed", look)
    rig.worker()
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(20)])
    await rig.ended(*jobs)
    await until(lambda: len(seen) == 20)
    assert seen == ["completed"] * 20


async def test_failing_and_slow_subscribers_do_not_touch_the_work(rig):
    def bad(event):
        raise RuntimeError("subscriber")

    async def slow(event):
        await asyncio.Event().wait()

    rig.q.events.on("*", bad)
    rig.q.events.on("*", slow)

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        return n

    rig.worker()
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(50)])
    assert await rig.ended(*jobs) == ["completed"] * 50
    assert rig.q.events.failures > 100


async def test_nothing_is_built_for_events_that_nobody_hears(place, store, monkeypatch):
    """Results are not even decoded; with one listener only what it listens to is made."""
    from psyqueue import codec
    from psyqueue.kernel import announcer
    from worker.conftest import _plugin
    from worker.rig import Faults

    decoded, published = [], []
    real = codec.decode

    class Codec:
        @staticmethod
        def decode(body):
            decoded.append(body)
            return real(body)

    monkeypatch.setattr(announcer, "codec", Codec)
    from psyqueue import PsyQueue

    faults = Faults()
    q = PsyQueue().use(_plugin(store, place, test_clock=False)).use(faults)

    @q.handle("h", queue="q")
    async def handler():
        return {"big": "result"}

    async with q:
        wants, publish = q.events.wants, q.events.publish
        monkeypatch.setattr(q.events, "publish", lambda kind, data: (published.append(kind), publish(kind, data)))
        q.start_worker("q")
        await (await handler.enqueue()).result(20)
        assert not wants("job:completed")
        assert (decoded, [kind for kind in published if kind.startswith("job:")]) == ([], [])
        q.events.on("job:failed", lambda event: None)
        await (await handler.enqueue()).result(20)
        await q.stop(grace=0)
    assert decoded == []
    assert [kind for kind in published if kind.startswith("job:")] == []


async def test_cancelled_job_is_told_once_with_its_reason(rig):
    from psyqueue import Cancel

    @rig.q.handle("h", queue="q")
    async def handler():
        return Cancel("nobody needs it")

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["cancelled"]
    await rig.told.first("job:cancelled", job.id)
    assert rig.told.of("job:cancelled", job.id) == [
        {"job_id": job.id, "queue": "q", "name": "h", "reason": "nobody needs it"}
    ]


async def test_progress_that_went_out_with_the_end_of_its_run_leaves_the_worker_asleep(rig):
    """What was due is due no more: the worker must not look for it for ever."""

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        ctx.progress(1)
        await asyncio.sleep(0)
        ctx.progress(2)

    worker = rig.worker(lease_ms=3_600_000)
    for _ in range(20):
        assert await rig.ended(await handler.enqueue()) == ["completed"]
        await until(lambda: worker._is_resting and worker.health()["held"] == 0)
    before = rig.faults.calls["settle"]
    await turns(300)
    assert rig.faults.calls["settle"] == before
