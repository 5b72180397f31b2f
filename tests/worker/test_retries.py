"""Failed runs: when they come again, when they do not, what is kept; and the verdicts a handler may give."""

from __future__ import annotations

import pytest

from psyqueue import Cancel, DeadLetter, JobDead, Retry, Snooze
from psyqueue.backend import Filter
from worker import process_handlers as elsewhere
from worker.rig import Rig, a_moment


class Wrong(Exception):
    pass


class VeryWrong(Wrong):
    pass


async def delay_after_failure(rig: Rig, job) -> float:
    """Seconds from the failed run to the next one, by the store's clock, which stands still."""
    await rig.told.first("job:retry", job.id)
    view = await rig.view(job)
    assert view.status == "scheduled"
    return (view.run_at - view.started_at).total_seconds()


async def run_out(rig: Rig, job) -> list[float]:
    """Let the job fail until it is dead; the delays in between."""
    delays = []
    for failures in range(1, 100):
        await rig.told.first("job:failed", job.id, count=failures)
        while (view := await rig.view(job)).status == "active":  # the event is told before its end is written
            await a_moment()
        if view.status == "dead":
            return delays
        delays.append((view.run_at - view.started_at).total_seconds())
        await rig.advance(delays[-1])
    raise AssertionError("it never died")


# ── back-off ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ("fixed", [2, 2, 2, 2, 2]),
        ("linear", [2, 4, 6, 8, 9]),
        ("exponential", [2, 4, 8, 9, 9]),
        (lambda attempt, error: attempt * 3, [3, 6, 9, 9, 9]),
    ],
    ids=["fixed", "linear", "exponential", "own"],
)
async def test_failed_runs_come_again_after_the_backoff_and_never_later_than_its_cap(still, backoff, expected):
    @still.q.handle("h", queue="q", max_retries=5, backoff=backoff, backoff_base=2, backoff_cap=9, backoff_jitter=False)
    async def handler():
        raise Wrong("no")

    still.worker()
    job = await handler.enqueue()
    assert await run_out(still, job) == expected
    view = await still.view(job)
    assert (view.status, view.reason, view.attempt) == ("dead", "exhausted", 6)
    assert [(error["type"].rpartition(".")[2], error["attempt"]) for error in view.errors] == [
        ("Wrong", attempt) for attempt in range(1, 7)
    ]


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 6.0), (0.5, 8.0), (0.9999, 9.0)])
async def test_jitter_spreads_by_a_quarter_and_never_above_the_cap(still, chance, expected):
    still.core.chance = lambda: chance

    @still.q.handle("h", queue="q", backoff="fixed", backoff_base=8, backoff_cap=9)
    async def handler():
        raise Wrong("no")

    still.worker()
    assert await delay_after_failure(still, await handler.enqueue()) == expected


async def test_own_backoff_sees_the_attempt_and_the_error(still):
    seen = []

    def own(attempt, error):
        seen.append((attempt, str(error)))
        return 1

    @still.q.handle("h", queue="q", max_retries=1, backoff=own)
    async def handler():
        raise Wrong("text")

    still.worker()
    await run_out(still, await handler.enqueue())
    assert seen == [(1, "text"), (2, "text")]


async def test_own_backoff_that_fails_gives_way_to_the_exponential_one_and_is_noted(still):
    def own(attempt, error):
        raise KeyError("bug")

    @still.q.handle("h", queue="q", backoff=own, backoff_base=3, backoff_jitter=False)
    async def handler():
        raise Wrong("no")

    still.worker()
    job = await handler.enqueue()
    assert await delay_after_failure(still, job) == 3
    (error,) = (await still.view(job)).errors
    assert "Wrong" in error["type"]
    assert "KeyError" in error["note"]


async def test_options_of_the_job_go_over_those_of_its_handler(still):
    @still.q.handle("h", queue="q", backoff="fixed", backoff_base=1, backoff_jitter=False)
    async def handler():
        raise Wrong("no")

    still.worker()
    job = await handler.options(backoff="linear", backoff_base=5, max_retries=1).enqueue()
    assert await run_out(still, job) == [5]


