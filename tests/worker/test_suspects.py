"""Jobs that one more loss would bury run alone: whoever kills its worker takes nobody else down for good."""

from __future__ import annotations

import asyncio

from worker.rig import Rig, soon, turns, until


async def lose_twice(rig: Rig, jobs, queue: str = "q") -> None:
    """Two workers died while they held these jobs."""
    for _ in range(2):
        held = await rig.settle_as_other(len(jobs), queue)
        assert len(held) == len(jobs)
        await rig.lose_sessions()
        await rig.advance(60)


class Crowd:
    """Who runs together with whom."""

    def __init__(self) -> None:
        self.inside: set[int] = set()
        self.seen: dict[int, set[int]] = {}
        self.order: list[int] = []

    async def visit(self, n: int) -> None:
        self.order.append(n)
        self.inside.add(n)
        for other in self.inside:
            self.seen.setdefault(other, set()).update(self.inside)
        await turns(20)
        self.inside.discard(n)


async def test_suspects_run_alone_one_after_the_other(still):
    crowd = Crowd()

    @still.q.handle("h", queue="q")
    async def handler(n: int):
        await crowd.visit(n)

    suspects = await still.q.enqueue_bulk([handler.build(n) for n in range(3)])
    await lose_twice(still, suspects)
    others = await still.q.enqueue_bulk([handler.build(n) for n in range(10, 20)])
    still.worker(concurrency=5, prefetch=5)
    assert await still.ended(*suspects, *others) == ["completed"] * 13
    assert [crowd.seen[n] for n in range(3)] == [{0}, {1}, {2}]
    assert any(len(crowd.seen[n]) > 1 for n in range(10, 20)), "the others run together as ever"
    assert [(await still.view(job)).attempt for job in suspects] == [3] * 3, "handed back with no attempt used"


async def suspect_behind_a_running_job(rig: Rig, release: asyncio.Event, order: list, **options):
    """(worker, the suspect that it holds unstarted, the job that runs meanwhile)."""

    @rig.q.handle("suspect", queue="s")
    async def suspect():
        order.append("suspect")

    @rig.q.handle("long", queue="q")
    async def long(n: int):
        order.append(n)
        await release.wait()

    doubted = await suspect.enqueue()
    await lose_twice(rig, [doubted], "s")
    await rig.q.pause("s")
    worker = rig.worker("q", "s", concurrency=3, **options)
    running = await long.enqueue(1)
    await rig.told.first("job:started", running.id)
    await rig.q.resume("s")
    worker._look_again()
    await until(lambda: worker.health()["held"] == 2)
    return worker, doubted, running


async def test_suspect_waits_for_what_runs_and_nothing_new_is_taken_meanwhile(still):
    release, order = asyncio.Event(), []
    _, doubted, running = await suspect_behind_a_running_job(still, release, order, lease_ms=3_600_000)
    later = await still.q.enqueue("long", {"n": 2})
    await turns(300)
    assert order == [1]
    assert await still.status(later) == "pending"
    release.set()
    assert await still.ended(doubted, running, later) == ["completed"] * 3
    assert order == [1, "suspect", 2]


async def test_job_that_was_lost_once_runs_among_the_others(still):
    crowd = Crowd()

    @still.q.handle("h", queue="q")
    async def handler(n: int):
        await crowd.visit(n)

    jobs = await still.q.enqueue_bulk([handler.build(n) for n in range(4)])
    await still.settle_as_other(4)
    await still.lose_sessions()
    still.worker(concurrency=4)
    assert await still.ended(*jobs) == ["completed"] * 4
    assert max(len(seen) for seen in crowd.seen.values()) == 4


async def test_worker_takes_other_work_again_after_a_suspect(still):
    @still.q.handle("h", queue="q")
    async def handler(how: str):
        if how == "fail":
            raise ValueError
        return how

    suspects = [await handler.options(max_retries=5).enqueue(how) for how in ("fail", "ok")]
    await lose_twice(still, suspects)
    worker = still.worker(concurrency=3)
    assert await suspects[1].result(20) == "ok"
    assert await (await handler.enqueue("next")).result(20) == "next"
    await until(lambda: worker.health()["held"] == 0)
    assert worker._slots._alone is None


