"""Concurrent enqueues share store calls, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from psyqueue import InvalidOption, KeyConflict, NamespaceMoved, QueueFull, StoreBusy, StoreFull, StoreUnavailable
from psyqueue.backend import Enqueued, Idempotency, NewJob
from psyqueue.backend.bounds import ITEMS_MAX
from psyqueue.kernel.coalescer import CROWD, Coalescer
from psyqueue.kernel.ops import Channel
from support.kernel import FakeClock, next_turn


def job(name, size=2, **fields):
    return NewJob(id=str(name), name="n", payload=b"x" * size, **{"queue": "q", **fields})


class Store:
    """Answers when `gate` is open. `refuses` maps a job id to the error of every call that holds it.

    `room` maps a queue, or a queue and a lane, to how many more it takes. `looks` are ids that were looked for.
    """

    def __init__(self):
        self.calls = []
        self.room = {}
        self.there = set()
        self.looks = []
        self.turns = []
        self.in_flight = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses = {}

    async def send(self, op, jobs):
        self.calls.append([each.id for each in jobs])
        self.turns.append(op.turn)
        assert op.channel not in self.in_flight
        self.in_flight[op.channel] = len(jobs)
        try:
            await self.gate.wait()
        finally:
            del self.in_flight[op.channel]
        for each in jobs:
            if each.id in self.refuses:
                raise self.refuses[each.id]
        self.take_in(jobs)
        return tuple(Enqueued(each.id, True, "pending") for each in jobs)

    def take_in(self, jobs):
        """All or none."""
        room = dict(self.room)
        for each in jobs:
            if each.id in self.there:
                continue
            for place in ((each.queue, None), (each.queue, each.lane)):
                if place in room:
                    room[place] -= 1
                    if room[place] < 0:
                        raise QueueFull(place[0], place[1], 7)
        self.room = room
        self.there.update(each.id for each in jobs)

    async def look(self, ids):
        self.looks.append(list(ids))
        return [each if each in self.there else None for each in ids]


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def coalescer(store):
    return Coalescer([Channel("c", 1, clock=FakeClock(), chance=lambda: 0.5)], store.send, store.look)


@pytest.fixture
def sharing(store):
    """For a store that takes in two calls beside each other."""
    channels = [Channel("c", number, clock=FakeClock(), chance=lambda: 0.5) for number in (1, 2)]
    return Coalescer(channels, store.send, store.look)


async def gather_behind(coalescer, store, batches):
    """Start one call that is held, then the others behind it; let the held one go."""
    store.gate.clear()
    first = asyncio.ensure_future(coalescer.submit((job("first"),)))
    await next_turn()
    callers = [asyncio.ensure_future(coalescer.submit(batch)) for batch in batches]
    await next_turn()
    store.gate.set()
    results = await asyncio.gather(first, *callers, return_exceptions=True)
    return results[1:]


async def test_lone_callers_make_their_own_calls(coalescer, store):
    for name in "ab":
        (reply,) = await coalescer.submit((job(name),))
        assert reply.job_id == name
    assert store.calls == [["a"], ["b"]]


async def test_callers_gather_while_a_call_is_in_flight_and_get_their_own_replies(coalescer, store):
    batches = [(job(1),), (job(2), job(3)), (job(4),)]
    replies = await gather_behind(coalescer, store, batches)
    assert store.calls == [["first"], ["1", "2", "3", "4"]]
    assert [[each.job_id for each in reply] for reply in replies] == [["1"], ["2", "3"], ["4"]]
    assert store.turns == [1, 2]


async def test_callers_that_come_back_at_once_go_together_again(coalescer, store):
    """100 callers in a loop make one call a round, not one call each."""

    async def caller(n):
        for _ in range(10):
            await coalescer.submit((job(n),))

    await asyncio.gather(*(caller(n) for n in range(100)))
    assert sum(map(len, store.calls)) == 1000
    # The store answers without waiting here, so lone callers may slip in between.
    store.calls.clear()
    held = store.send

    async def answers_later(op, jobs):
        await next_turn()
        return await held(op, jobs)

    coalescer._send = coalescer._calls._send = answers_later
    await asyncio.gather(*(caller(n) for n in range(100)))
    assert len(store.calls) <= 12


async def test_a_call_takes_at_most_500_items_and_8_mib(coalescer, store):
    batches = [tuple(job(f"{n}-{m}") for m in range(200)) for n in range(4)]
    await gather_behind(coalescer, store, batches)
    assert [len(call) for call in store.calls] == [1, 400, 400]
    store.calls.clear()
    await gather_behind(coalescer, store, [(job(n, 3 << 20),) for n in range(5)])
    assert [len(call) for call in store.calls] == [1, 2, 2, 1]


async def test_one_callers_bad_job_never_spoils_another(coalescer, store):
    store.refuses["bad"] = KeyConflict("k", "other", "unique")
    good, bad, also_good = await gather_behind(
        coalescer, store, [(job("good"),), (job("fine"), job("bad")), (job("also good"),)]
    )
    assert [each.job_id for each in good] == ["good"]
    assert isinstance(bad, KeyConflict)
    assert [each.job_id for each in also_good] == ["also good"]
    assert store.calls[2:] == [["good"], ["fine", "bad"], ["also good"]]
    assert store.turns == [1, 2, 3, 4, 5]


async def test_wrong_option_found_by_the_store_is_for_its_caller_only(coalescer, store):
    store.refuses["bad"] = InvalidOption("x", 1, "no")
    good, bad = await gather_behind(coalescer, store, [(job("good"),), (job("bad"),)])
    assert [each.job_id for each in good] == ["good"]
    assert isinstance(bad, InvalidOption)


@pytest.mark.parametrize("error", [NamespaceMoved("redis:"), StoreFull("full"), StoreUnavailable("no", "refused")])
async def test_what_holds_for_everybody_is_told_to_everybody_after_one_call(coalescer, store, error):
    store.refuses["a"] = error
    results = await gather_behind(coalescer, store, [(job("a"),), (job("b"),)])
    assert [(type(each), str(each)) for each in results] == [(type(error), str(error))] * 2
    assert results[0] is not results[1], "who catches one may add to it"
    assert len(store.calls) == 2


async def test_whoever_waits_is_cancelled_with_the_call_that_carries_him(coalescer, store):
    """At the end of a loop, among others after a refusal: nobody is left waiting for ever."""
    store.refuses["a"] = KeyConflict("k", "other", "unique")
    store.gate.clear()
    first = asyncio.ensure_future(coalescer.submit((job("first"),)))
    await next_turn()
    callers = [asyncio.ensure_future(coalescer.submit((job(name),))) for name in "abc"]
    await next_turn()
    held, store.gate = store.gate, asyncio.Event()
    held.set()
    await first
    for opens in (True, False):
        while not store.in_flight:
            await next_turn()
        if opens:
            held, store.gate = store.gate, asyncio.Event()
            held.set()
            await next_turn()
    (serving,) = [task for task in asyncio.all_tasks() if task.get_name() == "psyqueue-enqueue"]
    serving.cancel()
    results = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert [type(each) for each in results] == [asyncio.CancelledError] * 3


# ── a queue that is full ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("room", [0, 1, 7, 250, 498, 499])
async def test_a_crowd_at_a_full_queue_is_turned_away_by_a_few_calls(coalescer, store, room):
    """Alone each would need a call of its own. Whoever came first gets what room there is."""
    store.room[("q", None)] = 1 + room
    results = await gather_behind(coalescer, store, [(job(n),) for n in range(500)])
    assert [isinstance(each, QueueFull) for each in results] == [False] * room + [True] * (500 - room)
    assert len(store.there) == 1 + room
    assert len(store.calls) + len(store.looks) <= 22


async def test_who_asks_for_a_job_that_is_there_needs_no_room(coalescer, store):
    store.room[("q", None)] = 1
    store.there |= {"known", "key"}
    keyed = {"idempotency": Idempotency("k", 1_000)}
    batches = [(job(n),) for n in range(100)] + [(job("known"),), (job("key", **keyed),), (job("new key", **keyed),)]
    results = await gather_behind(coalescer, store, batches)
    assert all(isinstance(each, QueueFull) for each in results[:100])
    assert [each.job_id for reply in results[100:102] for each in reply] == ["known", "key"]
    assert isinstance(results[102], QueueFull)
    assert len(store.calls) <= 20


async def test_a_full_queue_or_lane_is_no_matter_of_the_others(coalescer, store):
    store.room |= {("q", None): 3, ("r", "t"): 0}
    batches = [
        (job("other", queue="s"),),
        (job("two", queue="q"), job("too many", queue="q"), job("of three", queue="q")),
        (job("lane", queue="r", lane="t"),),
        (job("other lane", queue="r", lane="u"), job("fits")),
        (job("fits, too"),),
        (job("late"),),
    ]
    results = await gather_behind(coalescer, store, batches)
    assert [isinstance(each, QueueFull) for each in results] == [False, True, True, False, False, True]
    assert [(each.queue, each.lane) for each in results if isinstance(each, QueueFull)][1] == ("r", "t")


async def test_another_refusal_behind_a_full_queue_is_its_callers_own(coalescer, store):
    store.room[("q", None)] = 3
    store.refuses["bad"] = KeyConflict("k", "other", "unique")
    results = await gather_behind(coalescer, store, [(job(name),) for name in ("a", "b", "c", "bad")])
    assert [type(each) for each in results] == [tuple, tuple, QueueFull, KeyConflict]


async def test_a_store_that_cannot_be_looked_at_is_asked_for_each(coalescer, store):
    async def away(ids):
        raise StoreUnavailable("away")

    coalescer._calls._look = away
    store.room[("q", None)] = 1
    results = await gather_behind(coalescer, store, [(job(n),) for n in range(8)])
    assert all(isinstance(each, QueueFull) for each in results)


async def test_error_of_the_first_call_is_its_own(coalescer, store):
    store.refuses["first"] = KeyConflict("k", "other", "unique")
    (reply,) = await gather_behind(coalescer, store, [(job("a"),)])
    assert [each.job_id for each in reply] == ["a"]


async def test_caller_cancelled_before_its_turn_is_never_sent(coalescer, store):
    store.gate.clear()
    first = asyncio.ensure_future(coalescer.submit((job("first"),)))
    await next_turn()
    gone, stays = (asyncio.ensure_future(coalescer.submit((job(name),))) for name in ("gone", "stays"))
    await next_turn()
    gone.cancel()
    await next_turn()
    store.gate.set()
    await asyncio.gather(first, stays)
    assert store.calls == [["first"], ["stays"]]


async def test_caller_cancelled_in_flight_leaves_the_others_their_replies(coalescer, store):
    store.gate.clear()
    first = asyncio.ensure_future(coalescer.submit((job("first"),)))
    await next_turn()
    gone, stays = (asyncio.ensure_future(coalescer.submit((job(name),))) for name in ("gone", "stays"))
    await next_turn()
    first_gate, store.gate = store.gate, asyncio.Event()
    first_gate.set()
    await first
    await next_turn()
    assert store.calls[-1] == ["gone", "stays"]
    gone.cancel()
    await next_turn()
    assert not stays.done()
    store.gate.set()
    assert [each.job_id for each in await stays] == ["stays"]
    assert gone.cancelled()


async def test_first_caller_cancelled_in_flight_lets_the_others_go(coalescer, store):
    store.gate.clear()
    first = asyncio.ensure_future(coalescer.submit((job("first"),)))
    await next_turn()
    other = asyncio.ensure_future(coalescer.submit((job("other"),)))
    await next_turn()
    first.cancel()
    store.gate.set()
    assert [each.job_id for each in await other] == ["other"]
    assert first.cancelled()


async def test_drain_returns_when_everything_was_sent(coalescer, store):
    await coalescer.drain()
    store.gate.clear()
    callers = [asyncio.ensure_future(coalescer.submit((job(n),))) for n in range(3)]
    await next_turn()
    draining = asyncio.ensure_future(coalescer.drain())
    await next_turn()
    assert not draining.done()
    store.gate.set()
    await draining
    assert sum(map(len, store.calls)) == 3
    await asyncio.gather(*callers)


# ── two calls beside each other ───────────────────────────────────────────────────────────────────────────────────────
async def waiting(coalescer, names):
    """Callers that have been let in as far as there is room."""
    callers = [asyncio.ensure_future(coalescer.submit((job(name),))) for name in names]
    for _ in range(3):
        await next_turn()
    return callers


async def test_few_callers_wait_for_the_call_in_flight(sharing, store):
    store.gate.clear()
    callers = await waiting(sharing, range(CROWD))
    assert store.in_flight == {2: 1}
    callers += await waiting(sharing, ["one more"])
    assert store.in_flight == {2: 1, 1: CROWD}
    store.gate.set()
    await asyncio.gather(*callers)


async def test_a_call_that_is_back_takes_no_few_along_while_the_other_is_away(sharing, store):
    store.gate.clear()
    first = await waiting(sharing, ["first"])
    back, store.gate = store.gate, asyncio.Event()
    others = await waiting(sharing, range(CROWD))
    few = await waiting(sharing, ["few"])
    back.set()
    await asyncio.gather(*first)
    for _ in range(3):
        await next_turn()
    assert store.in_flight == {1: CROWD}
    store.gate.set()
    await asyncio.gather(*others, *few)
    assert store.calls[-1] == ["few"]


async def test_many_callers_are_shared_out_over_two_calls_and_stay_so(sharing, store):
    answer, held = sharing._send, []

    async def answers_when_told(op, jobs):
        told = asyncio.Event()
        held.append((told, len(jobs)))
        await told.wait()
        return await answer(op, jobs)

    async def caller(n):
        for _ in range(5):
            (reply,) = await sharing.submit((job(n),))
            assert reply.job_id == str(n)

    sharing._send = sharing._calls._send = answers_when_told
    callers = asyncio.gather(*(caller(n) for n in range(4 * CROWD)))
    seen = []
    while not callers.done():
        for _ in range(5):
            await next_turn()
        seen.append([size for _, size in held])
        if held:
            told, _ = held.pop(0)
            told.set()
    await callers
    assert seen[:5] == [[1, 2 * CROWD], *[[2 * CROWD, 2 * CROWD]] * 4]
    assert sum(map(len, store.calls)) == 5 * 4 * CROWD


async def test_the_jobs_of_one_caller_are_never_shared_out(sharing, store):
    store.gate.clear()
    first = await waiting(sharing, ["first"])
    many = asyncio.ensure_future(sharing.submit(tuple(job(n) for n in range(200))))
    others = await waiting(sharing, [f"other {n}" for n in range(CROWD - 1)])
    store.gate.set()
    assert [each.job_id for each in await many] == [str(n) for n in range(200)]
    await asyncio.gather(*first, *others)
    assert [len(call) for call in store.calls] == [1, 200 + CROWD - 1]


async def test_a_call_that_fails_leaves_the_one_beside_it_alone(sharing, store):
    store.refuses["first"] = StoreUnavailable("no", "refused")
    store.gate.clear()
    (first,) = await waiting(sharing, ["first"])
    others = await waiting(sharing, range(CROWD))
    assert len(store.in_flight) == 2
    store.gate.set()
    assert all(await asyncio.gather(*others))
    with pytest.raises(StoreUnavailable):
        await first


async def test_drain_waits_for_both_calls(sharing, store):
    store.gate.clear()
    callers = await waiting(sharing, range(1 + CROWD))
    draining = asyncio.ensure_future(sharing.drain())
    held, store.gate = store.gate, asyncio.Event()
    callers += await waiting(sharing, ["late"])
    held.set()
    for _ in range(5):
        await next_turn()
    assert store.in_flight
    assert not draining.done()
    store.gate.set()
    await draining
    assert sum(map(len, store.calls)) == 2 + CROWD
    await asyncio.gather(*callers)


@pytest.mark.parametrize("error", [StoreBusy("locked"), StoreUnavailable("silent")])
async def test_who_waited_behind_a_call_that_got_no_answer_is_told_with_it(coalescer, store, error):
    """Not one call after the other, each for as long again."""
    store.refuses["0"] = error
    replies = await gather_behind(coalescer, store, [(job(n),) for n in range(3 * ITEMS_MAX)])
    assert {type(each) for each in replies} == {type(error)}
    assert {name for call in store.calls for name in call} == {"first", *(str(n) for n in range(ITEMS_MAX))}
    if isinstance(error, StoreUnavailable):
        assert [each.outcome for each in replies] == ["unknown"] * ITEMS_MAX + ["refused"] * 2 * ITEMS_MAX
        assert "was not sent (silent)" in replies[-1].message
    (reply,) = await coalescer.submit((job("later"),))
    assert reply.job_id == "later"
    await coalescer.drain()


async def test_who_came_while_a_call_got_no_answer_is_tried(coalescer, store):
    store.refuses["slow"] = StoreBusy("locked")
    coming: list[asyncio.Future[Any]] = []
    really_send = store.send

    async def send(op, jobs):
        if not coming and jobs[0].id == "slow":
            coming.append(asyncio.ensure_future(coalescer.submit((job("later"),))))
        return await really_send(op, jobs)

    coalescer._calls._send = send
    (reply,) = await gather_behind(coalescer, store, [(job("slow"),)])
    assert isinstance(reply, StoreBusy)
    assert (await coming[0])[0].job_id == "later"


async def test_a_refusal_at_once_is_nobody_elses(coalescer, store):
    """No time was lost: the next call may find the store."""
    store.refuses["0"] = StoreUnavailable("nobody listens", outcome="refused")
    replies = await gather_behind(coalescer, store, [(job(n),) for n in range(ITEMS_MAX + 1)])
    assert [type(each) for each in replies[:ITEMS_MAX]] == [StoreUnavailable] * ITEMS_MAX
    assert replies[ITEMS_MAX][0].job_id == str(ITEMS_MAX)