# ── which errors come again ───────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_fatal_errors_are_dead_at_once_in_every_mode(rig, kind):
    if kind == "async":

        @rig.q.handle("h", queue="q", fatal=(ValueError,))
        async def on_the_loop(text: str):
            raise ValueError(text)

    elif kind == "thread":

        @rig.q.handle("h", queue="q", fatal=(ValueError,))
        def in_a_thread(text: str):
            raise ValueError(text)

    else:
        rig.q.handle("h", elsewhere.fail, queue="q", mode="process", fatal=(ValueError,))
    rig.worker()
    job = await rig.q.enqueue("h", {"text": "what it says"})
    with pytest.raises(JobDead) as caught:
        await job.result(20)
    assert caught.value.reason == "fatal"
    assert caught.value.error is not None
    assert (caught.value.error["type"], caught.value.error["message"]) == ("ValueError", "what it says")
    assert "raise ValueError(text)" in caught.value.error["traceback"]


async def test_only_errors_of_retry_on_come_again_fatal_ones_never(still):
    @still.q.handle("h", queue="q", retry_on=(Wrong, KeyError), fatal=(VeryWrong,))
    async def handler(kind: str):
        raise {"wrong": Wrong, "very": VeryWrong, "other": OSError}[kind]("x")

    still.worker()
    jobs = [await handler.enqueue(kind) for kind in ("wrong", "very", "other")]
    for job, end in zip(jobs, ("job:retry", "job:dead", "job:dead"), strict=True):
        await still.told.first(end, job.id)  # "job:failed" is told before it is written
    assert [await still.status(job) for job in jobs] == ["scheduled", "dead", "dead"]


async def test_no_retries_is_one_run(rig):
    runs = []

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        runs.append(1)
        raise Wrong("no")

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert (await rig.view(job)).reason == "exhausted"
    assert runs == [1]


async def test_error_text_that_cannot_be_made_does_not_hide_the_failure(rig):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        raise Mute

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert "Mute" in (await rig.view(job)).errors[0]["type"]


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────────
MADE = {
    "retry": lambda: Retry(after=7, reason="again"),
    "snooze": lambda: Snooze(5),
    "cancel": lambda: Cancel("not wanted"),
    "dead": lambda: DeadLetter("hopeless"),
    "later": lambda: elsewhere.Later(5),
}
ENDS = {
    "retry": ("scheduled", 1, 7.0),
    "snooze": ("scheduled", 0, 5.0),
    "cancel": ("cancelled", 1, "not wanted"),
    "dead": ("dead", 1, "hopeless"),
    "later": ("scheduled", 0, 5.0),
}


def register(rig: Rig, kind: str) -> None:
    def decide(verdict: str, how: str):
        made = MADE[verdict]()
        if how == "raised":
            raise made
        return made

    async def decide_on_the_loop(kind: str, how: str):
        return decide(kind, how)

    def decide_in_a_thread(kind: str, how: str):
        return decide(kind, how)

    async def decide_with_ctx(ctx, kind: str, how: str):
        return decide(kind, how)

    if kind == "process":
        rig.q.handle("h", elsewhere.verdict, queue="q", mode="process")
    else:
        made = {"async": decide_on_the_loop, "thread": decide_in_a_thread, "ctx": decide_with_ctx}
        rig.q.handle("h", made[kind], queue="q")


@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize("kind", ["async", "ctx", "thread", "process"])
async def test_verdicts_count_the_same_raised_and_returned_in_every_mode(still, kind, how):
    register(still, kind)
    still.worker()
    jobs = {name: await still.q.enqueue("h", {"kind": name, "how": how}) for name in MADE}
    for name, job in jobs.items():
        event = {"retry": "retry", "cancel": "cancelled", "dead": "dead"}.get(name, "snoozed")
        await still.told.first(f"job:{event}", job.id)
    found = {}
    for name, job in jobs.items():
        view = await still.view(job)
        seen = view.reason if view.completed_at else (view.run_at - view.started_at).total_seconds()
        found[name] = (view.status, view.attempt, seen)
    assert found == ENDS


async def test_retry_verdict_without_a_delay_takes_the_jobs_backoff_and_uses_retries_up(still):
    @still.q.handle("h", queue="q", max_retries=1, backoff="fixed", backoff_base=4, backoff_jitter=False)
    async def handler():
        raise Retry(reason="once more")

    still.worker()
    job = await handler.enqueue()
    assert await run_out(still, job) == [4]
    view = await still.view(job)
    assert (view.reason, [error["message"] for error in view.errors]) == ("exhausted", ["once more"] * 2)


async def test_snooze_never_uses_retries_up(still):
    runs = []

    @still.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx):
        runs.append(ctx.attempt)
        return Snooze(1) if len(runs) < 5 else "done"

    still.worker()
    job = await handler.enqueue()
    for count in range(1, 5):
        await still.told.first("job:snoozed", job.id, count=count)
        await still.advance(1)
    assert await job.result(20) == "done"
    assert runs == [1] * 5


