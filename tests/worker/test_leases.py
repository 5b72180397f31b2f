"""The session's lease: kept while the worker lives, and everything that follows when it is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from psyqueue.backend import Done, Fetch, Op, Renewal, Session
from psyqueue.clock import SystemClock
from psyqueue.errors import StoreUnavailable
from psyqueue.kernel.lease_keeper import LeaseKeeper
from worker.rig import LIMIT_S, Rig, fails, lease_threads, renewed_often, shortened, soon, turns, until, waits_for


async def reaped(rig: Rig, job) -> None:
    """The lease of whoever holds the job ends now, and the job goes back."""
    await rig.told.first("job:started", job.id)
    await rig.lose_sessions()
    assert (await rig.view(job)).lost >= 1  # its worker may have it again already


# ── lost ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_lost_session_stops_its_runs_and_the_worker_goes_on_in_a_new_one(still):
    """The session is reaped under the worker, which hears of it with its next renewal."""
    seen, runs = [], []

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        runs.append(ctx.fence)
        if len(runs) > 1:
            return "second"
        try:
            await asyncio.Event().wait()
        finally:
            seen.append((ctx.lease_lost, ctx.cancelled))

    worker = still.worker(concurrency=1, lease_ms=300)
    job = await handler.enqueue()
    await still.told.first("job:started", job.id)
    first = await still.open_sessions()
    await reaped(still, job)
    assert await job.result(20) == "second"
    assert seen == [(True, False)]
    assert runs == [1, 2]
    await still.told.first("job:completed", job.id)
    assert still.told.types(job.id) == [
        "job:enqueued",
        "job:started",
        "job:lease-lost",
        "job:started",
        "job:completed",
    ]
    second = await still.open_sessions()
    assert (len(second), set(first) & set(second)) == (1, set())
    view = await still.view(job)
    assert (view.attempt, view.lost, view.errors[0]["type"]) == (2, 1, "WorkerLost")
    assert worker.is_running


async def test_outcome_of_a_lost_session_is_dropped_and_told_as_lost(still):
    """The worker hears of the loss from the store, when it brings the outcome."""
    go_on = asyncio.Event()

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        if ctx.fence == 1:
            await go_on.wait()
        return ctx.fence

    still.worker(concurrency=1, lease_ms=60_000)
    job = await handler.enqueue()
    await reaped(still, job)
    go_on.set()
    assert await job.result(20) == 2
    await still.told.first("job:completed", job.id)
    assert still.told.types(job.id).count("job:lease-lost") == 1
    assert still.told.types(job.id).count("job:completed") == 1


async def test_run_of_a_lost_session_never_counts_in_the_new_one(still, deaf, monkeypatch):
    """It ignores its stop and ends long after the worker opened a new session and runs the same job again."""

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        if ctx.fence == 1:
            await deaf.ignore_cancels()
            return "first"
        return "second"

    with shortened(monkeypatch, ABANDON_MS=100):
        worker = still.worker(concurrency=2, lease_ms=300)
        job = await handler.enqueue()
        await reaped(still, job)
        assert await job.result(20) == "second"
        # Its slot is taken until it returns, the accounting of what is held is not.
        await until(lambda: worker.health()["held"] == 0)
        assert worker._slots._free_size() == 1
        deaf.open()
        await until(lambda: worker._slots._free_size() == 2)
        assert worker.health()["held"] == 0
        assert (await still.view(job)).result == "second"
        assert len(still.told.of("job:lease-lost", job.id)) == 1


async def test_run_that_was_told_to_stop_before_its_session_was_lost_does_not_settle_either(still, deaf, monkeypatch):
    @still.q.handle("h", queue="q", timeout=0.05)
    async def handler(ctx):
        if ctx.fence == 1:
            await deaf.ignore_cancels()
        return ctx.fence

    with shortened(monkeypatch, ABANDON_MS=60_000):
        worker = still.worker(concurrency=2, lease_ms=300)
        job = await handler.enqueue()
        await still.told.first("job:started", job.id)
        await until(lambda: deaf.swallowed)
        await reaped(still, job)
        assert await job.result(20) == 2
        deaf.open()
        await until(lambda: worker.health()["held"] == 0)
    assert still.told.of("job:retry", job.id) == []
    assert len(still.told.of("job:lease-lost", job.id)) == 1


async def test_thread_of_a_lost_session_sees_it_and_keeps_its_slot_until_it_returns(still, blocker):
    seen = []

    @still.q.handle("h", queue="q")
    def handler(ctx):
        if ctx.fence == 1:
            blocker.block()
            seen.append(ctx.lease_lost)
            ctx.progress("of a run that does not count")
            return "first"
        return "second"

    worker = still.worker(concurrency=1, lease_ms=300)
    job = await handler.enqueue()
    await reaped(still, job)
    await still.told.first("job:lease-lost", job.id)
    await until(lambda: worker._threads.abandoned == 1)
    await turns(100)
    assert await still.status(job) == "pending"
    blocker.open()
    assert await job.result(20) == "second"
    assert seen == [True]
    assert (await still.store.read_state([f"progress:{job.id}"]))[0] is None


async def test_deliveries_that_wait_for_a_slot_are_dropped_with_their_session(still):
    release, runs = asyncio.Event(), []

    @still.q.handle("h", queue="q")
    async def handler(ctx, n: int):
        runs.append((n, ctx.fence))
        if ctx.fence == 1:
            await release.wait()

    worker = still.worker(concurrency=1, prefetch=5, lease_ms=300)
    jobs = await still.q.enqueue_bulk([handler.build(n) for n in range(4)])
    await still.told.first("job:started", jobs[0].id)
    while (await still.statuses("q"))["active"] < 4:
        await turns()
    await still.lose_sessions()
    assert await still.ended(*jobs) == ["completed"] * 4
    assert runs[0] == (0, 1)
    assert sorted(runs[1:]) == [(n, 2) for n in range(4)]
    await until(lambda: worker.health()["held"] == 0)


async def test_late_renewal_and_late_settle_count_until_somebody_reaped(still):
    go_on = asyncio.Event()

    @still.q.handle("h", queue="q")
    async def handler():
        await go_on.wait()
        return "late"

    still.worker(concurrency=1, lease_ms=60_000)
    job = await handler.enqueue()
    await still.told.first("job:started", job.id)
    await still.advance(3_600)
    (info,) = (await still.store.sessions(None, 10))[0]
    assert info.expires_in_ms < 0
    go_on.set()
    assert await job.result(20) == "late"
    assert still.told.of("job:lease-lost") == []


async def test_lease_that_ended_is_renewed_as_long_as_nobody_reaped(still):
    @still.q.handle("h", queue="q")
    async def handler(): ...

    async def nobody_reaps(call):
        return Done()

    still.faults.always["reap"] = nobody_reaps
    still.worker(lease_ms=300)
    await still.told.first("worker:started")
    (info,) = (await still.store.sessions(None, 10))[0]
    await still.advance(10)
    async with asyncio.timeout(20):
        while (await still.store.sessions(None, 10))[0][0].expires_in_ms <= 0:
            await turns()
    assert await still.open_sessions() == [info.session.id]


async def test_renewal_that_arrives_after_the_session_was_given_up_does_not_hit_the_next_one(still, monkeypatch):
    """The lease thread is in the middle of a renewal, which finds the session closed, while the loop starts over."""
    renewing, answer = threading.Event(), threading.Event()
    runs = []

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        runs.append(ctx.fence)
        await asyncio.Event().wait()

    real = still.store.keeper

    class Slow:
        def __init__(self):
            self.keeper = real()

        def renew(self, session_id):
            renewing.set()
            assert answer.wait(20)
            return self.keeper.renew(session_id)

        def close(self):
            self.keeper.close()

    made = []

    def keeper():
        made.append(Slow() if not made else real())
        return made[-1]

    monkeypatch.setattr(type(still.faults.store), "keeper", lambda self: keeper())
    worker = still.worker(concurrency=1, lease_ms=600)
    job = await handler.enqueue()
    await still.told.first("job:started", job.id)
    assert await asyncio.to_thread(renewing.wait, 20)
    await still.lose_sessions()
    worker._is_lost = True  # as the store would say with the next settle
    worker._wake.set()
    await still.told.first("job:started", job.id, count=2)
    sessions = await still.open_sessions()
    answer.set()
    await until(lambda: len([name for name in lease_threads() if sessions[0][:8] in name]) == len(lease_threads()))
    await turns(50)
    assert await still.open_sessions() == sessions
    assert runs == [1, 2]
    assert len(still.told.of("job:lease-lost", job.id)) == 1


async def test_single_delivery_that_somebody_else_has_is_told_as_lost(rig):
    """The session is open, but this job was taken away from it: its progress is refused, its run is stopped."""
    from psyqueue.backend import Settled, SettleReply

    stopped = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(ctx):
        async def lost(call):
            (op, _, (keep,), _) = rig.faults.args[-1][1]
            return SettleReply((Settled(keep.job_id, "lost", None),))

        rig.faults.plans["settle"] = [lost]
        ctx.progress(1)
        try:
            await asyncio.Event().wait()
        finally:
            if ctx.lease_lost:
                stopped.set()

    worker = rig.worker(concurrency=1)
    job = await handler.enqueue()
    await soon(stopped.wait())
    await rig.told.first("job:lease-lost", job.id)
    await until(lambda: worker.health()["held"] == 0)
    assert len(rig.told.of("job:lease-lost", job.id)) == 1


async def test_session_lost_while_the_worker_stops_ends_it_at_once(still):
    began = asyncio.Event()

    @still.q.handle("h", queue="q")
    async def handler():
        began.set()
        await asyncio.Event().wait()

    worker = still.worker(concurrency=1, lease_ms=300)
    job = await handler.enqueue()
    await soon(began.wait())
    stopping = asyncio.create_task(worker.stop(grace="1h"))
    await turns(5)
    await still.lose_sessions()
    await soon(stopping)
    assert await still.status(job) == "pending"
    assert await still.open_sessions() == []


# ── kept ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def reap_from_a_thread(rig: Rig) -> list[str]:
    """What a reaper in another process would take back now: the loop of this one is blocked."""

    async def reap() -> list[str]:
        if type(rig.store).__name__ == "MemoryBackend":
            other = type(rig.store)(shared_with=rig.store)
        else:
            known: Any = getattr(rig.store, "_client", rig.store)
            other = type(rig.store)(known._options)  # type: ignore[call-arg]
        await other.connect()
        try:
            return list((await other.reap(100)).ids)
        finally:
            if type(rig.store).__name__ != "MemoryBackend":
                await other.disconnect()

    return asyncio.run(reap())


async def test_lease_is_renewed_while_a_handler_blocks_the_loop_for_longer_than_the_lease(rig, monkeypatch):
    taken: list[str] = []

    @rig.q.handle("h", queue="q")
    async def handler():
        end = time.monotonic() + 3
        tick = threading.Event()
        while time.monotonic() < end:
            tick.wait(0.01)
        reaper = threading.Thread(target=lambda: taken.extend(reap_from_a_thread(rig)))
        reaper.start()
        reaper.join(20)
        return "kept"

    rig.worker(concurrency=1, lease_ms=renewed_often(monkeypatch, 2_000))
    job = await handler.enqueue()
    assert await job.result(30) == "kept"
    assert taken == []
    assert (await rig.view(job)).lost == 0


async def test_loop_that_hangs_for_too_long_is_no_longer_renewed_and_its_process_is_told(rig, monkeypatch):
    hung, renewals = threading.Event(), []
    rig.core.on_hang = hung.set
    real = rig.store.keeper

    class Counted:
        def __init__(self):
            self.keeper = real()

        def renew(self, session_id):
            renewals.append(hung.is_set())
            return self.keeper.renew(session_id)

        def close(self):
            self.keeper.close()

    monkeypatch.setattr(type(rig.store), "keeper", lambda self: Counted())
    counted: list[int] = []

    @rig.q.handle("h", queue="q")
    async def handler():
        hung.clear()  # a busy machine may have let the loop stand still before
        assert hung.wait(20)
        before = len(renewals)
        tick, end = threading.Event(), time.monotonic() + 0.5
        while time.monotonic() < end:
            tick.wait(0.01)
        counted.append(len(renewals) - before)
        return "came back"

    async def nobody_reaps(call):
        return Done()

    rig.faults.always["reap"] = nobody_reaps
    rig.worker(concurrency=1, lease_ms=300, hang_ms=600)
    job = await handler.enqueue()
    assert await job.result(30) == "came back"
    # At most the renewal that was under way.
    assert counted[0] <= 1
    # A loop that turns again, and whose jobs nobody took, is renewed again.
    before = len(renewals)
    await until(lambda: len(renewals) > before + 3)
    assert rig.told.of("job:lease-lost") == []


async def test_stop_of_the_whole_process_is_not_taken_for_a_hanging_loop(rig):
    """SIGSTOP and sleeping machines: the clock jumps, and the loop did not turn meanwhile; neither did the thread."""

    class Jumping:
        now = 0.0

        def mono_ms(self):
            return self.now

    hung, renewed = [], []
    clock = Jumping()

    class Keeper:
        def renew(self, session_id):
            renewed.append(1)
            return Renewal(True, (), (), 0)

        def close(self): ...

    keeper = LeaseKeeper(
        Keeper(),
        "s",
        lease_ms=30_000,
        hang_ms=300_000,
        clock=clock,  # type: ignore[arg-type]
        turns=lambda: 1,
        on_renewal=lambda renewal: None,
        on_hang=lambda: hung.append(1),
    )
    clock.now += 3_600_000
    assert keeper._is_hanging(10_000) is False
    for _ in range(40):
        clock.now += 10_000
        keeper._is_hanging(10_000)
    assert hung == [1]


def test_lease_thread_ends_with_a_loop_that_was_closed_without_a_stop():
    class Keeper:
        is_closed = threading.Event()

        def renew(self, session_id):
            return Renewal(True, (), (), 0)

        def close(self):
            self.is_closed.set()

    async def begin():
        keeper = LeaseKeeper(
            Keeper(),
            "s",
            lease_ms=30,
            hang_ms=300_000,
            clock=SystemClock(),
            turns=lambda: 1,
            on_renewal=lambda renewal: None,
            on_hang=lambda: None,
        )
        keeper.start()

    asyncio.run(begin())
    assert Keeper.is_closed.wait(LIMIT_S)


async def test_a_store_that_stays_away_does_not_fill_the_log(rig, caplog):
    tries = []

    class Away:
        def renew(self, session_id):
            tries.append(session_id)
            raise StoreUnavailable("nobody there")

        def close(self): ...

    worker = rig.worker(lease_ms=400)
    rig.faults.always["promote"] = fails(StoreUnavailable("nobody there"))
    keeper = LeaseKeeper(
        Away(),
        "s",
        lease_ms=40,
        hang_ms=300_000,
        clock=SystemClock(),
        turns=lambda: 1,
        on_renewal=lambda renewal: None,
        on_hang=lambda: None,
    )
    keeper.start()
    await until(lambda: len(tries) > 5 and rig.faults.calls["promote"] > 5)
    keeper.stop()
    del rig.faults.always["promote"]
    said = [record.message for record in caplog.records]
    assert said.count("lease not renewed, trying again") == 1
    assert said.count("maintenance postponed") == 1
    assert worker.failure is None


async def test_renewals_that_fail_are_repeated_sooner_and_lose_nothing(rig, monkeypatch):
    failures = [StoreUnavailable("cut"), ValueError("a bug"), StoreUnavailable("cut")]
    real = rig.store.keeper

    class Failing:
        def __init__(self):
            self.keeper = real()

        def renew(self, session_id):
            if failures:
                raise failures.pop(0)
            return self.keeper.renew(session_id)

        def close(self):
            self.keeper.close()

    monkeypatch.setattr(type(rig.store), "keeper", lambda self: Failing())

    @rig.q.handle("h", queue="q")
    async def handler():
        await until(lambda: not failures)
        return "kept"

    rig.worker(lease_ms=renewed_often(monkeypatch))
    assert await (await handler.enqueue()).result(20) == "kept"
    assert rig.told.of("job:lease-lost") == []


async def test_lease_thread_and_its_connection_are_gone_when_the_worker_is(rig, monkeypatch):
    closed = []
    real = rig.store.keeper

    class Noted:
        def __init__(self):
            self.keeper = real()
            self.renew = self.keeper.renew

        def close(self):
            self.keeper.close()
            closed.append(1)

    monkeypatch.setattr(type(rig.store), "keeper", lambda self: Noted())
    before = lease_threads()
    workers = [rig.worker("q", name=f"w{n}", lease_ms=60_000) for n in range(3)]
    await rig.told.first("worker:started", count=3)
    assert len(lease_threads()) == len(before) + 3
    for worker in workers:
        await soon(worker.stop(grace=0))
    assert closed == [1, 1, 1]
    await until(lambda: lease_threads() == before)


# ── those of others ───────────────────────────────────────────────────────────────────────────────────────────────────
class MovedClock(SystemClock):
    """The process's time, and what a test adds to it."""

    def __init__(self) -> None:
        self.added_ms = 0.0

    def mono_ms(self) -> float:
        return super().mono_ms() + self.added_ms