async def test_suspect_that_waits_for_its_turn_can_be_cancelled(still):
    release, order = asyncio.Event(), []
    worker, doubted, running = await suspect_behind_a_running_job(still, release, order, lease_ms=300)
    await doubted.cancel()
    assert await still.ended(doubted) == ["cancelled"]
    # The others need not wait for it any more.
    later = await still.q.enqueue("long", {"n": 2})
    await still.told.first("job:started", later.id)
    release.set()
    assert await still.ended(running, later) == ["completed"] * 2
    assert order == [1, 2]
    assert worker._slots._alone is None


async def test_suspect_that_waits_for_its_turn_goes_back_when_its_queue_is_paused(still):
    release, order = asyncio.Event(), []
    worker, doubted, running = await suspect_behind_a_running_job(still, release, order, lease_ms=300)
    await still.q.pause("s")
    await until(lambda: worker.health()["held"] == 1)
    view = await still.view(doubted)
    assert (view.status, view.attempt) == ("pending", 2)
    release.set()
    assert await still.ended(running) == ["completed"]
    await still.q.resume("s")
    worker._look_again()
    assert await still.ended(doubted) == ["completed"]


async def test_suspect_that_waits_for_its_turn_is_lost_with_its_session(still):
    release, order = asyncio.Event(), []
    worker, doubted, running = await suspect_behind_a_running_job(still, release, order, lease_ms=300)
    await still.lose_sessions()
    await still.told.first("job:lease-lost", running.id)
    assert await still.ended(doubted) == ["dead"]
    release.set()
    assert await still.ended(running) == ["completed"]
    await until(lambda: worker.health()["held"] == 0)


async def test_killer_is_buried_and_its_neighbours_are_not(still):
    """Each round the worker dies with all that it runs; at last the killer stands alone and takes down only itself."""
    from psyqueue.kernel.worker import Worker

    dead: list[Worker] = []

    @still.q.handle("h", queue="q", max_retries=20)
    async def handler(n: int):
        if n == 3:
            raise KeyboardError
        await turns(30)

    class KeyboardError(BaseException):
        pass

    jobs = await still.q.enqueue_bulk([handler.build(n) for n in range(6)])
    from psyqueue.kernel.executor import Executor

    real = Executor.execute

    async def execute(self, run):
        if b"3" in run.delivery.payload:
            # The process is gone: nothing is settled, nothing is renewed.
            worker = still.core.workers[-1]
            if worker not in dead:
                dead.append(worker)
            await asyncio.Event().wait()
        await real(self, run)

    Executor.execute = execute  # type: ignore[method-assign]
    try:
        for n in range(30):
            worker = still.worker(name=f"w{n}", concurrency=6, lease_ms=3_600_000)
            await until(lambda worker=worker: worker in dead or (worker._is_resting and worker.health()["held"] == 0))
            await turns(5)
            if worker in dead:
                await kill(still, worker)
            if await still.status(jobs[3]) == "dead":
                break
            await still.advance(61)
    finally:
        Executor.execute = real  # type: ignore[method-assign]
    assert (await still.view(jobs[3])).reason == "lost"
    still.worker(name="last", concurrency=6)
    others = [job for n, job in enumerate(jobs) if n != 3]
    assert await still.ended(*others) == ["completed"] * 5


async def kill(rig: Rig, worker) -> None:
    """As SIGKILL would: no last call."""
    from psyqueue.errors import StoreUnavailable
    from worker.rig import fails

    for verb in ("settle", "close_session"):
        rig.faults.always[verb] = fails(StoreUnavailable("dead"))
    worker._settler.lose()
    worker._is_lost = True
    main = worker._main
    main.cancel()
    await soon(asyncio.wait({main}), 60)
    rig.faults.always.clear()
    (session_id,) = await rig.open_sessions()
    while session_id in await rig.open_sessions():
        # In steps: after more than a minute without a reaper each lease would get one of grace.
        await rig.store.advance_clock(50_000)
        await rig.store.reap(100)
