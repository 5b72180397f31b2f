"""How many calls a job costs, what is held beyond the slots, and that nobody sleeps while there is work."""

from __future__ import annotations

import asyncio
import functools
import itertools
from typing import Any

import pytest

from psyqueue.errors import StoreUnavailable
from psyqueue.kernel import housekeeper
from psyqueue.kernel import worker as worker_module
from psyqueue.kernel.prefetch import PREFETCH_MAX, WORK_MS, Prefetch
from worker.rig import Rig, answers_after, fails, renewed_often, soon, turns, until, waits_for


def settles(rig: Rig) -> list[tuple[int, int]]:
    """(outcomes sent, deliveries asked for) of each settle so far."""
    calls = [args for verb, args in rig.faults.args if verb == "settle"]
    return [(len(args[2]), args[3].count if args[3] is not None else 0) for args in calls]


async def asleep(worker) -> None:
    """Nothing to do: it waits for a signal."""
    await until(lambda: worker._is_resting and worker._waiter is not None and not worker._waiter.done())
    await turns(20)


# ── calls per job ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kind", ["plain", "waiting"])
async def test_many_jobs_share_store_calls_a_tenth_of_a_call_each_at_most(rig, kind):
    count = 2_000

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        if kind == "waiting":
            await asyncio.sleep(0)

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(count)])
    rig.faults.calls.clear()
    rig.worker(concurrency=50)
    await rig.told.first("job:completed", count=count)
    calls = sum(rig.faults.calls.values())
    assert calls / count <= 0.1, rig.faults.calls
    assert await rig.status(jobs[-1]) == "completed"


async def test_outcomes_of_ten_slots_share_calls_too(rig):
    count = 1_000

    @rig.q.handle("h", queue="q")
    async def handler(n: int): ...

    await rig.q.enqueue_bulk([handler.build(n) for n in range(count)])
    rig.faults.calls.clear()
    rig.worker()
    await rig.told.first("job:completed", count=count)
    assert sum(rig.faults.calls.values()) / count <= 0.1, rig.faults.calls