async def test_whoever_could_not_renew_its_own_lease_judges_no_other(still, monkeypatch):
    """A store that was away, a machine that slept: leases ended whose workers live and are about to renew them.

    Half a lease without a renewal, then half a lease behind it; the test moves the worker's clock.
    """
    from psyqueue.kernel import housekeeper

    monkeypatch.setattr(housekeeper, "PERIOD_MS", 10)
    still.core.clock = clock = MovedClock()
    calls = still.faults.calls

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        return ctx.job.lost

    job = await handler.enqueue()
    await still.settle_as_other()
    worker = still.worker(lease_ms=renewed_often(monkeypatch))
    await until(lambda: calls["reap"])
    keeper, may_renew = worker._keeper._keeper, threading.Event()
    really_renew = keeper.renew
    may_renew.set()
    monkeypatch.setattr(keeper, "renew", lambda session: may_renew.wait(LIMIT_S) and really_renew(session))

    async def rounds_without_a_reap() -> None:
        reaps, rounds = calls["reap"], calls["promote"]
        await until(lambda: calls["promote"] >= rounds + 20)
        assert calls["reap"] == reaps
        assert await still.status(job) == "active"

    async def renewed_after(duration_ms: float) -> None:
        clock.added_ms += duration_ms
        moved_ms = clock.mono_ms()
        may_renew.set()
        await until(lambda: worker._keeper._renewed_ms >= moved_ms)

    may_renew.clear()
    clock.added_ms += 30_000
    await rounds_without_a_reap()
    await still.advance(59)
    await still.store.reap(10)
    await still.advance(2)
    await rounds_without_a_reap()
    await renewed_after(0)
    await rounds_without_a_reap()
    await renewed_after(16_000)
    await renewed_after(16_000)
    assert await job.result(20) == 1


