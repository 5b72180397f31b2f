"""The path of a job through middleware, handler, follow-ups and events, on the memory store."""

from __future__ import annotations

import pytest

from psyqueue import Cancel, Context, DeadLetter, JobCancelled, JobDead, Rejected, Retry, Snooze, codec
from psyqueue.backend import NewJob, Op
from support.kernel import Heard, build
from worker import process_handlers as elsewhere


@pytest.fixture
def wired():
    return build()


async def run(q, handler, *args, **kwargs):
    handle = await handler.enqueue(*args, **kwargs)
    assert await q.process_next(handle.queue)
    return handle


async def test_handler_runs_inside_the_process_middleware(wired):
    """D-05: what surrounds call_next surrounds the handler."""
    q, _ = wired
    log = []

    async def around(ctx, call_next):
        log.append(f"in {ctx.job.name} {ctx.job.payload}")
        ctx.state["seen"] = True
        try:
            result = await call_next()
        except ValueError as exc:
            log.append(f"saw {exc}")
            raise
        log.append(f"out {result}")
        return result

    q.pipeline("process", around, phase="observe")

    async def handler(ctx: Context, n: int):
        log.append(f"run {n} {ctx.state['seen']}")
        if n == 0:
            raise ValueError("zero")
        return n

    async with q:
        h = q.handle("h", handler)
        await run(q, h, 1)
        await run(q, h, 0)
    assert log == ["in h {'n': 1}", "run 1 True", "out 1", "in h {'n': 0}", "run 0 True", "saw zero"]


async def test_middleware_that_ends_the_run_keeps_the_handler_from_running(wired):
    q, _ = wired
    ran = []

    async def guard(ctx, call_next):
        if ctx.job.payload["n"] == 1:
            raise Rejected("closed")
        if ctx.job.payload["n"] == 2:
            return Cancel("not needed")
        return await call_next()

    q.pipeline("process", guard, phase="guard")

    async def handler(n):
        ran.append(n)

    async with q:
        h = q.handle("h", handler)
        rejected, cancelled, fine = [await run(q, h, n) for n in (1, 2, 3)]
        with pytest.raises(JobDead, match="rejected: closed"):
            await rejected.result(timeout=0)
        with pytest.raises(JobCancelled, match="not needed"):
            await cancelled.result(timeout=0)
        assert await fine.result(timeout=0) is None
    assert ran == [3]


async def test_middleware_may_change_payload_and_result(wired):
    q, _ = wired

    async def upcast(ctx, call_next):
        ctx.job.payload = {"n": ctx.job.payload["old_n"]}
        return {"wrapped": await call_next()}

    q.pipeline("process", upcast, phase="transform")
    async with q:
        # Enqueued where the handler is not known, in a shape of an older release.
        old = await q.enqueue("h", {"old_n": 4})
        q.handle("h", doubled)
        assert await q.process_next("h")
        assert await old.result(timeout=0) == {"wrapped": 8}


async def doubled(n: int) -> int:
    return n * 2


async def test_payload_that_does_not_fit_the_handler_is_dead_at_once(started):
    """Enqueued where the handler is not known; no retry can mend it."""
    handle = await started.enqueue("h", {"n": "text"})
    started.handle("h", doubled)
    assert await started.process_next("h")
    view = await handle.refresh()
    assert (view.status, view.reason, view.attempt) == ("dead", "payload", 1)
    assert "$.n" in view.errors[0]["message"]


async def test_result_that_is_no_json_is_dead_at_once(started):
    async def handler():
        return object()

    handle = await run(started, started.handle("h", handler))
    assert ((await handle.refresh()).status, (await handle.refresh()).reason) == ("dead", "result")


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
async def test_result_that_was_never_awaited_is_told_so(started):
    """A decorator that makes a plain function of an async one."""

    async def inner():
        return 1

    def plain():
        return inner()

    handle = await run(started, started.handle("h", plain))
    assert "was never awaited" in (await handle.refresh()).errors[-1]["message"]


@pytest.mark.parametrize(
    ("verdict", "status", "reason", "attempt"),
    [
        (Retry(after="1h", reason="busy"), "scheduled", "", 1),
        (Snooze("1h"), "scheduled", "snoozed", 0),
        (Cancel("nobody wants it"), "cancelled", "nobody wants it", 1),
        (DeadLetter("cannot work"), "dead", "cannot work", 1),
    ],
)
@pytest.mark.parametrize("how", ["raised", "returned"])
async def test_verdicts_decide(started, verdict, status, reason, attempt, how):
    async def handler():
        if how == "raised":
            raise verdict
        return verdict

    view = await (await run(started, started.handle("h", handler))).refresh()
    assert (view.status, view.attempt) == (status, attempt)
    if status != "scheduled":
        assert view.reason == reason


def logged(caplog):
    return [
        (record.levelname, getattr(record, "attempt", None), getattr(record, "reason", None), record.exc_info)
        for record in caplog.records
        if record.name == "psyqueue.kernel.failures"
    ]


async def test_each_failed_run_is_logged_with_its_traceback_and_the_last_one_as_an_error(started, caplog):
    """A worker whose jobs fail in silence would look as if it had nothing to do."""
    caplog.set_level("INFO")

    async def handler(secret):
        raise ValueError("no such thing")

    fails = started.handle("h", handler, max_retries=1, backoff_base=0)
    job = await run(started, fails, "s3cr3t")
    assert await started.process_next("h")
    (level, attempt, reason, trace), last = logged(caplog)
    assert (level, attempt, reason, trace[0]) == ("INFO", 1, None, ValueError)
    assert trace[2].tb_frame.f_code is handler.__code__, "our own frames are left out"
    assert last[:3] == ("ERROR", 2, "exhausted")
    assert {record.job_id for record in caplog.records} == {job.id}
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize(
    ("verdict", "told"),
    [(Retry(after="1h"), []), (Snooze("1h"), []), (Cancel("no"), []), (DeadLetter("no"), [("ERROR", 1, "no", None)])],
    ids=lambda value: type(value).__name__,
)
async def test_of_verdicts_only_the_end_is_logged(started, caplog, verdict, told):
    caplog.set_level("INFO")

    async def handler():
        raise verdict

    await run(started, started.handle("h", handler))
    assert logged(caplog) == told