async def test_lone_job_is_settled_by_the_one_call_after_its_end(rig, monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_MS", 3_600_000)
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()

    worker = rig.worker()
    await asleep(worker)
    job = await handler.enqueue()
    await rig.told.first("job:started", job.id)
    await asleep(worker)
    before = rig.faults.calls["settle"]
    timers: list[float] = []
    loop = asyncio.get_running_loop()
    real = loop.call_later
    loop.call_later = lambda delay, *rest, **more: timers.append(delay) or real(delay, *rest, **more)  # type: ignore[method-assign,func-returns-value]
    try:
        go_on.set()
        await rig.told.first("job:completed", job.id)
    finally:
        loop.call_later = real  # type: ignore[method-assign]
    assert rig.faults.calls["settle"] == before + 1
    assert settles(rig)[-1][0] == 1
    assert [delay for delay in timers if delay < 1] == [], "an ack never waits for a timer"


async def test_lone_job_costs_a_sleeping_worker_two_settles(rig, monkeypatch):
    """One that finds it, one that settles it. The wait goes on before the look, so none is needed to sleep again."""
    from psyqueue.backends._redis import signals

    monkeypatch.setattr(worker_module, "POLL_MS", 3_600_000)
    monkeypatch.setattr(signals, "HAND_ON_MS", 3_600_000)  # however slow the machine is just now
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()

    worker = rig.worker(lease_ms=3_600_000)
    await asleep(worker)
    before = rig.faults.calls["settle"]
    for _ in range(10):
        go_on.clear()
        job = await handler.enqueue()
        await rig.told.first("job:started", job.id)
        await asleep(worker)
        go_on.set()
        await rig.told.first("job:completed", job.id)
        await asleep(worker)
    settles_made = rig.faults.calls["settle"] - before
    # A look that PostgreSQL was asked for before the job was started may say afterwards that it is there.
    seen_late = range(21, 25) if type(rig.store).__name__ == "PostgresBackend" else ()
    assert settles_made == 20 or settles_made in seen_late


async def test_outcomes_that_gather_while_a_call_is_away_go_out_with_the_next(rig):
    gate, done, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        if n > 0:
            await go_on.wait()

    worker = rig.worker(concurrency=20)
    await asleep(worker)
    await rig.q.enqueue_bulk([handler.build(n) for n in range(20)])
    rig.faults.plans["settle"] = [lambda call: call(), answers_after(gate, done)]
    await soon(done.wait())
    go_on.set()
    await turns(50)
    gate.set()
    await rig.told.first("job:completed", count=20)
    assert 19 in [sent for sent, _ in settles(rig)]


async def test_slots_that_would_find_nothing_to_do_are_not_woken(rig):
    @rig.q.handle("h", queue="q")
    async def handler(n: int): ...

    await rig.q.enqueue_bulk([handler.build(n) for n in range(500)])
    worker = rig.worker(concurrency=100, prefetch=400)
    await rig.told.first("job:completed", count=500)
    assert len(worker._slots._slots) < 10


async def test_every_slot_is_reached_where_handlers_wait(rig):
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await release.wait()

    worker = rig.worker(concurrency=100)
    for round_ in range(2):  # the second one finds the slots there already
        release.clear()
        await rig.q.enqueue_bulk([handler.build(n) for n in range(150)])
        await rig.told.first("job:started", count=100 + 150 * round_)
        await until(lambda: worker.health()["running"] == 100)
        release.set()
        await rig.told.first("job:completed", count=150 * (round_ + 1))


async def test_one_call_is_in_flight_at_a_time(rig):
    flying, most = 0, 0

    async def counted(call):
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        try:
            await asyncio.sleep(0)
            return await call()
        finally:
            flying -= 1

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await asyncio.sleep(0)

    rig.faults.always["settle"] = counted
    await rig.q.enqueue_bulk([handler.build(n) for n in range(200)])
    rig.worker(concurrency=5)
    await rig.told.first("job:completed", count=200)
    assert most == 1


async def test_batches_keep_to_what_the_store_takes(rig, monkeypatch):
    from msgspec.structs import replace

    small = replace(rig.store.capabilities, batch_max=7)
    monkeypatch.setattr(type(rig.store), "capabilities", property(lambda self: small))

    @rig.q.handle("h", queue="q")
    async def handler(n: int): ...

    await rig.q.enqueue_bulk([handler.build(n) for n in range(100)])
    rig.worker(concurrency=20, prefetch=50)
    await rig.told.first("job:completed", count=100)
    assert max(max(sent, asked) for sent, asked in settles(rig)) == 7


async def test_idle_worker_makes_few_calls(rig, monkeypatch):
    monkeypatch.setattr(worker_module, "POLL_MS", 50)
    monkeypatch.setattr(housekeeper, "PERIOD_MS", 3_600_000)
    worker = rig.worker(lease_ms=3_600_000)
    await asleep(worker)
    rig.faults.calls.clear()
    await until(lambda: rig.faults.calls["wait"] == 20)
    # One wait and one look for each time it looks up; housekeeping sleeps in between.
    assert rig.faults.calls["settle"] <= 20
    assert set(rig.faults.calls) == {"wait", "settle"}


async def test_worker_with_full_slots_makes_no_calls(rig):
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await release.wait()

    worker = rig.worker(concurrency=2, lease_ms=3_600_000)
    await rig.q.enqueue_bulk([handler.build(n) for n in range(10)])
    await rig.told.first("job:started", count=2)
    await until(lambda: worker._is_resting)
    before = rig.faults.calls["settle"]
    await rig.q.enqueue_bulk([handler.build(n) for n in range(10)])
    await turns(200)
    assert rig.faults.calls["settle"] == before
    release.set()
    await rig.told.first("job:completed", count=20)


async def test_worker_with_full_slots_leaves_signals_to_others(rig):
    """Where a signal wakes one waiter alone, a full worker would take it from an idle one."""
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await release.wait()

    worker = rig.worker(concurrency=1)
    await until(lambda: worker._waiter is not None and worker._is_resting)
    waiting = worker._waiter
    await handler.enqueue(1)
    await rig.told.first("job:started")
    await until(lambda: worker._is_resting)
    assert worker._waiter is None
    assert waiting.done()
    release.set()
    await rig.told.first("job:completed")
    await until(lambda: worker._waiter is not None)


# ── prefetch ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_prefetch_is_as_much_as_the_run_time_makes_finish_soon_and_nothing_for_long_handlers():
    sizes = {}
    for run_ms in (0.01, 0.5, 1, 5, 19, 20, 1_000):
        prefetch = Prefetch(10, None)
        assert prefetch.size() == 0, "nothing is known yet"
        prefetch.note(run_ms)
        sizes[run_ms] = prefetch.size()
    assert sizes == {0.01: PREFETCH_MAX, 0.5: PREFETCH_MAX, 1: 200, 5: 40, 19: 10, 20: 0, 1_000: 0}
    assert (WORK_MS, PREFETCH_MAX) == (20, 400)


def test_prefetch_follows_a_queue_that_changes_its_character():
    prefetch = Prefetch(10, None)
    for _ in range(100):
        prefetch.note(0.1)
    assert prefetch.size() == PREFETCH_MAX
    for _ in range(3):
        prefetch.note(1_000)
    assert prefetch.size() == 0
    for _ in range(100):
        prefetch.note(1)
    assert prefetch.size() > 100


async def test_long_handlers_leave_the_other_jobs_to_others(rig):
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await release.wait()

    await rig.q.enqueue_bulk([handler.build(n) for n in range(10)])
    worker = rig.worker(concurrency=3)
    await rig.told.first("job:started", count=3)
    await asleep_full(worker)
    assert worker.health()["held"] == 3
    assert (await rig.statuses("q"))["pending"] == 7
    release.set()
    await rig.told.first("job:completed", count=10)


async def asleep_full(worker) -> None:
    await until(lambda: worker._is_resting)
    await turns(20)


async def test_fixed_prefetch_is_what_it_says(rig):
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await release.wait()

    await rig.q.enqueue_bulk([handler.build(n) for n in range(20)])
    worker = rig.worker(concurrency=2, prefetch=5)
    await rig.told.first("job:started", count=2)
    await asleep_full(worker)
    assert worker.health()["held"] == 7
    release.set()
    await rig.told.first("job:completed", count=20)


async def test_what_was_prefetched_behind_a_job_that_turns_out_to_be_long_goes_to_others(rig, monkeypatch):
    """A hundred quick jobs made it prefetch; then one takes for ever. Nobody else may wait for it."""
    from psyqueue.kernel import worker as module

    monkeypatch.setattr(module, "TURN_MS", 20)
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        if n == 100:
            await release.wait()

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(300)])
    worker = rig.worker(concurrency=1)
    for job in jobs[101:]:
        while await rig.status(job) == "active":
            await soon(rig.store.wait((), (), 20))
    await rig.told.first("job:started", jobs[100].id)
    await until(lambda: worker.health()["held"] == 1)
    assert {(await rig.view(job)).attempt for job in jobs[101:]} == {0}
    # It does not take them again to hand them back once more.
    fences = await deliveries_of(rig, jobs)
    await until_later(worker, 10)
    assert await deliveries_of(rig, jobs) == fences
    release.set()
    await rig.told.first("job:completed", count=300)
    order = [event["job_id"] for event in rig.told.of("job:completed")]
    assert order == [job.id for job in jobs], "handed back to their old places"