# ── jobs that this worker cannot run ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("why", ["unknown", "newer"])
async def test_job_of_a_handler_that_is_not_known_is_put_off_longer_and_longer(still, why):
    if why == "newer":

        @still.q.handle("h", queue="q")
        async def older(ctx): ...

        from psyqueue.backend import NewJob, Op

        new = NewJob(id="j", queue="q", name="h", payload=b"null", cold=b'{"schema_version":2}', max_retries=0)
        await still.store.enqueue(Op("newer client", 1, 1), [new])
    else:
        await still.q.enqueue("h", queue="q", id="j", max_retries=0)
    still.worker("q")
    delays = []
    for count in range(1, 10):
        await still.told.first("job:snoozed", "j", count=count)
        view = await still.view("j")
        assert (view.status, view.attempt) == ("scheduled", 0)
        delays.append((view.run_at - view.started_at).total_seconds())
        await still.advance(delays[-1])
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert still.told.of("job:started", "j") == []


@pytest.mark.parametrize("store", ["memory"], indirect=True)  # a thousand deliveries
async def test_job_of_an_unknown_handler_is_dead_after_a_day_of_waiting(still):
    await still.q.enqueue("h", queue="q", id="j")
    still.worker("q")
    waited = 0.0
    for count in range(1, 2_000):
        await still.told.first("job:snoozed", "j", count=count)
        view = await still.view("j")
        if count == 3:
            assert "h" in view.reason
        delay = (view.run_at - view.started_at).total_seconds()
        await still.advance(delay)
        waited += delay
        if waited >= 86_400:
            break
    await still.told.first("job:dead", "j")
    view = await still.view("j")
    assert (view.status, view.reason) == ("dead", "unknown_handler")
    assert waited < 86_400 + 61
    assert "h" in view.errors[-1]["message"]


@pytest.mark.parametrize("store", ["memory"], indirect=True)  # a thousand deliveries
async def test_job_that_was_delivered_often_within_a_day_is_not_dead_at_the_first_worker_that_does_not_know_it(still):
    """A job that puts itself off every second has a high fence; a deploy that brings its handler late is no day."""
    polls = []

    @still.q.handle("h", queue="q")
    async def poll():
        polls.append(1)
        return Snooze(0)

    worker = still.worker("q")
    job = await poll.enqueue()
    await still.told.first("job:snoozed", job.id, count=1_500)
    await worker.stop(grace=0)
    still.core.handlers._by_name.clear()
    still.worker("q", name="w2")
    before = len(still.told.of("job:snoozed", job.id))
    await still.told.first("job:snoozed", job.id, count=before + 1)
    assert await still.status(job) == "scheduled"


async def test_worker_that_knows_the_handler_takes_what_another_put_off(built, second):
    async with built.q:
        other = await second(built)

        @other.q.handle("h", queue="q")
        async def handler():
            return "known here"

        worker = built.worker("q")
        job = await built.q.enqueue("h", queue="q")
        await built.told.first("job:snoozed", job.id)
        await worker.stop(grace=0)
        other.worker("q")
        assert await job.result(20) == "known here"


async def test_deadline_that_passed_before_the_start_is_dead_and_nothing_runs(still):
    runs = []

    async def middleware(ctx, call_next):
        runs.append("middleware")
        await call_next()

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        runs.append("handler")

    # The deadline is an instant of this machine's wall clock; the store of this test lives in another year.
    late = await handler.options(deadline=1e-3 * 60_000).enqueue()
    (stored,) = await still.store.get([late.id])
    assert b"deadline_at_ms" in stored.job.cold
    still.worker()
    await still.ended(late)
    view = await still.view(late)
    assert (view.status, view.reason, runs) == ("dead", "deadline", [])


async def test_deadline_ahead_lets_the_job_run(rig):
    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        return "in time"

    rig.worker()
    assert await (await handler.options(deadline="1h").enqueue()).result(20) == "in time"


async def test_errors_of_a_job_survive_until_it_is_dead_the_last_twenty_of_them(rig):
    @rig.q.handle("h", queue="q", max_retries=24, backoff="fixed", backoff_base=0)
    async def handler(ctx):
        raise Wrong(f"attempt {ctx.attempt}")

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    (stored,) = await rig.store.get([job.id])
    assert (await rig.store.list_jobs(Filter(ids=(job.id,)), None, 1)).jobs[0].status == "dead"
    view = await rig.view(job)
    assert [error["message"] for error in view.errors] == [f"attempt {n}" for n in range(6, 26)]
    assert stored is not None