async def test_a_short_lease_that_is_renewed_late_all_the_time_does_not_keep_a_worker_from_reaping(still, monkeypatch):
    """A store that is slow, not away: each renewal comes more than half a lease behind the last one."""
    from psyqueue.kernel import lease_keeper

    monkeypatch.setattr(lease_keeper, "RENEWALS_PER_LEASE", 0.5)

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        return ctx.job.lost

    job = await handler.enqueue()
    await still.settle_as_other()
    await still.store.reap(10)
    await still.advance(59)
    worker = still.worker(lease_ms=100)
    await until(lambda: worker._keeper is not None)
    began_ms = worker._keeper._renewed_ms
    await until(lambda: worker._keeper._renewed_ms > began_ms)
    await still.store.reap(10)
    await still.advance(2)
    assert await job.result(20) == 1


async def test_any_worker_takes_back_the_jobs_of_a_dead_one_and_tells_it(still):
    @still.q.handle("h", queue="q")
    async def handler(ctx):
        return [ctx.attempt, ctx.job.lost]

    job = await handler.enqueue()
    await still.settle_as_other()
    await still.store.reap(10)
    await still.advance(59)
    await still.store.reap(10)
    await still.advance(2)
    still.worker(lease_ms=300)
    assert await job.result(20) == [2, 1]
    await still.told.first("job:recovered")
    assert still.told.of("job:recovered") == [{"count": 1, "job_ids": [job.id]}]