async def deliveries_of(rig: Rig, jobs) -> int:
    """How often they were delivered, together."""
    return sum(view.fence for view in await rig.store.get([job.id for job in jobs]) if view is not None)


async def until_later(worker, beats: int) -> None:
    """So many seconds of the worker, however long they are in this test."""
    start = worker._turns
    await until(lambda: worker._turns >= start + beats)


async def test_pause_hands_back_what_was_prefetched_with_no_attempt_used(rig, monkeypatch):
    release = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await release.wait()

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(6)])
    worker = rig.worker(concurrency=1, prefetch=5, lease_ms=renewed_often(monkeypatch))
    await rig.told.first("job:started")
    await until(lambda: worker.health()["held"] == 6)
    await rig.q.pause("q")
    await until(lambda: worker.health()["held"] == 1)
    views = [await rig.view(job) for job in jobs]
    assert [(view.status, view.attempt) for view in views] == [("active", 1), *[("pending", 0)] * 5]
    await rig.q.resume("q")
    release.set()
    assert await rig.ended(*jobs) == ["completed"] * 6
    await rig.told.first("job:completed", count=6)
    assert [event["job_id"] for event in rig.told.of("job:completed")] == [job.id for job in jobs]


# ── falling asleep ────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_no_job_is_missed_by_a_worker_that_goes_to_sleep_at_the_moment_of_the_enqueue(rig, monkeypatch):
    """Each round enqueues a turn of the loop later after the last job's end: every point of falling asleep is met.

    Polling is off, so a job that is missed stays missed.
    """
    from psyqueue.kernel import worker as module

    monkeypatch.setattr(module, "POLL_MS", 3_600_000)
    ran: dict[int, asyncio.Event] = {}

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        ran[n].set()

    rig.worker(concurrency=2, lease_ms=3_600_000)
    rounds = 300
    for n in range(rounds):
        ran[n] = asyncio.Event()
        await turns(n % 25)
        await handler.enqueue(n)
        await soon(ran[n].wait())
    assert len(ran) == rounds


