"""Names may hold what means something to Redis, to Lua or to our own keys: none of them meets another one."""

from __future__ import annotations

import itertools

import pytest

from psyqueue.backend import (
    Dependency,
    Effects,
    Fetch,
    Filter,
    Gate,
    Idempotency,
    Limits,
    NewJob,
    Op,
    Record,
    Session,
    StateWrite,
    Unique,
)
from support.store_at import place_on, store_at

NAMES = (
    "a",
    "a:b",
    "a:b:c",
    ":",
    "b",
    "*",
    "?",
    "[a]",
    "{a}",
    "}a{",
    "%s",
    "\\",
    "a b",
    "ä€😀",
    "A",
    "1",
    "-1",
    "1:a",
    "meta",
    "queues",
    "x" * 200,
)
BODY = b"{}"


@pytest.fixture
async def backend(redis_server, namespace):
    made = store_at(place_on(redis_server.url, f"{namespace}:"), test_clock=True).adapter
    await made.connect()
    yield made
    await made.disconnect()


@pytest.fixture
def op():
    turns = itertools.count(1)
    return lambda: Op("client:1", 0, next(turns))


def beside(name: str, number: int) -> str:
    """Another name, no longer than names may be."""
    return f"{number}{name}"[:200]


def job_of(name: str, job_id: str, **fields) -> NewJob:
    return NewJob(id=job_id, queue=name, name="work", payload=BODY, digest=job_id.encode(), **fields)


async def test_everything_may_have_the_same_name_and_none_meets_another(backend, op):
    """Queue, lane, job, unique and idempotency key, gate, stream, state key, lock and session."""
    for name in NAMES:
        await backend.put_limits(op(), (Limits(queue=name), Limits(queue=name, lane=name, weight=2)))
        first = job_of(
            name, name, lane=name, unique=Unique(name), idempotency=Idempotency(name), gate=Gate(name, 1), priority=1
        )
        second = job_of(name, beside(name, 2), needs=(Dependency(name),))
        third = job_of(name, beside(name, 3), gate=Gate(name, 1))
        effects = Effects((), (StateWrite(kind="put", key=name, value=name.encode()),), (Record(name, name.encode()),))
        made = await backend.enqueue(op(), (first, second, third), effects)
        assert [(each.created, each.status) for each in made] == [
            (True, "pending"),
            (True, "waiting"),
            (True, "waiting"),
        ]
        assert (await backend.lock(op(), name, name, 1_000)).fence == 1
    for name in NAMES:
        (found,), _ = await backend.queues(name, None, 1)
        assert (found.queue, found.counts["pending"], found.counts["waiting"]) == (name, 1, 2)
        (item,) = await backend.read_state((name,))
        assert item.value == name.encode()
        assert [each.body for each in await backend.read_records(name, 0, 10)] == [name.encode()]
        page = await backend.list_jobs(Filter(queues=(name,)), None, 10)
        assert {view.job.id for view in page.jobs} == {name, beside(name, 2), beside(name, 3)}
        assert (await backend.lock(op(), name, "another", 1_000)).holder == name
    assert (await backend.check(None, 500))[0] == ()


async def test_a_worker_of_one_name_gets_and_ends_the_jobs_of_that_name_alone(backend, op):
    from psyqueue.backend import Ack

    for name in NAMES:
        parent = job_of(name, name, lane=name, gate=Gate(name, 1))
        await backend.enqueue(op(), (parent, job_of(name, beside(name, 2), needs=(Dependency(name),))))
    for number, name in enumerate(NAMES):
        session = f"{name}:s"
        await backend.open_session(op(), Session(id=session, worker=name, queues=(name,), lease_ms=60_000))
        fetch = Fetch(queues=(name,), count=10, token_seed=f"{number:032x}")
        (delivery,) = (await backend.settle(op(), session, (), fetch)).deliveries
        assert (delivery.id, delivery.queue, delivery.lane) == (name, name, name)
        ack = Ack(job_id=name, completion_token=delivery.completion_token, result=BODY)
        again = Fetch(queues=(name,), count=10, token_seed=f"{number + 1_000:032x}")
        reply = await backend.settle(op(), session, (ack,), again)
        assert [each.verdict for each in reply.settled] == ["ok"]
        assert [each.id for each in reply.deliveries] == [beside(name, 2)], "its need was met"
    assert (await backend.check(None, 500))[0] == ()


@pytest.mark.parametrize("name", NAMES)
async def test_a_signal_wakes_who_waits_for_that_queue(backend, op, name):
    other = "other" if name != "other" else "others"
    assert not await backend.wait((name,), (), 1)
    await backend.enqueue(op(), (job_of(other, "o"),))
    await backend.enqueue(op(), (job_of(name, "j"),))
    assert await backend.wait((name,), (), 20_000)
