"""Bounds: what is too much or makes no sense is refused at the door, and nothing of it is done."""

from __future__ import annotations

from typing import Any

import pytest

from psyqueue.backend import Change, Dependency, Effects, Fetch, Filter, Gate, Idempotency, Record, Unique
from psyqueue.errors import InvalidOption, TooLarge
from psyqueue.testing.conformance.handle import Store, ack, add, job, keep, put, take

MIB = 1 << 20
TOO_MANY = 501


async def test_more_than_500_jobs_a_call_are_refused(store: Store) -> None:
    jobs = [job(f"{number}") for number in range(TOO_MANY)]
    with pytest.raises(TooLarge):
        await store.enqueue(*jobs)
    with pytest.raises(TooLarge):
        await store.enqueue(*jobs[:300], effects=Effects(jobs=tuple(jobs[300:])))
    assert await store.walk(Filter()) == []


async def test_more_than_8_mib_a_call_are_refused(store: Store) -> None:
    big = [job(f"{number}", payload=b"x" * MIB) for number in range(9)]
    with pytest.raises(TooLarge):
        await store.enqueue(*big)
    with pytest.raises(TooLarge):
        await store.write(*(put(f"{number}", b"x" * MIB) for number in range(9)))
    assert await store.walk(Filter()) == []
    await store.enqueue(*big[:7])


async def test_results_and_effects_count_as_bytes(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    with pytest.raises(TooLarge):
        await store.ack(delivery, b"x" * (9 * MIB))
    with pytest.raises(TooLarge):
        await store.ack(delivery, effects=Effects(records=(Record("r", b"x" * (9 * MIB)),)))
    assert await store.status("a") == "active"


async def test_more_than_500_outcomes_and_effects_a_call_are_refused(store: Store) -> None:
    await store.add("a")
    delivery = await store.dequeue_one()
    with pytest.raises(TooLarge):
        await store.settle(*[keep(delivery)] * TOO_MANY)
    with pytest.raises(TooLarge):
        await store.ack(delivery, effects=Effects(writes=(add("n"),) * 500))
    assert await store.status("a") == "active"
    assert await store.read("n") is None


@pytest.mark.parametrize("count", [-1, TOO_MANY, 1 << 40])
async def test_a_count_out_of_bounds_dequeues_nothing(store: Store, count: int) -> None:
    """In the reference a count of -1 makes a whole queue active."""
    await store.fill(3)
    await store.open_session()
    with pytest.raises(TooLarge):
        await store.backend.settle(store.op(), "s", (), Fetch(queues=("q",), count=count, token_seed="0" * 32))
    assert await store.count("pending") == 3


@pytest.mark.parametrize("limit", [-1, 0, TOO_MANY])
async def test_a_limit_out_of_bounds_is_refused_by_every_verb(store: Store, limit: int) -> None:
    backend = store.backend
    for call in (
        lambda: backend.reap(limit),
        lambda: backend.promote(("q",), limit),
        lambda: backend.prune(limit),
        lambda: backend.list_jobs(Filter(), None, limit),
        lambda: backend.queues("", None, limit),
        lambda: backend.sessions(None, limit),
        lambda: backend.amend(store.op(), Filter(), Change(kind="cancel"), None, limit),
        lambda: backend.lane_limits("q", "", None, limit),
        lambda: backend.list_schedules(None, limit),
        lambda: backend.scan_state("", None, limit),
        lambda: backend.read_records("r", 0, limit),
    ):
        with pytest.raises(TooLarge):
            await call()


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 1_000_001},
        {"priority": -1_000_001},
        {"gate": Gate("g", 0)},
        {"gate": Gate("", 1)},
        {"gate": Gate("g" * 513, 1)},
        {"unique": Unique("")},
        {"unique": Unique("u" * 513)},
        {"unique": Unique("u", ("active",))},
        {"idempotency": Idempotency("")},
        {"idempotency": Idempotency("i" * 513)},
        {"needs": (Dependency("good"), Dependency("good", ("dead",)))},
    ],
    ids=repr,
)
async def test_a_job_that_no_store_could_hold_is_refused(store: Store, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        await store.enqueue(job("good"), job("bad", **fields))
    with pytest.raises(InvalidOption):
        await store.enqueue(job("good"), effects=Effects(jobs=(job("bad", **fields),)))
    assert await store.statuses("good", "bad") == [None, None]


@pytest.mark.parametrize("job_id", ["", "x" * 201])
async def test_an_id_has_1_to_200_characters(store: Store, job_id: str) -> None:
    with pytest.raises(InvalidOption):
        await store.add(job_id)
    assert (await store.add("x" * 200)).created


@pytest.mark.parametrize("fields", [{"job_id": "a\nb"}, {"job_id": "a", "queue": "q\nr"}], ids=["id", "queue"])
async def test_an_id_and_a_queue_hold_no_line_feed(store: Store, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        await store.enqueue(job("good"), job(**fields))
    with pytest.raises(InvalidOption):
        await store.enqueue(effects=Effects(jobs=(job(**fields),)))
    await store.add("good")
    assert await store.dequeue_ids() == ["good"]


async def test_a_take_beyond_its_bucket_is_refused(store: Store) -> None:
    for number, capacity in ((2, 1), (-1, 1)):
        with pytest.raises(InvalidOption):
            await store.write(take("t", number, capacity=capacity))
    assert await store.read("t") is None


async def test_keys_of_512_characters_are_kept(store: Store) -> None:
    key = "🚚" * 512
    fields: dict[str, Any] = {"unique": Unique(key), "idempotency": Idempotency(key), "gate": Gate(key)}
    await store.add("a", **fields)
    found = (await store.view("a")).job
    assert (found.unique, found.idempotency, found.gate) == tuple(fields.values())
    assert (await store.enqueue(job("b", unique=Unique(key))))[0].job_id == "a"


async def test_what_stands_exactly_at_a_bound_is_taken(store: Store) -> None:
    await store.enqueue(*(job(f"{number}") for number in range(400)), effects=Effects(writes=(add("n"),) * 100))
    deliveries = await store.dequeue(count=500)
    assert len(deliveries) == 400
    reply = await store.settle(*(ack(each) for each in deliveries), fetch=store.fetch(count=500))
    assert {each.verdict for each in reply.settled} == {"ok"}