async def test_housekeeping_goes_on_after_any_failure(still):
    """A worker that stopped to reap would leave the jobs of dead ones lying."""

    @still.q.handle("h", queue="q")
    async def handler():
        return "found"

    job = await handler.enqueue()
    await still.settle_as_other()
    still.faults.plans["reap"] = [fails(StoreUnavailable("cut")), fails(KeyError("a bug"))]
    await still.advance(59)
    await still.store.reap(10)
    await still.advance(2)
    still.worker(lease_ms=300)
    assert await job.result(20) == "found"
    assert still.faults.calls["reap"] >= 3


async def test_delivery_that_arrives_together_with_the_news_of_the_loss_is_not_started(still):
    """The renewal says that the session is gone while the fetch that it still served is on its way back."""
    from worker.rig import answers_after

    gate, done, runs = asyncio.Event(), asyncio.Event(), []

    @still.q.handle("h", queue="q")
    async def handler(ctx):
        runs.append(ctx.fence)

    worker = still.worker("q", concurrency=1, lease_ms=60_000)
    await still.told.first("worker:started")
    await until(lambda: worker._waiter is not None and worker._is_resting)
    still.faults.plans["settle"] = [answers_after(gate, done)]
    job = await handler.enqueue()
    await soon(done.wait())
    await still.lose_sessions()
    worker._is_lost = True
    gate.set()
    assert await still.ended(job) == ["completed"]
    assert runs == [2]


@pytest.mark.parametrize("verb", ["open_session", "settle"])
async def test_worker_that_waits_for_its_store_to_start_can_be_stopped_at_once(built, verb):
    gate = asyncio.Event()
    async with built.q:
        entered = asyncio.Event()
        built.faults.always[verb] = waits_for(gate, entered)
        worker = built.worker("q")
        await soon(entered.wait())
        if verb == "open_session":
            await soon(worker.stop(grace="1h"))
            assert not worker.is_running
        gate.set()
        built.faults.always.clear()
        await built.q.stop(grace=0)


async def test_fetch_of_a_closed_session_is_refused(still):
    """What the worker relies on: no job is owned by nobody."""
    from psyqueue import SessionLost

    await still.store.open_session(Op("c", 1, 1), Session(id="s", worker="x", queues=("q",), lease_ms=1_000))
    await still.lose_sessions()
    with pytest.raises(SessionLost):
        await still.store.settle(Op("c", 1, 2), "s", (), Fetch(queues=("q",), count=1, token_seed="0" * 32))