async def test_failure_in_a_process_is_logged_with_the_traceback_of_that_process(started, caplog):
    handler = started.handle("h", elsewhere.fail, mode="process", max_retries=0)
    await run(started, handler, "away")
    assert [entry[0] for entry in logged(caplog)] == ["ERROR"]
    assert "process_handlers.py" in caplog.text


async def test_follow_ups_exist_if_and_only_if_the_run_succeeds(started):
    async def parent(ctx: Context, ok: bool):
        ctx.enqueue("child", {"n": 1}, priority=4)
        if not ok:
            raise ValueError("no")

    h = started.handle("parent", parent)
    failed = await run(started, h, ok=False)
    assert len(await started.jobs(name="child")) == 0
    done = await run(started, h, ok=True)
    (child,) = await started.jobs(name="child")
    assert (child.parent_id, child.payload, child.priority) == (done.id, {"n": 1}, 4)
    assert (await failed.refresh()).status == "scheduled"


@pytest.mark.parametrize("mode", ["auto", "process"])
async def test_a_run_finds_the_trace_of_its_enqueue_until_middleware_sets_another(wired, mode):
    q, _ = wired
    found = []

    async def at_enqueue(ctx, call_next):
        ctx.jobs[0].trace = {"traceparent": "a", "tracestate": "b"}
        await call_next()

    async def at_run(ctx, call_next):
        found.append(ctx.job.trace)
        ctx.job.trace = {"traceparent": "c"}
        await call_next()

    q.pipeline("enqueue", at_enqueue)
    q.pipeline("process", at_run)
    q.handle("h", elsewhere.trace_of, mode=mode)
    async with q:
        job = await q.enqueue("h")
        assert await q.process_next("h")
        view = await job.refresh()
    assert view.trace == found[0] == {"traceparent": "a", "tracestate": "b"}
    assert view.result == {"traceparent": "c"}


@pytest.mark.parametrize(
    ("cold", "trace"),
    [
        (b'{"trace":5}', {}),
        (b'{"trace":null}', {}),
        (b'{"trace":{"traceparent":7,"baggage":"a=b"}}', {"baggage": "a=b"}),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "process"])
async def test_a_trace_that_somebody_else_wrote_fails_no_job(wired, mode, cold, trace):
    q, probe = wired
    q.handle("h", elsewhere.trace_of, mode=mode)
    async with q:
        await probe.store.enqueue(Op("other", 1, 1), (NewJob(id="i", queue="h", name="h", payload=b"{}", cold=cold),))
        assert await q.process_next("h")
        view = await q.get("i")
    assert view is not None
    assert (view.status, view.result) == ("completed", trace)


@pytest.mark.parametrize("mode", ["auto", "process"])
@pytest.mark.parametrize("has_middleware", [False, True])
async def test_a_follow_up_goes_on_in_the_trace_of_its_run(wired, mode, has_middleware):
    q, probe = wired
    seen: list[object] = []

    async def look(ctx, call_next):
        seen.extend(draft.trace for draft in ctx.jobs)
        await call_next()

    if has_middleware:
        q.pipeline("enqueue", look)
    q.handle("h", elsewhere.enqueues, mode=mode)
    trace = {"traceparent": "a"}
    async with q:
        cold = codec.encode({"trace": trace})
        await probe.store.enqueue(Op("other", 1, 1), (NewJob(id="i", queue="h", name="h", payload=b"{}", cold=cold),))
        assert await q.process_next("h")
        (child,) = await q.jobs(name="child")
    assert (child.trace, seen) == (trace, [trace] if has_middleware else [])


async def test_follow_ups_pass_the_enqueue_middleware(wired):
    q, _ = wired
    seen = []

    async def stamp(ctx, call_next):
        for job in ctx.jobs:
            seen.append((job.name, job.parent_id))
            if job.payload == "closed":
                raise Rejected("closed")
            job.options["tenant"] = "acme"
        await call_next()

    q.pipeline("enqueue", stamp)

    async def parent(ctx: Context, what: str):
        handle = ctx.enqueue("child", what)
        assert handle.name == "child"

    async with q:
        h = q.handle("parent", parent, max_retries=0)
        done = await run(q, h, "fine")
        (child,) = await q.jobs(name="child")
        assert (child.tenant_id, child.payload) == ("acme", "fine")
        assert ("child", done.id) in seen
        refused = await run(q, h, "closed")
        assert (await refused.refresh()).status == "dead"
        assert len(await q.jobs(name="child")) == 1


async def test_events_of_a_run_are_told_with_their_data(q):
    heard = Heard(q.events, "job:*")

    async def handler(n):
        if n == 0:
            raise ValueError("zero")
        return n

    async with q:
        h = q.handle("h", handler, queue="mail", max_retries=0)
        await run(q, h, 5)
        await run(q, h, 0)
    assert heard.types() == [
        *("job:enqueued", "job:started", "job:completed"),
        *("job:enqueued", "job:started", "job:failed", "job:dead"),
    ]
    assert heard.data("job:completed")[0]["result"] == 5
    dead = heard.data("job:dead")[0]
    assert (dead["reason"], dead["error"]["message"], dead["attempt"]) == ("exhausted", "zero", 1)