async def test_job_enqueued_while_the_last_look_is_away_is_found(rig, monkeypatch):
    """The look found nothing, its answer is still on the way, the enqueue commits in between."""
    from psyqueue.kernel import worker as module

    monkeypatch.setattr(module, "POLL_MS", 3_600_000)

    @rig.q.handle("h", queue="q")
    async def handler(n: int): ...

    worker = rig.worker(lease_ms=3_600_000)
    for n in range(20):
        await asleep(worker)
        gate, done = asyncio.Event(), asyncio.Event()
        looks = [(lambda call: call())] * (n % 3)
        rig.faults.plans["settle"] = [*looks, answers_after(gate, done)]
        await handler.enqueue(n)
        await turns(30)
        while not done.is_set():  # two jobs that one look finds cost one look less
            await handler.enqueue(-n)
            await turns(30)
        job = await handler.enqueue(100 + n)
        gate.set()
        await rig.told.first("job:completed", job.id)


async def test_two_workers_and_two_producers_miss_nothing(built, second, monkeypatch):
    from psyqueue.kernel import worker as module

    monkeypatch.setattr(module, "POLL_MS", 3_600_000)
    async with built.q:
        other = await second(built)
        done: list[int] = []
        all_done = asyncio.Event()
        rounds = 150
        numbers = itertools.count()
        for rig in (built, other):

            @rig.q.handle("h", queue="q")
            async def handler(n: int):
                done.append(n)
                if len(done) == 2 * rounds:
                    all_done.set()

            rig.worker(name="a", lease_ms=3_600_000)

        async def produce(rig: Rig, pause: int) -> None:
            for n in range(rounds):
                await rig.q.enqueue("h", {"n": next(numbers)}, queue="q")
                await turns(n * pause % 13)

        await asyncio.gather(produce(built, 3), produce(other, 5))
        await soon(all_done.wait())
        assert sorted(done) == list(range(2 * rounds))
        await built.q.stop(grace=0)


@pytest.mark.parametrize("error", [StoreUnavailable("no listening"), TypeError("a bug")], ids=["store", "bug"])
async def test_store_that_cannot_be_listened_to_is_looked_at_now_and_then_and_not_all_the_time(rig, monkeypatch, error):
    from psyqueue.kernel import worker as module

    @rig.q.handle("h", queue="q")
    async def handler(): ...

    monkeypatch.setattr(module, "TROUBLE_MS", 3_600_000)
    rig.faults.always["wait"] = fails(error)
    worker = rig.worker(lease_ms=3_600_000)
    await until(lambda: rig.faults.calls["wait"] >= 1 and worker._is_resting)
    await turns(500)
    assert rig.faults.calls["wait"] == 1
    assert rig.faults.calls["settle"] == 2
    await worker.stop(grace=0)
    monkeypatch.setattr(module, "TROUBLE_MS", 20)
    rig.worker(name="w2", lease_ms=3_600_000)
    await until(lambda: rig.faults.calls["wait"] >= 5)
    assert await rig.ended(await handler.enqueue()) == ["completed"]


