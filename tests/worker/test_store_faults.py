"""Calls that fail: whatever becomes of them, each outcome is applied once, and no handler is blamed."""

from __future__ import annotations

import asyncio
import random

import pytest

from psyqueue import Retry, Snooze
from psyqueue.backend import Fetch, Op, Session
from psyqueue.errors import (
    NamespaceFrozen,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    StoreUnusable,
    TooLarge,
)
from worker.rig import count_effects, effects_of, fails, loses_reply, shortened, soon, turns, until

TROUBLES = {
    "unknown": lambda: fails(StoreUnavailable("cut")),
    "refused": lambda: fails(StoreUnavailable("nobody there", "refused")),
    "busy": lambda: fails(StoreBusy("locked")),
    "full": lambda: fails(StoreFull("disk full")),
    "unusable": lambda: fails(StoreUnusable("read-only for a moment")),
    "lost reply": lambda: loses_reply(StoreUnavailable("cut")),
    "lost reply, then refused": lambda: loses_reply(StoreUnavailable("cut")),
}


def plans(name: str) -> list:
    """Some calls that go wrong in this way."""
    made = [TROUBLES[name]() for _ in range(3)]
    if "then refused" in name:
        made = [made[0], TROUBLES["refused"](), TROUBLES["full"](), TROUBLES["unusable"]()]
    return made


@pytest.mark.parametrize("trouble", list(TROUBLES))
async def test_every_outcome_is_applied_once_when_the_store_is_back(rig, monkeypatch, trouble):
    count_effects(monkeypatch)
    runs: list[int] = []

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler(ctx, n: int):
        runs.append(n)
        return n

    with shortened(monkeypatch, TROUBLE_MS=20):
        rig.worker(concurrency=3)
        for n in range(10):
            rig.faults.plans["settle"] = [(lambda call: call())] * (n % 3) + plans(trouble)
            jobs = [await handler.enqueue(2 * n), await handler.enqueue(2 * n + 1)]
            assert [await job.result(20) for job in jobs] == [2 * n, 2 * n + 1]
            assert await effects_of(rig, jobs) == [1, 1]
            assert [(await rig.view(job)).attempt for job in jobs] == [1, 1]
    assert sorted(runs) == list(range(20)), "a failing call never makes a handler run again"
    assert rig.told.of("job:failed") == []
    assert rig.told.of("worker:error")


async def test_deliveries_of_a_lost_reply_are_not_stranded(rig):
    """The fetch happened, its reply did not come; the repeats of it are refused for a while. The same op finds them."""
    runs = []

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        runs.append(n)

    worker = rig.worker(concurrency=3)
    await until(lambda: worker._is_resting)
    refused = fails(StoreUnavailable("nobody there", "refused"))
    rig.faults.plans["settle"] = [loses_reply(StoreUnavailable("cut")), refused, refused]
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(3)])
    assert await rig.ended(*jobs) == ["completed"] * 3
    assert sorted(runs) == [0, 1, 2]
    ops = [args[0] for verb, args in rig.faults.args if verb == "settle"]
    assert max(ops.count(op) for op in ops) == 4


async def test_random_faults_under_load_lose_nothing_and_repeat_nothing(rig, monkeypatch):
    """Every third call or so goes wrong, in any way; every job ends, each of its ends is applied once."""
    count_effects(monkeypatch)
    dice = random.Random(7)
    starts: dict[int, int] = {}

    @rig.q.handle("h", queue="q", max_retries=10, backoff="fixed", backoff_base=0)
    async def handler(ctx, n: int):
        starts[n] = starts.get(n, 0) + 1
        if n % 7 == 3 and ctx.attempt == 1:
            raise ValueError("once")
        if n % 7 == 5 and starts[n] == 1:
            return Snooze(0)
        if n % 7 == 6 and starts[n] == 1:
            raise Retry(after=0)
        await asyncio.sleep(0)
        return n

    async def sometimes(call):
        roll = dice.random()
        if roll < 0.1:
            return await loses_reply(StoreUnavailable("cut"))(call)
        if roll < 0.3:
            name = dice.choice(["unknown", "refused", "busy", "full"])
            return await TROUBLES[name]()(call)
        return await call()

    with shortened(monkeypatch, TROUBLE_MS=5):
        jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(300)])
        rig.faults.always["settle"] = sometimes
        rig.worker(concurrency=10)
        assert await rig.ended(*jobs) == ["completed"] * 300
        rig.faults.always.clear()
    assert await effects_of(rig, jobs) == [1] * 300
    expected = {n: 2 if n % 7 in (3, 5, 6) else 1 for n in range(300)}
    assert starts == expected


async def test_store_that_is_full_takes_the_outcome_when_it_has_room(rig, monkeypatch):
    """With a pause: a full store is not asked again and again."""

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        rig.faults.always["settle"] = fails(StoreFull("disk full"))
        return "kept"

    with shortened(monkeypatch, TROUBLE_MS=50):
        rig.worker()
        job = await handler.enqueue()
        await until(lambda: rig.faults.calls["settle"] >= 4)
        rig.faults.calls.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(2_000):
            await turns()
        pauses_most = (loop.time() - began) / 0.025  # each is shortened by chance, to a half at most
        assert rig.faults.calls["settle"] <= 2 + pauses_most
        rig.faults.always.clear()
        assert await job.result(20) == "kept"


async def test_store_that_stays_unusable_ends_the_worker(rig, monkeypatch):
    """A lease's length of it: by then nothing that it holds counts any more."""

    @rig.q.handle("h", queue="q")
    async def handler():
        rig.faults.always["settle"] = fails(StoreUnusable("not a database"))

    worker = rig.worker(lease_ms=300)
    await handler.enqueue()
    with pytest.raises(StoreUnusable):
        await soon(worker.wait())
    rig.faults.always.clear()