async def test_job_that_becomes_due_is_started_without_a_signal(rig, monkeypatch):
    from psyqueue.kernel import worker as module

    monkeypatch.setattr(module, "POLL_MS", 60_000)

    @rig.q.handle("h", queue="q")
    async def handler():
        return "due"

    job = await handler.options(delay=0.2).enqueue()
    rig.faults.always["wait"] = waits_for(asyncio.Event())
    rig.worker(lease_ms=3_600_000)
    assert await rig.ended(job) == ["completed"]


async def test_due_jobs_never_start_early(still):
    @still.q.handle("h", queue="q")
    async def handler(): ...

    worker = still.worker()
    job = await handler.options(delay=10).enqueue()
    await still.advance(9.999)
    await turns(100)
    assert await still.status(job) == "scheduled"
    await still.advance(0.001)
    assert await still.ended(job) == ["completed"]
    assert worker.is_running


async def test_jobs_start_in_order_of_priority_then_of_enqueue(rig):
    started = []

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        started.append(n)

    jobs = [await handler.options(priority=n % 3).enqueue(n) for n in range(30)]
    rig.worker(concurrency=1)
    await rig.ended(*jobs)
    assert started == sorted(range(30), key=lambda n: (-(n % 3), n))


async def test_workers_take_jobs_of_their_own_queues_only(rig):
    @rig.q.handle("a", queue="qa")
    async def a(): ...

    @rig.q.handle("b", queue="qb")
    async def b(): ...

    jobs = [await a.enqueue(), await b.enqueue()]
    rig.worker("qa")
    assert await rig.ended(jobs[0]) == ["completed"]
    assert await rig.status(jobs[1]) == "pending"
    worker = rig.q.start_worker()
    assert await rig.ended(jobs[1]) == ["completed"]
    assert worker.health()["queues"] == ["qa", "qb"]


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["on the loop", "in another thread"])
async def test_handler_that_is_registered_later_brings_its_queue_to_a_sleeping_worker_at_once(
    rig, monkeypatch, is_elsewhere
):
    """Not with the next look that an idle worker takes by itself."""
    monkeypatch.setattr(worker_module, "POLL_MS", 600_000)

    @rig.q.handle("a", queue="qa")
    async def a(): ...

    async def b(): ...

    worker = rig.q.start_worker()
    assert await rig.ended(await a.enqueue()) == ["completed"]
    early = await rig.q.enqueue("b", {}, queue="qb")
    await asleep(worker)
    register = functools.partial(rig.q.handle, "b", b, queue="qb")
    handler = await asyncio.to_thread(register) if is_elsewhere else register()
    assert await rig.ended(early) == ["completed"]
    await asleep(worker)
    assert await rig.ended(await handler.enqueue(), await a.enqueue()) == ["completed"] * 2


async def test_handler_that_is_registered_later_changes_nothing_for_a_worker_of_chosen_queues(rig):
    @rig.q.handle("a", queue="qa")
    async def a(): ...

    worker = rig.q.start_worker("qa")
    assert await rig.ended(await a.enqueue()) == ["completed"]

    @rig.q.handle("b", queue="qb")
    async def b(): ...

    other, same = await b.enqueue(), await a.enqueue()
    assert await rig.ended(same) == ["completed"]
    assert await rig.status(other) == "pending"
    assert worker.health()["queues"] == ["qa"]


class Looked(list[Any]):
    """Counts the looks through it, each of which takes longer the more is in it."""

    looks = 0

    def __contains__(self, item: object) -> bool:
        self.looks += 1
        return super().__contains__(item)

    def remove(self, item: Any) -> None:
        self.looks += 1
        super().remove(item)


async def test_slot_is_woken_without_a_look_through_all_that_sleep(rig):
    gate = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler():
        await gate.wait()

    worker = rig.worker(concurrency=50)
    jobs = await rig.q.enqueue_bulk([handler.build() for _ in range(50)])
    await until(lambda: worker.health()["running"] == 50)
    gate.set()
    await rig.ended(*jobs)
    await until(lambda: len(worker._slots._parked) == 50)
    worker._slots._parked = parked = Looked(worker._slots._parked)
    for _ in range(3):
        assert await rig.ended(await handler.enqueue()) == ["completed"]
    await until(lambda: len(parked) == 50)
    assert parked.looks == 0