# ── a batch that is refused as a whole ────────────────────────────────────────────────────────────────────────────────
async def test_batch_that_is_too_large_is_halved_and_only_the_one_to_blame_pays(rig):
    gate = asyncio.Event()

    @rig.q.handle("h", queue="q", max_retries=5)
    async def handler(n: int):
        await gate.wait()
        return f"result {n}"

    async def limited(call):
        op, session_id, outcomes, *_ = rig.faults.args[-1][1]
        if any(b"result 5" in getattr(outcome, "result", b"") for outcome in outcomes):
            raise TooLarge("more than I take")
        return await call()

    rig.faults.always["settle"] = limited
    rig.worker(concurrency=16)
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(16)])
    await rig.told.first("job:started", count=16)
    gate.set()
    assert await rig.ended(*jobs) == ["completed"] * 5 + ["dead"] + ["completed"] * 10
    view = await rig.view(jobs[5])
    assert (view.reason, view.attempt, view.errors[0]["code"]) == ("too_large", 1, "TOO_LARGE")
    await rig.told.first("job:dead")
    await rig.told.first("job:completed", count=15)
    for job in jobs:
        assert len([told for told in rig.told.types(job.id) if told in ("job:completed", "job:dead")]) == 1


async def test_results_beyond_what_one_call_takes_go_in_several(rig):
    """Twelve of a megabyte, and eight fit."""
    gate = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await gate.wait()
        return "x" * 1_000_000

    rig.worker(concurrency=12)
    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(12)])
    await rig.told.first("job:started", count=12)
    gate.set()
    assert await rig.ended(*jobs) == ["completed"] * 12
    assert [len((await rig.view(job)).result) for job in jobs] == [1_000_000] * 12


async def test_half_that_was_settled_is_told_although_the_other_half_failed(rig, monkeypatch):
    """The second half meets a full store: the first is settled and told, once."""
    gate = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await gate.wait()

    with shortened(monkeypatch, TROUBLE_MS=20):
        worker = rig.worker(concurrency=4)
        jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(4)])
        await rig.told.first("job:started", count=4)
        await until(lambda: worker._is_resting)
        rig.faults.plans["settle"] = [fails(TooLarge("no")), lambda call: call(), fails(StoreFull("full"))]
        gate.set()
        assert await rig.ended(*jobs) == ["completed"] * 4
    await rig.told.first("job:completed", count=4)
    assert sorted(event["job_id"] for event in rig.told.of("job:completed")) == sorted(job.id for job in jobs)
    await until(lambda: worker.health()["held"] == 0)


async def test_result_over_the_limit_is_dead_at_once(rig):
    @rig.q.handle("h", queue="q")
    async def handler():
        return "x" * 1_100_000

    rig.worker()
    job = await handler.enqueue()
    assert await rig.ended(job) == ["dead"]
    assert (await rig.view(job)).reason == "result"


# ── the namespace is closed ───────────────────────────────────────────────────────────────────────────────────────────
async def test_frozen_namespace_takes_the_outcomes_and_gives_nothing_until_it_opens(rig, monkeypatch):
    from psyqueue.kernel import worker as module

    monkeypatch.setattr(module, "POLL_MS", 50)
    go_on = asyncio.Event()

    @rig.q.handle("h", queue="q")
    async def handler(n: int):
        await go_on.wait()

    jobs = await rig.q.enqueue_bulk([handler.build(n) for n in range(2)])
    worker = rig.worker(concurrency=1)
    await rig.told.first("job:started")
    info = await rig.store.info()
    await rig.store.set_mode(Op("mover", 1, 1), "frozen", info.epoch + 1)
    go_on.set()
    assert await rig.ended(jobs[0]) == ["completed"]
    await rig.told.first("worker:error")
    rig.faults.calls.clear()
    await until(lambda: rig.faults.calls["wait"] >= 5)
    assert rig.faults.calls["settle"] <= 2 * rig.faults.calls["wait"] + 2, "it does not spin"
    assert await rig.status(jobs[1]) == "pending"
    await rig.store.set_mode(Op("mover", 1, 2), "open", info.epoch + 2)
    assert await rig.ended(jobs[1]) == ["completed"]
    assert worker.failure is None


async def test_refusal_of_outcomes_by_a_closed_namespace_does_not_spin(rig, monkeypatch):
    """No store of ours does it; one that did would get the outcomes again, with a pause."""

    @rig.q.handle("h", queue="q", max_retries=0)
    async def handler():
        rig.faults.always["settle"] = fails(NamespaceFrozen("moving"))
        return "kept"

    with shortened(monkeypatch, TROUBLE_MS=50):
        rig.worker()
        job = await handler.enqueue()
        await until(lambda: rig.faults.calls["settle"] >= 4)
        rig.faults.always.clear()
        assert await job.result(20) == "kept"


async def test_repeated_settle_is_one_settle(rig):
    """What the worker relies on: the same op again is answered with the first reply."""
    await rig.q.enqueue("h", queue="q")
    client = Op("c", 1, 1)
    await rig.store.open_session(client, Session(id="s", worker="x", queues=("q",), lease_ms=60_000))
    fetch = Fetch(queues=("q",), count=1, token_seed="0" * 32)
    first = await rig.store.settle(Op("c", 1, 2), "s", (), fetch)
    again = await rig.store.settle(Op("c", 1, 2), "s", (), fetch)
    assert first.deliveries == again.deliveries
